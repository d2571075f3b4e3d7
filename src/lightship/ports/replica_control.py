"""How a gateway meets whoever starts and stops replicas: a supervisor on this machine, or a controller in a cluster.

    unknown -> sleeping -> starting -> ready -> draining -> sleeping
                   ^           |         |
                   '- failed <-'---------'      (back-off over: starting again)

*Sleeping* is not *unknown*: a sleeping model is configured and wakes when a request comes; an unknown one is a 404.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec


class ReplicaPhase(StrEnum):
    """Where a replica stands in its life."""

    UNKNOWN = "unknown"
    SLEEPING = "sleeping"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class RungStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the replicas of one rung stand together.

    Args:
        phase: READY while at least one is; else STARTING while one comes up; else DRAINING, FAILED or SLEEPING.
        num_ready: Replicas that take requests.
        num_starting: Capacity in flight, never to be taken for idle.
        start_remaining_s: Estimate of the time until one is ready: from the start budget, 0 when one is.
        can_wake: Whether a request may wake it. False after too many failed starts, and while nothing may be started.
        detail: The reason of its phase, for people: `crashed 3 times, next try in 8 s`.
    """

    phase: ReplicaPhase
    num_ready: int = 0
    num_starting: int = 0
    start_remaining_s: float = 0.0
    can_wake: bool = True
    detail: str = ""


class RungLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway tells of one rung, for decisions about its replicas.

    Args:
        served_model: The name clients send.
        rung: Its place on that ladder.
        num_held: Requests that wait for a replica to wake or start.
        num_queued: Requests that wait for room.
        num_in_flight: Requests under way.
        num_degraded: Requests under way on lower rungs for want of room on this one, in requests of its own speed.
        attainment: Share of recent answers that kept the promise; None where there were too few.
    """

    served_model: str
    rung: int
    num_held: int = 0
    num_queued: int = 0
    num_in_flight: int = 0
    num_degraded: float = 0.0
    attainment: float | None = None


class ReplicaControl(Protocol):
    """What the gateway asks and tells."""

    def status(self, served_model: str, rung: int) -> RungStatus:
        """How a rung stands, as far as is known here; UNKNOWN where nobody manages it. Never waits."""
        ...

    def wake(self, served_model: str, rung: int) -> None:
        """A request wants this rung. Idempotent, returns at once; starting is single-flight."""
        ...

    async def changed(self) -> None:
        """Returns when a status may have changed since the call."""
        ...
