"""The life of one replica as a state machine without a clock: when it is started again, and when nobody tries any more.

    sleeping --start--> starting --ready--> ready --stop--> draining --ended--> sleeping
                           |                  |
                           '-- ended by itself, or not ready in time --> failed --pause over, start--> starting

A pause doubles from failure to failure. A run that lasted `good_run_s` forgets the failures before it, so that an
engine that crashes once a day is back within a second, and one that cannot start is not tried a thousand times.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

from lightship.ports.replica_control import ReplicaPhase


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Pauses between the starts of a replica that fails.

    Args:
        first_pause_s: After the first failure.
        longest_pause_s: Bound on a pause; each one is twice the one before.
        good_run_s: A run of this length forgets earlier failures.
        max_failures: Failures in a row after which requests are no longer held for it: they would wait in vain. It is
            still tried, at the longest pause.
    """

    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    good_run_s: float = 60.0
    max_failures: int = 3


class ReplicaLife(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica stands.

    Args:
        phase: Of its life.
        since_s: When it came into that phase.
        num_failures: In a row.
        retry_at_s: A failed one is not started before.
        detail: Why it is where it is, for people.
    """

    phase: ReplicaPhase = ReplicaPhase.SLEEPING
    since_s: float = 0.0
    num_failures: int = 0
    retry_at_s: float = -math.inf
    detail: str = ""

    def is_hopeless(self, policy: RestartPolicy) -> bool:
        """Whether nobody should wait for it."""
        return self.phase is ReplicaPhase.FAILED and self.num_failures >= policy.max_failures


def may_start(life: ReplicaLife, now_s: float) -> bool:
    """Whether it may be started now."""
    if life.phase is ReplicaPhase.FAILED:
        return now_s >= life.retry_at_s
    return life.phase is ReplicaPhase.SLEEPING


def started(life: ReplicaLife, now_s: float) -> ReplicaLife:
    """Its process was started."""
    return replace(life, phase=ReplicaPhase.STARTING, since_s=now_s, detail="")


def ready(life: ReplicaLife, now_s: float) -> ReplicaLife:
    """It takes requests."""
    return replace(life, phase=ReplicaPhase.READY, since_s=now_s, detail="")


def draining(life: ReplicaLife, now_s: float, detail: str) -> ReplicaLife:
    """It was told to stop: what is under way ends, nothing new begins."""
    return replace(life, phase=ReplicaPhase.DRAINING, since_s=now_s, detail=detail)


def stopped(life: ReplicaLife, now_s: float, detail: str) -> ReplicaLife:
    """It has ended because it was told to."""
    return replace(life, phase=ReplicaPhase.SLEEPING, since_s=now_s, num_failures=0, detail=detail)


def failed(life: ReplicaLife, now_s: float, policy: RestartPolicy, detail: str) -> ReplicaLife:
    """It ended by itself, or did not come up."""
    has_run_well = life.phase is ReplicaPhase.READY and now_s - life.since_s >= policy.good_run_s
    num_failures = 1 if has_run_well else life.num_failures + 1
    # beyond 2^30 the bound has long been reached, and a float would overflow
    pause_s = min(policy.longest_pause_s, policy.first_pause_s * 2.0 ** min(num_failures - 1, 30))
    times = "once" if num_failures == 1 else f"{num_failures} times in a row"
    return ReplicaLife(
        phase=ReplicaPhase.FAILED,
        since_s=now_s,
        num_failures=num_failures,
        retry_at_s=now_s + pause_s,
        detail=f"{detail}; failed {times}, next try after {pause_s:g} s",
    )
