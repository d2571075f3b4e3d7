"""`lightship gateway`: endpoints that run already, behind one gateway that reloads its spec."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightship.artifacts.home import data_home
from lightship.cli.gateway_config import gateway_config
from lightship.cli.gateway_endpoints import (
    Endpoint,
    ListedModel,
    UnreachableEndpointError,
    endpoints_of_arguments,
    endpoints_of_spec,
    list_models,
    plan_replicas,
)
from lightship.cli.load_spec import DEFAULT_FILE, load_spec
from lightship.cli.run_state import ReplicaState, RunState, published
from lightship.cli.tables import print_table
from lightship.errors import NetworkError, UsageError
from lightship.gateway.config import GatewayConfig, config_problems, encode_config
from lightship.gateway.dispatch.config import RungFacts
from lightship.gateway.operation.supervisor import Supervisor
from lightship.gateway.operation.tls import tls_context
from lightship.gateway.operation.worker import address_of, allow_many_connections, make_state_folder
from lightship.gateway.runtime import check_api_keys
from lightship.observability.logs import configure_logging
from lightship.ports.clock import SystemClock
from lightship.serving.scheduling import yield_to_computation
from lightship.serving.server import bind_socket
from lightship.spec.document import Spec
from lightship.spec.load import LoadedSpec, Origin

_log = logging.getLogger("lightship.gateway")
# What a gateway has no use for: it makes, measures and starts nothing.
_UNUSED_SECTIONS = frozenset({"model", "variants", "engines", "ladder", "replicas", "measurement", "cost", "deploy"})


@dataclass
class GatewaySource:
    """Where the configuration of a gateway comes from: a command line, a spec file, and the endpoints themselves.

    `listings` is what endpoints said last; one that is not reachable at a reload is taken to serve what it did.
    """

    args: argparse.Namespace
    environment: Mapping[str, str]
    listings: dict[str, list[ListedModel]] = field(default_factory=dict)
    had_file: bool = False

    @property
    def files(self) -> list[Path]:
        """The files to watch."""
        return [self.args.file or DEFAULT_FILE]

    async def load(self, *, is_reload: bool = False) -> tuple[GatewayConfig, LoadedSpec]:
        """The configuration as it is now.

        Raises: LightshipError: the spec is not acceptable, an endpoint does not say what it serves, a key is missing.
        """
        loaded = await asyncio.to_thread(self._load_spec, is_reload=is_reload)
        endpoints = self._endpoints(loaded.spec)
        await self._ask([one for one in endpoints if one.needs_listing], is_reload=is_reload)
        replicas = plan_replicas(endpoints, self.listings, is_one_ladder=bool(self.args.rungs))
        spec = loaded.spec
        home = data_home(self.environment)
        config = gateway_config(spec, replicas, port=spec.gateway.listen.port, home=home)
        config = msgspec.structs.replace(config, model_name=replicas[0].served_model)
        if any(path.startswith("slo.") for path in _set_paths(loaded)):
            config = _with_promise(config, spec)
        if problems := list(config_problems(config)):
            raise UsageError("; ".join(problems), hint="Correct the spec or the command line.")
        check_api_keys(config, self.environment)
        if config.server.tls is not None:
            tls_context(config.server.tls)
        return config, loaded

    async def reload(self) -> GatewayConfig:
        """The configuration for a gateway that runs. Raises: LightshipError: see `load`."""
        config, _ = await self.load(is_reload=True)
        return config

    def _load_spec(self, *, is_reload: bool) -> LoadedSpec:
        file: Path | None = self.args.file
        if is_reload and self.had_file:
            _refuse_lost(file or DEFAULT_FILE)
        self.had_file = self.had_file or (file or DEFAULT_FILE).exists()
        overrides = [*self.args.overrides]
        for path, value in (("gateway.listen", self.args.listen), ("gateway.workers", self.args.workers)):
            if value is not None:
                overrides.append(f"{path}={value}")
        return load_spec(argparse.Namespace(file=file, overrides=overrides))

    def _endpoints(self, spec: Spec) -> list[Endpoint]:
        args = self.args
        named = endpoints_of_arguments(args.endpoints, args.rungs, name=args.name, api_key_env=args.api_key_env)
        if named:
            return named
        if args.name or args.api_key_env:
            flag = "--name" if args.name else "--api-key-env"
            raise UsageError("it is about endpoints on the command line, and there are none", where=flag)
        return endpoints_of_spec(spec.upstreams)

    async def _ask(self, endpoints: Sequence[Endpoint], *, is_reload: bool) -> None:
        for endpoint in endpoints:
            try:
                self.listings.update(await list_models([endpoint], self.environment))
            except NetworkError as error:
                if not is_reload or endpoint.base_url not in self.listings:
                    raise
                _log.warning("%s; it is taken to serve what it did", error)


def _refuse_lost(file: Path) -> None:
    """Raises: UsageError: the spec is gone or empty, which would mean defaults: no keys, no limits."""
    try:
        is_lost = not file.read_bytes().strip()
    except OSError:
        is_lost = True
    if is_lost:
        what = "the spec is gone or empty, which at a reload is taken for an accident"
        raise UsageError(what, where=str(file), hint="To serve with defaults, write a comment into it.")


def _with_promise(config: GatewayConfig, spec: Spec) -> GatewayConfig:
    """The configuration with the spec's SLO for every ladder; without one the queue is bounded by its defaults only."""
    ladders = {
        model: msgspec.structs.replace(
            ladder,
            ttft_s=spec.slo.ttft_ms / 1000,
            tpot_s=spec.slo.tpot_ms / 1000,
            attainment=spec.slo.attainment,
        )
        for model, ladder in config.complete_dispatch.ladders.items()
    }
    return msgspec.structs.replace(config, dispatch=msgspec.structs.replace(config.dispatch, ladders=ladders))


def run_gateway(args: argparse.Namespace) -> int:
    """`lightship gateway` with parsed arguments; returns the exit code."""
    configure_logging(component="gateway")
    if args.json and not args.check:
        raise UsageError("it belongs to --check", where="--json")
    source = GatewaySource(args, os.environ)
    config, loaded = asyncio.run(source.load())
    _tell_unused(loaded)
    if args.check:
        _show(config, is_json=args.json)
        return 0
    listener = bind_socket(config.host, config.port)
    make_state_folder(config)
    allow_many_connections()
    yield_to_computation()
    asyncio.run(_serve(config, source, listener))
    _log.info("stopped")
    return 0


async def _serve(config: GatewayConfig, source: GatewaySource, listener: socket.socket) -> None:
    await _tell_unreachable(config, source)
    url = _local_url(address_of(config, listener))
    state = _state(config, url)
    with ExitStack() as while_serving:

        def on_started() -> None:
            while_serving.enter_context(published(lambda: state, data_home(source.environment)))
            _greet(config, url)

        supervisor = Supervisor(
            config, listener, load=source.reload, files=source.files, on_started=on_started, clock=SystemClock()
        )
        await supervisor.run()


async def _tell_unreachable(config: GatewayConfig, source: GatewaySource) -> None:
    """Says which endpoints are not there yet: the gateway serves without them, and is ready when they are."""
    endpoints = [
        Endpoint(one.name, one.base_url, one.model_name, api_key_env=one.api_key_env)
        for one in config.replicas
        if one.base_url not in source.listings
    ]
    for endpoint in endpoints:
        try:
            await list_models([endpoint], source.environment)
        except UnreachableEndpointError as error:
            _log.warning("%s: %s; it is asked again every %g s", endpoint.name, error.what, config.health_interval_s)
        except NetworkError:
            continue  # it answers; that it does not list its models is no fault


def _tell_unused(loaded: LoadedSpec) -> None:
    unused = [
        path
        for path in _set_paths(loaded)
        if path.split(".")[0] in _UNUSED_SECTIONS or path.startswith("gateway.waking.")
    ]
    if unused:
        _log.warning("set, but without meaning for a gateway alone: %s", ", ".join(unused))


def _set_paths(loaded: LoadedSpec) -> list[str]:
    return [path for path, origin in loaded.origins.items() if origin is not Origin.DEFAULT]


def _show(config: GatewayConfig, *, is_json: bool) -> None:
    """Prints what would be served."""
    if is_json:
        sys.stdout.write(encode_config(config).decode())
        return
    server = config.server
    settings = {
        "listen": f"{config.host}:{config.port}" + (" (TLS)" if server.tls else ""),
        "processes": str(server.workers),
        "web pages": ", ".join(server.cors.origins) if server.cors else "none may call it",
        "access log": (server.access_log.file or "stderr") if server.access_log.is_enabled else "off",
        "state": config.state.redis_url.partition("@")[2] or config.state.folder or "memory",
    }
    for name, value in settings.items():
        sys.stdout.write(f"{name + ':':<12} {value}\n")
    table = Table("model", "rung", "variant", "quality loss", "endpoint", "model there")
    for model in config.served_models:
        ladder = config.complete_dispatch.ladders[model]
        on_ladder = [one for one in config.replicas if config.served_model_of(one) == model]
        for one in sorted(on_ladder, key=lambda one: one.rung):
            loss = _loss(ladder.rungs[one.rung]) if one.rung else "-"
            row = (model, str(one.rung), one.variant_name, loss, one.base_url, one.model_name)
            table.add_row(*row)
    print_table(table)


def _loss(rung: RungFacts) -> str:
    return "not measured" if rung.quality_loss is None else f"{rung.quality_loss:.2%}"


def _state(config: GatewayConfig, url: str) -> RunState:
    return RunState(
        pid=os.getpid(),
        model=", ".join(config.served_models),
        gateway_url=url,
        report_path="",
        started_unix_s=SystemClock().unix_s(),
        replicas=[ReplicaState(one.name, one.base_url, one.variant_name, 0) for one in config.replicas],
    )


def _local_url(address: str) -> str:
    """The address as this machine reaches it."""
    return address.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def _greet(config: GatewayConfig, url: str) -> None:
    """Prints where it is served and a command to try it."""
    model = config.served_models[0]
    message = {"role": "user", "content": "Tell me a story."}
    body = msgspec.json.encode({"model": model, "stream": True, "max_tokens": 200, "messages": [message]}).decode()
    insecure = "-k " if url.startswith("https") else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{escape(url)}/v1[/]  models [bold]{escape(', '.join(config.served_models))}[/]")
    command = (
        f"curl -N {insecure}{url}/v1/chat/completions -H 'content-type: application/json' \\\n  -d {shlex.quote(body)}"
    )
    console.print(command, markup=False)
    console.print(
        "\nSIGHUP or a change of the spec reloads it; Ctrl-C finishes what is under way and stops.", style="dim"
    )
