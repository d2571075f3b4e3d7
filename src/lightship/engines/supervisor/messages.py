"""What a gateway process and the supervisor of its replicas tell each other: one JSON object per line.

supervisor -> gateway   Replicas   at once, and at every change
gateway -> supervisor   Wake       a request wants a rung
                        Loads      how each rung stands, now and then
                        Seen       a version of Replicas is in use: what drains there gets nothing new
"""

from __future__ import annotations

import msgspec

from lightship.ports.replica_control import ReplicaPhase, RungLoad

MAX_LINE_BYTES = 2**20


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica; `name` is that of its entry in the gateway's configuration.

    Args:
        name: Of the replica.
        served_model: The name clients send.
        rung: Its place on that ladder.
        phase: Where it stands.
        start_remaining_s: Estimate of the time until it is ready; of a sleeping one, what a start usually takes.
        can_wake: Whether a request may wait for it.
        detail: Why it stands there, for people.
        pid: Of its process; 0 where there is none.
    """

    name: str
    served_model: str
    rung: int
    phase: ReplicaPhase
    start_remaining_s: float = 0.0
    can_wake: bool = True
    detail: str = ""
    pid: int = 0


class Replicas(msgspec.Struct, frozen=True, tag=True):
    """All replicas; a higher version is newer."""

    version: int
    replicas: tuple[ReplicaStatus, ...]


class Wake(msgspec.Struct, frozen=True, tag=True):
    """A request wants this rung."""

    served_model: str
    rung: int


class Loads(msgspec.Struct, frozen=True, tag=True):
    """How the rungs stand in this gateway process."""

    loads: tuple[RungLoad, ...]


class Seen(msgspec.Struct, frozen=True, tag=True):
    """This version is in use."""

    version: int


ToSupervisor = Wake | Loads | Seen
