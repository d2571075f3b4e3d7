"""What `scale` is told, what it remembers and what it says."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Prefer(StrEnum):
    """What meets a peak first."""

    LADDER = "ladder"  # lower rungs; replicas only when the lowest is full too: cheap
    REPLICAS = "replicas"  # more replicas; lower rungs while they start: keeps quality


class ScalePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one pool of replicas is scaled. A pool is what is scaled together: the replicas of one rung, or of a model.

    Args:
        min_replicas: Never fewer; 0 lets the pool sleep.
        max_replicas: Never more.
        in_flight_per_replica: Requests one replica should have under way when it serves as asked: about 0.65 of the
            most it can serve within the promise, so that there is room while another one starts.
        in_flight_at_lowest_rung: The same where the lowest rung answers; None where there is no ladder below.
        prefer: What meets a peak first.
        idle_after_s: Time without a request after which it goes to `min_replicas`.
        scale_down_window_s: Down goes no lower than the most that was wanted within this time.
        scale_down_period_s: Least time between two steps down.
        startup_s: Usual time until a new replica serves; no window is shorter, for what comes back slowly is kept.
        attainment: Share of answers that must keep the promise; below it one more replica is wanted.
        usd_per_replica_hour: Price of one replica; None where it is not known.
        max_usd_per_hour: Bound on the price of them all, where that leaves `min_replicas`; None sets none.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    in_flight_per_replica: float = 16.0
    in_flight_at_lowest_rung: float | None = None
    prefer: Prefer = Prefer.REPLICAS
    idle_after_s: float = 600.0
    scale_down_window_s: float = 300.0
    scale_down_period_s: float = 120.0
    startup_s: float = 0.0
    attainment: float = 0.95
    usd_per_replica_hour: float | None = None
    max_usd_per_hour: float | None = None


class ScaleLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool stands at one moment.

    Args:
        now_s: On the clock that all times here are on.
        num_queued: Requests that wait, held ones included.
        num_in_flight: Requests under way.
        num_degraded: Requests under way on lower rungs for want of room here, in requests of this rung's speed. Where
            replicas come first they are demand, or a ladder that has stepped down would never find room above.
        num_ready: Replicas that serve.
        num_starting: Replicas that come up: capacity in flight, never idle.
        attainment: Share of recent answers that kept the promise; None where there were too few to say.
        is_complete: False where a gateway's counts, or the replicas, could not be read: nothing is decided on half of
            the picture.
    """

    now_s: float
    num_queued: int = 0
    num_in_flight: int = 0
    num_degraded: float = 0.0
    num_ready: int = 0
    num_starting: int = 0
    attainment: float | None = None
    is_complete: bool = True


class ScaleHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What `scale` remembers from one call to the next; begin with `ScaleHistory(replicas=...)`.

    Args:
        replicas: What was decided last: what should be running.
        wanted: (time, replicas the load asked for) within the window for going down, oldest first.
        last_busy_s: When there was last a request; None before the first.
        last_down_s: When it last went down.
    """

    replicas: int
    wanted: tuple[tuple[float, int], ...] = ()
    last_busy_s: float | None = None
    last_down_s: float | None = None


class ScaleReason(StrEnum):
    """Why that many: fit for a metric label."""

    STEADY = "steady"
    WAKE = "wake"
    LOAD = "load"
    ATTAINMENT = "attainment"
    STABILIZING = "stabilizing"
    LESS_LOAD = "less-load"
    IDLE = "idle"
    BOUNDS = "bounds"
    COST = "cost"
    MISSING_DATA = "missing-data"


class ScaleDecision(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas there should be; `detail` says why in words and numbers. `history` goes into the next call."""

    replicas: int
    reason: ScaleReason
    detail: str
    history: ScaleHistory
