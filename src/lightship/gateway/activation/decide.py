"""Whether a request waits for its model to wake, and which rung is woken for it. Pure.

a rung that may answer is up            pass on; where it is a lower one, the asked rung is woken beside
none is, and one starts or can wake     hold
none is, and none can                   pass on: the dispatcher refuses it, or finds a paid one elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lightship.ports.replica_control import ReplicaPhase, RungStatus

# A ready one counts: its supervisor has seen it answer, and the gateway will in a moment.
_COMING = frozenset({ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.SLEEPING, ReplicaPhase.DRAINING})
_WAKEABLE = frozenset({ReplicaPhase.SLEEPING, ReplicaPhase.DRAINING, ReplicaPhase.FAILED})


class RungSeen(msgspec.Struct, frozen=True):
    """One rung that may answer a request: whether it takes requests now, and how its replicas stand."""

    rung: int
    is_up: bool
    status: RungStatus


class HoldDecision(msgspec.Struct, frozen=True):
    """Whether to hold, which rung to wake (None: none) and how long that is going to take."""

    is_held: bool
    wakes: int | None = None
    remaining_s: float = 0.0


def hold_or_pass(acceptable: Sequence[RungSeen]) -> HoldDecision:
    """What becomes of a request that any of these rungs may answer, the one it asked for first."""
    if not acceptable:
        return HoldDecision(False)
    asked = acceptable[0]
    if any(one.is_up for one in acceptable):
        needs_waking = not asked.is_up and asked.status.can_wake and asked.status.phase in _WAKEABLE
        return HoldDecision(False, asked.rung if needs_waking else None)
    coming = [one for one in acceptable if _may_come(one.status)]
    if not coming:
        return HoldDecision(False)
    first = coming[0]
    wakes = first.rung if first.status.phase in _WAKEABLE else None
    return HoldDecision(True, wakes, min(one.status.start_remaining_s for one in coming))


def _may_come(status: RungStatus) -> bool:
    if not status.can_wake:
        return status.phase is ReplicaPhase.STARTING
    return status.phase in _COMING or status.phase is ReplicaPhase.FAILED
