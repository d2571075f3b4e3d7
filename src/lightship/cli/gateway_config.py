"""From a spec to the configuration of one gateway process: pure, a function per section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightship.cli.cache_config import cache_config
from lightship.cli.routing_config import routing_config
from lightship.cli.tenants_config import tenants_config
from lightship.errors import SpecError
from lightship.evaluation.ladder import Ladder, Rung
from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.dispatch.config import (
    DispatchConfig,
    LadderConfig,
    LadderPolicy,
    PriorityClass,
    QualityBudgetConfig,
    RungFacts,
)
from lightship.gateway.server_config import AccessLogConfig, CorsConfig, ServerConfig, TlsConfig
from lightship.gateway.state import StateConfig
from lightship.ports.engine import Degrade, HopTimeouts
from lightship.spec.document import Spec
from lightship.spec.gateway import GatewaySpec, TimeoutsSpec


def gateway_config(
    spec: Spec,
    replicas: Sequence[ReplicaConfig],
    *,
    port: int,
    home: Path,
    ladders: Mapping[str, Sequence[RungFacts]] = {},
    control_socket: str = "",
) -> GatewayConfig:
    """The gateway in front of these replicas, with everything else as the spec says.

    Args:
        spec: What is wanted.
        replicas: Who serves; their rungs are chosen by the caller.
        port: To listen on; the spec's own may be 0.
        home: The data directory: keys, and what must be shared or outlast the gateway.
        ladders: What was measured of each model's rungs, from the top down; the rungs of a model that is not here are
            of unknown quality.
        control_socket: Of the supervisor of the replicas; "" where nobody starts them.
    """
    return GatewayConfig(
        host=spec.gateway.listen.host,
        port=port,
        model_name=spec.model.name,
        replicas=tuple(replicas),
        timeouts=hop_timeouts(spec.gateway.timeouts),
        max_attempts=spec.gateway.retries.max_attempts,
        retry_budget_share=spec.gateway.retries.budget_share,
        body_limit_bytes=spec.gateway.body_limit,
        drain_timeout_s=spec.gateway.drain_timeout_s,
        dispatch=dispatch_config(spec, ladders, num_processes=spec.gateway.workers),
        routing=routing_config(spec.gateway.routing),
        cache=cache_config(spec),
        tenants=tenants_config(spec, home),
        state=state_config(spec, home),
        server=server_config(spec.gateway),
        activation=activation_config(spec.gateway, control_socket),
    )


def activation_config(gateway: GatewaySpec, control_socket: str) -> ActivationConfig:
    """How requests are held for models that wake."""
    waking = gateway.waking
    return ActivationConfig(
        control_socket=control_socket,
        max_held=waking.max_held,
        hold_s=waking.hold_s,
        whole_answer_hold_s=waking.whole_answer_hold_s,
        keep_alive_s=waking.keep_alive_s,
    )


def state_config(spec: Spec, home: Path) -> StateConfig:
    """Memory where nothing has to be shared or to outlast the gateway, else files in the data directory, or Redis."""
    gateway = spec.gateway
    has_budget = any(
        (limit.daily_tokens, limit.monthly_tokens, limit.daily_usd, limit.monthly_usd) != (None,) * 4
        for limit in gateway.limits.values()
    )
    needs_files = gateway.workers > 1 or has_budget
    return StateConfig(
        folder=str((home / "gateway").absolute()) if needs_files else "",
        redis_url="" if gateway.state.redis_url == "none" else gateway.state.redis_url,
        redis_url_env="" if gateway.state.redis_url_env == "none" else gateway.state.redis_url_env,
        redis_timeout_s=gateway.state.redis_timeout_ms / 1000,
    )


def server_config(gateway: GatewaySpec) -> ServerConfig:
    """How the gateway's processes are run."""
    tls, cors, log = gateway.tls, gateway.cors, gateway.access_log
    return ServerConfig(
        workers=gateway.workers,
        tls=None if tls is None else TlsConfig(cert_file=tls.cert_file, key_file=tls.key_file),
        cors=None if cors is None else CorsConfig(origins=cors.origins, max_age_s=cors.max_age_s),
        access_log=AccessLogConfig(is_enabled=log.enabled, file="" if log.file == "stderr" else log.file),
        send_timeout_s=gateway.send_timeout_s,
    )


def dispatch_config(
    spec: Spec, ladders: Mapping[str, Sequence[RungFacts]], *, num_processes: int = 1
) -> DispatchConfig:
    """Admission and ladders: every process has an equal share of the devices and of the quality budget."""
    admission = spec.gateway.admission
    return DispatchConfig(
        ladders={model: _ladder(spec, rungs, num_processes=num_processes) for model, rungs in ladders.items()},
        priorities={
            name: PriorityClass(
                importance=one.importance,
                degrade=Degrade(one.degrade),
                min_quality=one.min_quality,
                trimmed_output_tokens=one.trim_max_tokens,
                max_wait_s=one.max_wait_s,
            )
            for name, one in spec.gateway.priorities.items()
        },
        max_queued=admission.max_queued,
        max_concurrency=admission.max_concurrency,
        default_output_tokens=admission.default_max_tokens,
        capacity_share=1 / num_processes,
        private_tags=frozenset(spec.routing.privacy.tags if spec.routing.privacy else ()),
    )


def _ladder(spec: Spec, rungs: Sequence[RungFacts], *, num_processes: int) -> LadderConfig:
    admission, budget = spec.gateway.admission, spec.quality.budget
    return LadderConfig(
        rungs=tuple(rungs),
        ttft_s=spec.slo.ttft_ms / 1000,
        tpot_s=spec.slo.tpot_ms / 1000,
        attainment=spec.slo.attainment,
        policy=LadderPolicy(down_dwell_s=admission.step_down_after_s, up_dwell_s=admission.step_up_after_s),
        budget=None
        if budget is None
        else QualityBudgetConfig(
            degraded_share=budget.degraded_requests,
            mean_loss=budget.mean_loss,
            window_s=budget.per,
            expected_requests=budget.expected_requests // num_processes,
        ),
        spill_usd_per_hour=spec.routing.spill.max_usd_per_hour / num_processes if spec.routing.spill else 0.0,
    )


def spill_rung(spec: Spec, *, rung: int) -> tuple[ReplicaConfig, RungFacts] | None:
    """The upstream that takes what this machine cannot, as the lowest rung; None where there is none.

    Raises: SpecError: its model or its price is not named, without which it cannot be asked or kept within its money.
    """
    spill = spec.routing.spill
    if spill is None:
        return None
    index, upstream = next((at, one) for at, one in enumerate(spec.upstreams) if one.name == spill.to)
    price, where = upstream.price_usd_per_1m, f"upstreams[{index}]"
    if price is None:
        what = (
            f"requests spill to {upstream.name!r} for at most {spill.max_usd_per_hour:g} USD an hour: a price is needed"
        )
        raise SpecError(what, where=f"{where}.price_usd_per_1m", hint="Add {input: 0.15, output: 0.60}, or its prices.")
    if upstream.model in {None, "*"}:
        what = f"requests spill to {upstream.name!r}: what it calls its model is needed"
        raise SpecError(what, where=f"{where}.model", hint="Name one model.")
    replica = ReplicaConfig(
        name=upstream.name,
        base_url=upstream.base_url,
        model_name=str(upstream.model),
        variant_name=upstream.name,
        rung=rung,
        api_key_env=upstream.api_key_env or "",
        device=upstream.name,
    )
    facts = RungFacts(
        variant_name=upstream.name,
        device=upstream.name,
        quality_loss=None,
        is_spill=True,
        usd_per_1m_input_tokens=price.input,
        usd_per_1m_output_tokens=price.output,
    )
    return replica, facts


def measured_rungs(ladder: Ladder, *, concurrency: int) -> tuple[RungFacts, ...]:
    """What a measured ladder's rungs can do and what they cost in quality.

    Args:
        ladder: As it was chosen from the measurements.
        concurrency: At which goodput was measured.
    """
    return tuple(_rung_facts(rung, concurrency=concurrency) for rung in ladder.rungs)


def _rung_facts(rung: Rung, *, concurrency: int) -> RungFacts:
    one = rung.candidate
    interval = one.quality_interval
    return RungFacts(
        variant_name=one.name.partition("@")[0],
        variant_digest=one.variant_digest,
        quality_loss=1 - one.quality_recovery,
        quality_loss_low=None if interval is None else 1 - interval.high,
        quality_loss_high=None if interval is None else 1 - interval.low,
        goodput_requests_per_s=rung.speed,
        concurrency=concurrency,
    )


def hop_timeouts(timeouts: TimeoutsSpec) -> HopTimeouts:
    """The limits of the hop to an engine."""
    return HopTimeouts(timeouts.connect_s, timeouts.first_token_s, timeouts.next_token_s, timeouts.total_s)
