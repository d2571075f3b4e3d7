"""What one gateway process needs to know, written as JSON by whoever starts it and read once.

Not what a user writes: that is the spec, from which this is made.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lightship.errors import UsageError
from lightship.gateway.activation.config import ActivationConfig, activation_problems
from lightship.gateway.cache.config import CacheConfig, cache_problems
from lightship.gateway.cluster.config import ClusterConfig, cluster_problems
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts, dispatch_problems
from lightship.gateway.routing.config import RoutingConfig, routing_problems
from lightship.gateway.server_config import ServerConfig, server_problems
from lightship.gateway.state import StateConfig, state_problems
from lightship.gateway.tenants.config import TenantsConfig, tenants_problems
from lightship.ports.engine import HopTimeouts

# What may stand in a header or a metric label without quoting.
_PLAIN_NAME = re.compile(r"[!-~]{1,256}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class ReplicaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One running engine.

    `model_name` is what it calls its model; `served_model` the name clients send for it, by default the gateway's own;
    `rung` its place on the ladder of that name, 0 at the top. An empty `variant_digest` means that the replica itself
    says which variant it serves. `api_key_env` names the environment variable that holds its key.

    The rest is for `routing`: `max_concurrency` bounds the attempts under way, of all processes; replicas with the same
    `device` share its capacity, "" is a device of its own; `weight` is its capacity in relation to its peers. The rates
    are the whole replica's at its usual concurrency; None takes those of `RoutingConfig`.
    """

    name: str
    base_url: str
    model_name: str
    variant_name: str
    variant_digest: str = ""
    rung: int = 0
    context_length: int | None = None
    served_model: str = ""
    api_key_env: str = ""
    max_concurrency: int | None = None
    device: str = ""
    weight: float = 1.0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about one gateway process; all limits are finite.

    `model_name` is the name clients send for replicas that name no other one. `retry_budget_share` bounds retries in
    relation to requests. `max_in_flight` bounds requests under way, and with `body_limit_bytes` the memory they take.
    `activation` is about replicas that a supervisor on this machine starts, `cluster` about Pods that come and go;
    without either, replicas are where `replicas` says and nobody starts them.
    """

    model_name: str
    replicas: tuple[ReplicaConfig, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    timeouts: HopTimeouts = HopTimeouts(connect_s=5.0, first_token_s=60.0, next_token_s=30.0, total_s=600.0)
    max_attempts: int = 3
    retry_budget_share: float = 0.1
    max_in_flight: int = 4096
    body_limit_bytes: int = 8 * 2**20
    body_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    health_interval_s: float = 1.0
    dispatch: DispatchConfig = DispatchConfig()
    cache: CacheConfig | None = None
    tenants: TenantsConfig = TenantsConfig()
    routing: RoutingConfig = RoutingConfig()
    state: StateConfig = StateConfig()
    server: ServerConfig = ServerConfig()
    activation: ActivationConfig | None = None
    cluster: ClusterConfig | None = None

    @property
    def declared(self) -> tuple[ReplicaConfig, ...]:
        """The replicas, and one for each rung whose replicas the cluster says: what there is, running or not."""
        if self.cluster is None:
            return self.replicas
        running = {(self.served_model_of(one), one.rung) for one in self.replicas}
        asleep = (
            ReplicaConfig(
                name=pool.deployment,
                base_url=f"http://{pool.deployment}:{pool.port}",
                model_name=pool.model_name,
                variant_name=pool.variant_name,
                variant_digest=pool.variant_digest,
                rung=pool.rung,
                context_length=pool.context_length,
                served_model=pool.served_model,
            )
            for pool in self.cluster.pools
            if (pool.served_model, pool.rung) not in running
        )
        return (*self.replicas, *asleep)

    @property
    def served_models(self) -> tuple[str, ...]:
        """The names clients send, each once, in the order of the replicas."""
        return tuple(dict.fromkeys(self.served_model_of(replica) for replica in self.declared))

    def served_model_of(self, replica: ReplicaConfig) -> str:
        """The name clients send for this replica's model."""
        return replica.served_model or self.model_name

    @property
    def complete_dispatch(self) -> DispatchConfig:
        """`dispatch` with a ladder for every served model: one that is not described has rungs of unknown quality."""
        ladders = {model: self.dispatch.ladders.get(model) or self._plain_ladder(model) for model in self.served_models}
        return msgspec.structs.replace(self.dispatch, ladders=ladders)

    def _plain_ladder(self, model: str) -> LadderConfig:
        rungs = {one.rung: one for one in self.declared if self.served_model_of(one) == model}
        return LadderConfig(
            rungs=tuple(
                RungFacts(
                    variant_name=replica.variant_name,
                    variant_digest=replica.variant_digest,
                    device=replica.device or f"rung-{rung}",
                    quality_loss=None if rung else 0.0,
                )
                for rung, replica in sorted(rungs.items())
            )
        )


def read_config(path: Path) -> GatewayConfig:
    """The configuration in a JSON file, checked.

    Raises: UsageError: not readable, not JSON, an unknown or missing key, or a value that makes no sense.
    """
    try:
        return decode_config(path.read_bytes(), where=str(path))
    except OSError as error:
        raise UsageError(f"the gateway's configuration cannot be read: {error.strerror}", where=str(path)) from error


def decode_config(data: bytes, *, where: str) -> GatewayConfig:
    """The configuration in a JSON text, checked.

    Raises: UsageError: see `read_config`.
    """
    try:
        config = msgspec.json.decode(data, type=GatewayConfig)
        _refuse_unknown_timeouts(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not a gateway configuration: {error}", where=where) from error
    if problems := list(config_problems(config)):
        raise UsageError("; ".join(problems), where=where, hint="Correct the configuration.")
    return config


def encode_config(config: GatewayConfig) -> bytes:
    """The JSON text `read_config` reads."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def _refuse_unknown_timeouts(document: dict[str, Any]) -> None:
    unknown = set(document.get("timeouts", {})) - {field.name for field in fields(HopTimeouts)}
    if unknown:
        raise msgspec.ValidationError(f"Object contains unknown field `{min(unknown)}` - at `$.timeouts`")


def config_problems(config: GatewayConfig) -> Iterable[str]:
    """What is wrong with a configuration, each as `key: what was expected, what it is`."""
    yield from _number_problems(config)
    if not _PLAIN_NAME.fullmatch(config.model_name):
        yield f"model_name: must be plain printable text without spaces, got {config.model_name!r}"
    if not config.declared:
        yield "replicas: must name at least one replica"
    for position, replica in enumerate(config.replicas):
        yield from (f"replicas[{position}].{problem}" for problem in _replica_problems(replica))
    yield from _repeated_names(config.replicas)
    for model in config.served_models:
        on_ladder = [replica for replica in config.declared if config.served_model_of(replica) == model]
        place = f"replicas of {model}" if len(config.served_models) > 1 else "replicas"
        yield from (f"{place}: {problem}" for problem in _ladder_problems(on_ladder))
    yield from _ambiguous_names(config)
    yield from (f"dispatch.{problem}" for problem in dispatch_problems(config.dispatch))
    yield from _described_ladder_problems(config)
    if config.cluster is not None:
        yield from (f"cluster.{problem}" for problem in cluster_problems(config.cluster))
        if config.activation is not None and config.activation.control_socket:
            yield "cluster: replicas are started by a supervisor on this machine, or by a cluster, not by both"
    if config.activation is not None:
        yield from (f"activation.{problem}" for problem in activation_problems(config.activation))
    if config.cache is not None:
        yield from (f"cache.{problem}" for problem in cache_problems(config.cache))
    yield from (f"routing.{problem}" for problem in routing_problems(config.routing))
    yield from (f"tenants.{problem}" for problem in tenants_problems(config.tenants))
    yield from (f"state.{problem}" for problem in state_problems(config.state))
    yield from (f"server.{problem}" for problem in server_problems(config.server))
    if config.server.workers > 1 and not config.state.folder and not config.state.redis_url:
        yield "state: several processes need a folder or a redis_url, or each would have limits and budgets of its own"


def _described_ladder_problems(config: GatewayConfig) -> Iterable[str]:
    for model, ladder in config.dispatch.ladders.items():
        num_rungs = len({one.rung for one in config.declared if config.served_model_of(one) == model})
        if num_rungs != len(ladder.rungs):
            yield f"dispatch.ladders.{model}: describes {len(ladder.rungs)} rungs, and the replicas have {num_rungs}"


def _number_problems(config: GatewayConfig) -> Iterable[str]:
    durations = {f"timeouts.{field.name}": getattr(config.timeouts, field.name) for field in fields(HopTimeouts)}
    durations |= {name: getattr(config, name) for name in ("body_timeout_s", "health_interval_s")}
    for name, duration_s in durations.items():
        if not 0 < duration_s < math.inf:
            yield f"{name}: must be above 0 and finite, got {duration_s:g}"
    if not 0 <= config.drain_timeout_s < math.inf:
        yield f"drain_timeout_s: must be at least 0 and finite, got {config.drain_timeout_s:g}"
    for name in ("max_attempts", "max_in_flight", "body_limit_bytes"):
        if getattr(config, name) < 1:
            yield f"{name}: must be at least 1, got {getattr(config, name)}"
    if not 0 <= config.retry_budget_share <= 1:
        yield f"retry_budget_share: must be within 0 and 1, got {config.retry_budget_share:g}"
    if not 0 <= config.port <= 65535:
        yield f"port: must be within 0 and 65535, got {config.port}"


def _replica_problems(replica: ReplicaConfig) -> Iterable[str]:
    if replica.served_model and not _PLAIN_NAME.fullmatch(replica.served_model):
        yield f"served_model: must be plain printable text without spaces, got {replica.served_model!r}"
    if replica.api_key_env and not _VARIABLE_NAME.fullmatch(replica.api_key_env):
        yield "api_key_env: must be the name of an environment variable, not the key itself"  # which is not repeated
    for key in ("name", "model_name", "variant_name"):
        if not _PLAIN_NAME.fullmatch(getattr(replica, key)):
            yield f"{key}: must be plain printable text without spaces, got {getattr(replica, key)!r}"
    if replica.variant_digest and not _PLAIN_NAME.fullmatch(replica.variant_digest):
        yield f"variant_digest: must be plain printable text without spaces, got {replica.variant_digest!r}"
    if not _is_http_url(replica.base_url):
        yield f"base_url: must be an http or https address with a host, got {replica.base_url!r}"
    if replica.rung < 0:
        yield f"rung: must be at least 0, got {replica.rung}"
    if replica.device and not _PLAIN_NAME.fullmatch(replica.device):
        yield f"device: must be plain printable text without spaces, got {replica.device!r}"
    if replica.max_concurrency is not None and replica.max_concurrency < 1:
        yield f"max_concurrency: must be at least 1, got {replica.max_concurrency}"
    for key in ("weight", "prefill_tokens_per_s", "decode_tokens_per_s"):
        value = getattr(replica, key)
        if value is not None and not 0 < value < math.inf:
            yield f"{key}: must be above 0 and finite, got {value:g}"


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises when it is not a port number
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.fragment


def _repeated_names(replicas: Iterable[ReplicaConfig]) -> Iterable[str]:
    counts = Counter(replica.name for replica in replicas)
    yield from (f"replicas: the name {name!r} is given {count} times" for name, count in counts.items() if count > 1)


def _ambiguous_names(config: GatewayConfig) -> Iterable[str]:
    """Problems of names that would lead to one model's rung and to another model alike."""
    explicit = {f"{config.served_model_of(replica)}@{replica.variant_name}" for replica in config.declared}
    for model in config.served_models:
        if model in explicit:
            yield f"replicas: {model!r} is the name of a model and of another model's variant"


def _ladder_problems(replicas: Iterable[ReplicaConfig]) -> Iterable[str]:
    variants: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for replica in replicas:
        variants[replica.rung].add((replica.variant_name, replica.variant_digest))
    if variants and sorted(variants) != list(range(len(variants))):
        yield f"rungs must be 0, 1, 2, ... without a gap, got {sorted(variants)}"
    rung_of: dict[str, int] = {}
    for rung, on_rung in sorted(variants.items()):
        if len(on_rung) > 1:
            yield f"rung {rung} mixes variants {sorted(name for name, _ in on_rung)}; a rung serves one"
        for name in sorted({name for name, _ in on_rung}):
            if rung_of.setdefault(name, rung) != rung:
                yield f"variant {name!r} is on rungs {rung_of[name]} and {rung}; one name, one rung"
