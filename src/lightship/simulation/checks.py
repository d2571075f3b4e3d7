"""What is wrong with a scenario that has the right shape: figures that make no sense, names that are not there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec

from lightship.gateway.dispatch.config import DEFAULT_PRIORITY, DispatchConfig, dispatch_problems
from lightship.gateway.routing.config import routing_problems
from lightship.simulation.scenario import (
    Lengths,
    Placement,
    ProfileRef,
    RandomBursts,
    RegionSpec,
    RequestKind,
    RungSpec,
    ScalingSpec,
    Scenario,
    TrafficSpec,
)

DISTRIBUTIONS = ("fixed", "exponential", "lognormal", "uniform")
# Requests of one simulation: a day of a service of ten million users; more is a slip in a rate.
MAX_REQUESTS = 200_000_000
# Replicas of one rung in one region.
MAX_REPLICAS = 20_000
# Parts of one machine that serve by themselves.
MAX_SHARED = 64
_DAY_S = 86_400.0


def scenario_problems(scenario: Scenario) -> Iterator[str]:
    """Each as `path: what was expected, what it is`."""
    not_finite = list(_not_finite(scenario, ""))
    if not_finite:
        yield from not_finite
        return  # nothing else can be judged
    yield from _positive(scenario, "duration_s", "scale_interval_s", "weight_bytes_per_s")
    if scenario.duration_s > 0 and not 0 <= scenario.warmup_s < scenario.duration_s:
        yield f"warmup_s: must be at least 0 and below duration_s, got {scenario.warmup_s:g}"
    yield from _in("slo", _positive(scenario.slo, "ttft_s", "tpot_s"))
    if not 0 < scenario.slo.attainment <= 1:
        yield f"slo.attainment: must be above 0 and at most 1, got {scenario.slo.attainment:g}"
    if not scenario.ladder:
        yield "ladder: must name at least one rung"
    if len({rung.name for rung in scenario.ladder}) < len(scenario.ladder):
        yield "ladder: two rungs have the same name"
    for position, rung in enumerate(scenario.ladder):
        yield from _in(f"ladder[{position}]", _rung_problems(rung))
        if scenario.placement is Placement.SHARED and rung.scaling.max_replicas > MAX_SHARED:
            got = rung.scaling.max_replicas
            where = f"ladder[{position}].scaling.max_replicas"
            yield f"{where}: shared ones are of one machine, at most {MAX_SHARED}, got {got}"
    if not scenario.regions:
        yield "regions: must name at least one"
    for name, region in scenario.regions.items():
        yield from _in(f"regions.{name}", _region_problems(region, name, scenario))
    yield from _rtt_problems(scenario)
    yield from _failure_problems(scenario)
    yield from _admission_problems(scenario)
    yield from _in("routing", routing_problems(scenario.routing))
    if scenario.upstream is not None:
        yield from _in("upstream", _positive(scenario.upstream, "ttft_s", "tpot_s", "max_usd_per_hour"))
        names = ("usd_per_1m_input_tokens", "usd_per_1m_output_tokens")
        yield from _in("upstream", _not_negative(scenario.upstream, *names))


def _not_finite(value: object, path: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: must be a finite number, got {value!r}"
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _not_finite(getattr(value, name), f"{path}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}[{position}]")


def _in(path: str, problems: Iterable[str]) -> Iterator[str]:
    return (f"{path}.{problem}" for problem in problems)


def _positive(record: msgspec.Struct, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(record, name)
        if value is not None and not value > 0:
            yield f"{name}: must be above 0, got {value:g}"


def _not_negative(record: msgspec.Struct, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(record, name)
        if value is not None and not value >= 0:
            yield f"{name}: must be at least 0, got {value:g}"


def _rung_problems(rung: RungSpec) -> Iterator[str]:
    if not rung.name:
        yield "name: must not be empty"
    yield from _in("profile", _profile_problems(rung.profile))
    for name in ("quality_loss", "quality_loss_high"):
        value = getattr(rung, name)
        if value is not None and not -1 <= value <= 1:
            yield f"{name}: must be a share, got {value:g}"
    if rung.concurrency is not None and rung.concurrency < 1:
        yield f"concurrency: must be at least 1, got {rung.concurrency}"
    yield from _positive(rung, "goodput_requests_per_s")
    yield from _not_negative(rung, "weight_bytes", "usd_per_replica_hour")
    if (rung.concurrency is None) != (rung.goodput_requests_per_s is None):
        yield "concurrency: goes with goodput_requests_per_s: give both, or neither"
    yield from _in("scaling", _scaling_problems(rung.scaling))


def _profile_problems(profile: ProfileRef) -> Iterator[str]:
    given = [name for name in ("preset", "file", "roofline", "costs") if getattr(profile, name) is not None]
    if len(given) != 1:
        words = " and ".join(given) or "none of them"
        yield f"preset: exactly one of preset, file, roofline and costs is needed, got {words}"
    yield from _positive(profile, "speed")
    if profile.roofline is not None:
        names = ("num_parameters", "weight_bytes", "bandwidth_bytes_per_s", "flops_per_s", "efficiency")
        yield from _in("roofline", _positive(profile.roofline, *names))
        yield from _in("roofline", _not_negative(profile.roofline, "kv_bytes_per_token"))


def _scaling_problems(scaling: ScalingSpec) -> Iterator[str]:
    least, most, first = scaling.min_replicas, scaling.max_replicas, scaling.initial_replicas
    if not 0 <= least <= most <= MAX_REPLICAS:
        yield f"min_replicas: must be at least 0 and at most max_replicas ({most}, at most {MAX_REPLICAS}), got {least}"
    elif not least <= first <= most:
        yield f"initial_replicas: must be from min_replicas ({least}) to max_replicas ({most}), got {first}"
    if most < 1:
        yield "max_replicas: must be at least 1, got 0"
    yield from _positive(scaling, "in_flight_per_replica", "max_usd_per_hour")
    names = ("idle_after_s", "scale_down_window_s", "scale_down_period_s", "startup_s", "startup_spread")
    yield from _not_negative(scaling, *names)


def _region_problems(region: RegionSpec, name: str, scenario: Scenario) -> Iterator[str]:
    yield from _in("traffic", _traffic_problems(region.traffic, scenario))
    yield from _not_negative(region, "client_rtt_s", "price_factor")
    yield from _positive(region, "replica_factor")
    spill = region.spill_to
    if spill is None:
        return
    if spill.to == name or spill.to not in scenario.regions:
        others = ", ".join(sorted(set(scenario.regions) - {name})) or "none"
        yield f"spill_to.to: must name another region ({others}), got {spill.to!r}"
    names = ("usd_per_1m_input_tokens", "usd_per_1m_output_tokens")
    yield from _in("spill_to", [*_positive(spill, "max_usd_per_hour"), *_not_negative(spill, *names)])


def _traffic_problems(traffic: TrafficSpec, scenario: Scenario) -> Iterator[str]:
    has_users = traffic.users is not None or traffic.requests_per_user_day is not None
    given = [traffic.requests_per_s is not None, has_users, traffic.trace is not None]
    if sum(given) != 1:
        yield "requests_per_s: give one of requests_per_s, users with requests_per_user_day, and trace"
    elif has_users and (traffic.users is None or traffic.requests_per_user_day is None):
        yield "users: goes with requests_per_user_day: give both"
    yield from _positive(traffic, "requests_per_s", "users", "requests_per_user_day")
    if traffic.hourly and (len(traffic.hourly) != 24 or min(traffic.hourly) < 0 or not sum(traffic.hourly) > 0):
        yield f"hourly: must be 24 weights, none below 0 and not all 0, got {len(traffic.hourly)}"
    if traffic.peak_factor is not None and (traffic.hourly or not 1 <= traffic.peak_factor <= 2):
        yield f"peak_factor: must be from 1 to 2 and without hourly, got {traffic.peak_factor:g}"
    for position, burst in enumerate(traffic.bursts):
        where = f"bursts[{position}]"
        yield from _in(where, [*_positive(burst, "duration_s", "factor"), *_not_negative(burst, "at_s", "ramp_s")])
        if 2 * burst.ramp_s > burst.duration_s:
            yield f"{where}.ramp_s: rise and fall must fit into duration_s, got {burst.ramp_s:g}"
    if isinstance(traffic.random_bursts, RandomBursts):
        yield from _in("random_bursts", _positive(traffic.random_bursts, "per_day", "duration_s", "factor"))
    if not traffic.kinds:
        yield "kinds: must name at least one kind of requests"
    for position, kind in enumerate(traffic.kinds):
        yield from _in(f"kinds[{position}]", _kind_problems(kind, scenario))
    mean = mean_requests_per_s(traffic) if sum(given) == 1 else None
    if mean is not None and mean * scenario.duration_s > MAX_REQUESTS:
        yield f"requests_per_s: {mean * scenario.duration_s:.3g} requests in one simulation (at most {MAX_REQUESTS:g})"


def mean_requests_per_s(traffic: TrafficSpec) -> float | None:
    """Over a day and without bursts; None for a trace, or where it is said by half."""
    if traffic.requests_per_s is not None:
        return traffic.requests_per_s
    if traffic.users is None or traffic.requests_per_user_day is None:
        return None
    return traffic.users * traffic.requests_per_user_day / _DAY_S


def _kind_problems(kind: RequestKind, scenario: Scenario) -> Iterator[str]:
    yield from _positive(kind, "share", "max_tokens", "patience_s")
    if kind.has_fixed_length and kind.max_tokens is not None:
        yield "max_tokens: goes not with has_fixed_length, which says the bound of each request"
    if kind.priority != DEFAULT_PRIORITY and kind.priority not in scenario.priorities:
        known = ", ".join(sorted({DEFAULT_PRIORITY, *scenario.priorities}))
        yield f"priority: must be a class of the scenario ({known}), got {kind.priority!r}"
    for name in ("prompt_tokens", "output_tokens"):
        yield from _in(name, _length_problems(getattr(kind, name)))


def _length_problems(lengths: Lengths) -> Iterator[str]:
    if lengths.distribution not in DISTRIBUTIONS:
        yield f"distribution: must be one of {', '.join(DISTRIBUTIONS)}, got {lengths.distribution!r}"
    yield from _positive(lengths, "mean", "least")
    yield from _not_negative(lengths, "spread")
    if lengths.most < lengths.least:
        yield f"most: must be at least least ({lengths.least}), got {lengths.most}"


def _rtt_problems(scenario: Scenario) -> Iterator[str]:
    for one, others in scenario.rtt_s.items():
        for other, rtt_s in others.items():
            for name in (one, other):
                if name not in scenario.regions:
                    known = ", ".join(scenario.regions)
                    yield f"rtt_s.{one}.{other}: no region {name!r}; there are {known}"
            if rtt_s < 0:
                yield f"rtt_s.{one}.{other}: must be at least 0, got {rtt_s:g}"


def _failure_problems(scenario: Scenario) -> Iterator[str]:
    failures, known = scenario.failures, ", ".join(scenario.regions)
    yield from _in("failures", _not_negative(failures, "crashes_per_replica_day"))
    for position, outage in enumerate(failures.outages):
        where = f"failures.outages[{position}]"
        if outage.region not in scenario.regions:
            yield f"{where}.region: no region {outage.region!r}; there are {known}"
        yield from _in(where, [*_positive(outage, "duration_s"), *_not_negative(outage, "at_s", "failover_s")])
    for position, slow in enumerate(failures.slow_replicas):
        where = f"failures.slow_replicas[{position}]"
        if slow.region not in scenario.regions:
            yield f"{where}.region: no region {slow.region!r}; there are {known}"
        if not 0 <= slow.rung < max(1, len(scenario.ladder)):
            yield f"{where}.rung: must be a rung of the ladder, got {slow.rung}"
        yield from _in(where, [*_positive(slow, "num_replicas", "factor", "duration_s"), *_not_negative(slow, "at_s")])


def _admission_problems(scenario: Scenario) -> Iterator[str]:
    admission = scenario.admission
    yield from _in("admission", _positive(admission, "max_attempts", "hold_s"))
    yield from _in("admission", _not_negative(admission, "retry_budget_share", "max_held"))
    config = DispatchConfig(
        priorities=scenario.priorities,
        max_queued=admission.max_queued,
        max_concurrency=admission.max_concurrency,
        default_output_tokens=admission.default_output_tokens,
    )
    for problem in dispatch_problems(config):
        yield problem if problem.startswith("priorities") else f"admission.{problem}"
    budget = scenario.quality_budget
    if budget is not None:
        if not 0 <= budget.degraded_share <= 1:
            yield f"quality_budget.degraded_share: must be a share from 0 to 1, got {budget.degraded_share:g}"
        if budget.mean_loss is not None and not 0 <= budget.mean_loss <= 1:
            yield f"quality_budget.mean_loss: must be a share from 0 to 1, got {budget.mean_loss:g}"
        if budget.window_s < 1:
            yield f"quality_budget.window_s: must be at least 1, got {budget.window_s:g}"
