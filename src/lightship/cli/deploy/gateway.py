"""The gateway of a deployment: its configuration as `up` makes it, with placeholders for addresses and paths."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from lightship.cli.deploy.estimates import gateway_needs
from lightship.cli.deploy.ladder import ChosenRung
from lightship.cli.gateway_config import gateway_config, spill_rung
from lightship.errors import SpecError
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.ports.deployment import DeployedGateway
from lightship.spec.document import Spec

_CONFIG = "gateway.json"
# Paths in a configuration are absolute; this one becomes the placeholder.
_STATE_ROOT = Path("/{state}")
_DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


class Site(Enum):
    """Where a gateway stands to its rungs."""

    CLUSTER = "cluster"  # each rung has machines of its own
    MACHINE = "machine"  # containers that share one machine
    HOST = "host"  # processes on one machine


def deployed_gateway(spec: Spec, rungs: tuple[ChosenRung, ...], site: Site) -> DeployedGateway:
    """The gateway in front of these rungs.

    Raises: SpecError: an upstream nothing would use, a spill without price or model, or a log file in a container.
    """
    refuse_idle_upstreams(spec)
    if site is not Site.HOST and spec.gateway.access_log.file != "stderr":
        what = "a container logs to standard error, and its files go when it does"
        raise SpecError(what, where="gateway.access_log.file", hint="Remove it for this platform.")
    tls = spec.gateway.tls
    if tls is not None:
        placed = tls.model_copy(update={"cert_file": "{tls}/tls.crt", "key_file": "{tls}/tls.key"})
        spec = spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"tls": placed})})
    devices = [f"rung-{position}" if site is Site.CLUSTER else "local" for position in range(len(rungs))]
    facts = [msgspec.structs.replace(rung.facts, device=device) for rung, device in zip(rungs, devices, strict=True)]
    replicas = [
        ReplicaConfig(
            name=f"{one.variant_name}-{position}",
            base_url=f"{{rung-{position}}}",
            model_name=spec.model.name,
            variant_name=one.variant_name,
            variant_digest=one.variant_digest,
            rung=position,
            device=one.device,
        )
        for position, one in enumerate(facts)
    ]
    if (spill := spill_rung(spec, rung=len(rungs))) is not None:
        replicas.append(spill[0])
        facts.append(spill[1])
    config = gateway_config(
        spec, replicas, port=spec.gateway.listen.port, home=_STATE_ROOT, ladders={spec.model.name: facts}
    )
    if site is not Site.HOST:
        config = msgspec.structs.replace(config, host="{host}")
    has_redis = bool(config.state.redis_url or config.state.redis_url_env)
    has_budgets = any(
        (limit.daily_tokens, limit.monthly_tokens, limit.daily_usd, limit.monthly_usd) != (None,) * 4
        for limit in spec.gateway.limits.values()
    )
    return DeployedGateway(
        command=("{python}", "-m", "lightship.gateway", f"{{config}}/{_CONFIG}"),
        config_files={_CONFIG: encode_config(config).decode().replace(str(_STATE_ROOT), "{state}")},
        port=spec.gateway.listen.port,
        ready_path="/health/ready",
        live_path="/health/live",
        metrics_path="/metrics",
        needs=gateway_needs(spec),
        has_tls=tls is not None,
        keeps_state=spec.gateway.keys.required or (has_budgets and not has_redis),
        shares_state=has_redis or not (spec.gateway.limits or spec.routing.spill),
        reaches=_reached_ports(spec),
        slo_attainment=spec.slo.attainment,
        reads_cluster="cluster" in GatewayConfig.__struct_fields__,
    )


def secrets_of(spec: Spec) -> tuple[str, ...]:
    """Environment variables of the gateway that hold something secret."""
    spill = spec.routing.spill.to if spec.routing.spill else None
    names = [one.api_key_env for one in spec.upstreams if one.name == spill and one.api_key_env]
    if spec.gateway.state.redis_url_env != "none":
        names.append(spec.gateway.state.redis_url_env)
    return tuple(dict.fromkeys(names))


def refuse_idle_upstreams(spec: Spec) -> None:
    """Raises: SpecError: an upstream that nothing here would use."""
    spill = spec.routing.spill.to if spec.routing.spill else None
    for index, upstream in enumerate(spec.upstreams):
        if upstream.name != spill:
            raise SpecError(
                f"a deployment serves its own variants, and {upstream.name!r} is not where requests spill to",
                where=f"upstreams[{index}]",
                hint="Name it as routing.spill.to, or remove it.",
            )


def _reached_ports(spec: Spec) -> tuple[int, ...]:
    spill = spec.routing.spill.to if spec.routing.spill else None
    urls = [one.base_url for one in spec.upstreams if one.name == spill]
    state = spec.gateway.state
    if state.redis_url != "none":
        urls.append(state.redis_url)
    ports = []
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme in _DEFAULT_PORTS:
            ports.append(parts.port or _DEFAULT_PORTS[parts.scheme])
    if state.redis_url_env != "none":
        ports.append(_DEFAULT_PORTS["redis"])
    return tuple(sorted(set(ports)))
