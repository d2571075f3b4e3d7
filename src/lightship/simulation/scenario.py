"""What is simulated, as a user writes it: frozen records, strict, with units in their names. No I/O.

Rungs, promise and policies are the records of the gateway and the controller themselves where these have one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from lightship.gateway.dispatch.config import LadderPolicy, PriorityClass, QualityBudgetConfig
from lightship.gateway.routing.config import RoutingConfig
from lightship.ports.engine_profile import EngineLimits, StepCosts
from lightship.scaling.records import Prefer
from lightship.simulation.engine.base import Fidelity


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in a scenario file."""


class Placement(StrEnum):
    """Where the rungs of a ladder run."""

    OWN = "own"  # every rung has replicas on hardware of its own, scaled by themselves: Deployments of a cluster
    SHARED = "shared"  # every replica has an engine of each rung, which share its cores: `lightship up` on one machine


class Slo(Record, frozen=True, kw_only=True):
    """The promise: seconds to the first token and per later one, and the share of requests that must keep it."""

    ttft_s: float = 1.0
    tpot_s: float = 0.1
    attainment: float = 0.95


class Roofline(Record, frozen=True, kw_only=True):
    """An engine's costs from what a machine can do: bytes read and operations done per step, at an efficiency.

    Args:
        num_parameters: That a token activates.
        weight_bytes: Read in every step.
        kv_bytes_per_token: Read per token of context.
        bandwidth_bytes_per_s: Of the memory.
        flops_per_s: Of the arithmetic.
        efficiency: Share of both that is reached.
    """

    num_parameters: float
    weight_bytes: float
    kv_bytes_per_token: float = 0.0
    bandwidth_bytes_per_s: float
    flops_per_s: float
    efficiency: float = 0.5


class ProfileRef(Record, frozen=True, kw_only=True):
    """Where a rung's engine profile comes from: exactly one of the first four.

    Args:
        preset: Name of a profile that comes with the package.
        file: Written by `lightship calibrate`; relative to the scenario.
        roofline: Worked out from a machine's data sheet.
        costs: Written out.
        limits: Instead of those of the profile.
        speed: How many times as fast as the profile it is; for machines one has no profile of.
    """

    preset: str | None = None
    file: str | None = None
    roofline: Roofline | None = None
    costs: StepCosts | None = None
    limits: EngineLimits | None = None
    speed: float = 1.0


class ScalingSpec(Record, frozen=True, kw_only=True):
    """How the replicas of one rung in one region are scaled; see `scaling.records.ScalePolicy`.

    Args:
        initial_replicas: At the start, ready.
        in_flight_per_replica: None: 0.65 of the concurrency at which the rung was measured.
        startup_s: Median time from the decision to an engine that answers, without its weights.
        startup_spread: Standard deviation of its logarithm; 0 is always the same.
    """

    initial_replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    in_flight_per_replica: float | None = None
    idle_after_s: float = 600.0
    scale_down_window_s: float = 300.0
    scale_down_period_s: float = 120.0
    max_usd_per_hour: float | None = None
    startup_s: float = 30.0
    startup_spread: float = 0.25


class RungSpec(Record, frozen=True, kw_only=True):
    """One rung of the ladder, from the top down.

    Args:
        name: Of the variant.
        profile: Its engine's time.
        quality_loss: Share of the reference's quality that is lost.
        quality_loss_high: Upper end of its interval; decisions go by it.
        concurrency: At which it was measured; None: measured in the simulation before it begins (see `measuring`).
        goodput_requests_per_s: Then; None likewise.
        weight_bytes: Delivered to a machine before its first start.
        usd_per_replica_hour: Of one replica, from its start to its end. With shared machines the top rung's counts.
        scaling: Of its replicas. With shared machines the top rung's counts.
    """

    name: str
    profile: ProfileRef
    quality_loss: float = 0.0
    quality_loss_high: float | None = None
    concurrency: int | None = None
    goodput_requests_per_s: float | None = None
    weight_bytes: int = 0
    usd_per_replica_hour: float = 0.0
    scaling: ScalingSpec = ScalingSpec()


class Lengths(Record, frozen=True, kw_only=True):
    """How many tokens a prompt or an answer has.

    Args:
        distribution: `fixed`, `exponential`, `lognormal` or `uniform` (from `least` to `most`).
        mean: Of it; the bounds shift it a little.
        spread: Standard deviation of the logarithm, for `lognormal`.
        least: Shorter ones are made so long.
        most: Longer ones are cut.
    """

    distribution: str = "lognormal"
    mean: float = 200.0
    spread: float = 0.8
    least: int = 1
    most: int = 4096


class RequestKind(Record, frozen=True, kw_only=True):
    """One kind of requests in the mix.

    Args:
        share: Of all requests, in relation to the other kinds.
        tenant: Whose they are.
        priority: Their class; see `priorities`.
        prompt_tokens: Lengths of prompts.
        output_tokens: Lengths of answers.
        max_tokens: The bound that clients send; None: none, and the gateway's default is taken.
        has_fixed_length: Clients ask for exactly as many tokens as they get (`max_tokens` with `ignore_eos`), as load
            generators do; the gateway reckons with them.
        is_streamed: Whether they ask for a stream.
        patience_s: A client without a first token leaves after so long; None: never.
        may_leave: Whether it may be answered elsewhere than in its region.
    """

    share: float = 1.0
    tenant: str = ""
    priority: str = "default"
    prompt_tokens: Lengths = Lengths(mean=300.0)
    output_tokens: Lengths = Lengths(mean=100.0, most=1024)
    max_tokens: int | None = None
    has_fixed_length: bool = False
    is_streamed: bool = True
    patience_s: float | None = None
    may_leave: bool = True


class Burst(Record, frozen=True, kw_only=True):
    """A time in which `factor` times as many requests come, after a linear rise and before an equal fall."""

    at_s: float
    duration_s: float
    factor: float
    ramp_s: float = 0.0


class RandomBursts(Record, frozen=True, kw_only=True):
    """Bursts at random times: so many a day on average, each so long and so high."""

    per_day: float
    duration_s: float
    factor: float


class TraceRef(Record, frozen=True, kw_only=True):
    """A trace file that is replayed; see `evaluation.performance.traces`."""

    file: str
    format: str | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    time_scale: float = 1.0
    length_scale: float = 1.0
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    repeats: bool = False


class TrafficSpec(Record, frozen=True, kw_only=True):
    """When the requests of one region come: one of `requests_per_s`, users, `trace` and `arrivals_s`.

    Args:
        requests_per_s: Mean over a day.
        users: With `requests_per_user_day`.
        requests_per_user_day: Likewise.
        hourly: 24 weights of the hours of the region's day, from midnight; () is flat.
        peak_factor: In place of `hourly`: a sine over the day whose peak is so many times its mean (1 to 2).
        peak_hour: Of the region's day, when the sine is highest.
        utc_offset_h: Of the region's clock; the simulation begins at 00:00 UTC.
        bursts: At known times.
        random_bursts: At random ones.
        trace: In place of a rate.
        kinds: What is asked for, in shares. A trace has its own lengths; tenants and classes come from here.
    """

    requests_per_s: float | None = None
    users: float | None = None
    requests_per_user_day: float | None = None
    hourly: tuple[float, ...] = ()
    peak_factor: float | None = None
    peak_hour: float = 15.0
    utc_offset_h: float = 0.0
    bursts: tuple[Burst, ...] = ()
    random_bursts: RandomBursts | None = None
    trace: TraceRef | None = None
    kinds: tuple[RequestKind, ...] = (RequestKind(),)


class Upstream(Record, frozen=True, kw_only=True):
    """A priced service elsewhere, taken to have room for everybody.

    Args:
        ttft_s: Its time to first token.
        tpot_s: Its time per later token.
        quality_loss: Of its answers against the reference; a gain is below 0.
        usd_per_1m_input_tokens: Price.
        usd_per_1m_output_tokens: Price.
        max_usd_per_hour: What each region's gateway may spend there.
    """

    ttft_s: float = 0.5
    tpot_s: float = 0.02
    quality_loss: float = 0.0
    usd_per_1m_input_tokens: float = 0.15
    usd_per_1m_output_tokens: float = 0.60
    max_usd_per_hour: float = 1.0


class RegionSpill(Record, frozen=True, kw_only=True):
    """Requests that a region cannot take go to another one, as to an upstream with a price.

    Args:
        to: The other region.
        usd_per_1m_input_tokens: What is reckoned for a token there, against `max_usd_per_hour`; only traffic between
            regions is paid by it, the replicas there are paid for anyway.
        usd_per_1m_output_tokens: Likewise.
        max_usd_per_hour: The most.
    """

    to: str
    usd_per_1m_input_tokens: float = 0.01
    usd_per_1m_output_tokens: float = 0.01
    max_usd_per_hour: float = 10.0


class RegionSpec(Record, frozen=True, kw_only=True):
    """One region: a gateway, replicas of every rung, and the clients near by.

    Args:
        traffic: Its requests.
        client_rtt_s: Between its clients and its gateway.
        price_factor: On the rungs' prices.
        replica_factor: On the rungs' numbers of replicas, rounded up.
        spill_to: Another region for what it cannot take; None: the upstream, where there is one.
    """

    traffic: TrafficSpec
    client_rtt_s: float = 0.02
    price_factor: float = 1.0
    replica_factor: float = 1.0
    spill_to: RegionSpill | None = None


class Outage(Record, frozen=True, kw_only=True):
    """A whole region is away: its replicas and its gateway; clients go to the nearest other one after a while."""

    region: str
    at_s: float
    duration_s: float
    failover_s: float = 30.0


class SlowReplicas(Record, frozen=True, kw_only=True):
    """From a time on, some replicas of a rung take so many times as long for everything; None ends it never."""

    region: str
    rung: int = 0
    num_replicas: int = 1
    at_s: float
    duration_s: float | None = None
    factor: float = 4.0


class FailureSpec(Record, frozen=True, kw_only=True):
    """What goes wrong.

    Args:
        crashes_per_replica_day: Mean number of crashes of a replica in a day of serving.
        outages: Of regions.
        slow_replicas: Stragglers.
    """

    crashes_per_replica_day: float = 0.0
    outages: tuple[Outage, ...] = ()
    slow_replicas: tuple[SlowReplicas, ...] = ()


class Admission(Record, frozen=True, kw_only=True):
    """Bounds of the gateways; see `gateway.dispatch.config.DispatchConfig` and `gateway.config.GatewayConfig`."""

    max_queued: int = 1024
    max_concurrency: int = 4096
    default_output_tokens: int = 512
    max_attempts: int = 3
    retry_budget_share: float = 0.1
    max_held: int = 512
    hold_s: float = 120.0


class Scenario(Record, frozen=True, kw_only=True):
    """Everything about one simulation.

    Args:
        name: For the report.
        duration_s: Of the traffic; what is under way then is still answered.
        warmup_s: Requests that come before are not counted.
        seed: Decides everything random.
        fidelity: How engines are simulated.
        slo: The promise.
        ladder: Its rungs, from the top down.
        placement: Where they run.
        prefer: What meets a peak first; see `scaling.records.Prefer`.
        scale_interval_s: Between two looks of the controller.
        weight_bytes_per_s: At which weights reach a machine.
        regions: By name.
        rtt_s: Between two regions, either way round: `{eu: {us: 0.09}}`.
        priorities: Classes by name.
        policy: When the ladder moves.
        quality_budget: What may be degraded; None sets no bound.
        admission: Bounds of the gateways.
        routing: How a gateway chooses replicas.
        upstream: Where requests go that no region of ours takes.
        failures: What goes wrong.
        alternatives: Named changes of the scenario, for `--compare`.
    """

    name: str = "service"
    duration_s: float = 3600.0
    warmup_s: float = 0.0
    seed: int = 0
    fidelity: Fidelity = Fidelity.FAST
    slo: Slo = Slo()
    ladder: tuple[RungSpec, ...]
    placement: Placement = Placement.OWN
    prefer: Prefer = Prefer.REPLICAS
    scale_interval_s: float = 1.0
    weight_bytes_per_s: float = 1e9
    regions: dict[str, RegionSpec]
    rtt_s: dict[str, dict[str, float]] = {}
    priorities: dict[str, PriorityClass] = {}
    policy: LadderPolicy = LadderPolicy()
    quality_budget: QualityBudgetConfig | None = None
    admission: Admission = Admission()
    routing: RoutingConfig = RoutingConfig()
    upstream: Upstream | None = None
    failures: FailureSpec = FailureSpec()
    alternatives: dict[str, dict[str, Any]] = {}

    def rtt_between(self, one: str, other: str) -> float:
        """Seconds there and back; 0 within a region, `DEFAULT_RTT_S` where none is given."""
        if one == other:
            return 0.0
        found = self.rtt_s.get(one, {}).get(other, self.rtt_s.get(other, {}).get(one))
        return DEFAULT_RTT_S if found is None else found


# Seconds between regions where the scenario says nothing: about one ocean.
DEFAULT_RTT_S = 0.1
