"""Which replica gets an attempt: a pure decision over what is known of the replicas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class ChoiceReason(StrEnum):
    """Why a replica was chosen, or why none was."""

    LEAST_IN_FLIGHT = "least-in-flight"
    ONLY_ONE_READY = "only-one-ready"
    NO_SUCH_RUNG = "no-such-rung"
    NONE_READY = "none-ready"
    ALL_TRIED = "all-tried"


@dataclass(slots=True)
class ReplicaState:
    """What routing knows of one replica; only its owner changes it.

    `last_start` is the number of the latest attempt given to it, counted over all replicas, and 0 before the first.
    """

    name: str
    rung: int
    is_ready: bool = False
    num_in_flight: int = 0
    last_start: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The replica to use, or None; and why."""

    replica: ReplicaState | None
    reason: ChoiceReason


def pick_replica(replicas: Sequence[ReplicaState], *, rung: int, excluded: Collection[str] = ()) -> Choice:
    """The ready replica of the rung with the fewest requests in flight.

    Among equals the one whose latest attempt is longest ago, then the first by name: every replica gets its turn, and
    one that comes back is not flooded until it has caught up.

    >>> a, b = ReplicaState("a", 0, is_ready=True, num_in_flight=3), ReplicaState("b", 0, is_ready=True)
    >>> pick_replica([a, b], rung=0).replica.name
    'b'
    """
    best: ReplicaState | None = None
    best_key = (0, 0, "")
    num_on_rung = num_ready = num_open = 0
    for replica in replicas:
        if replica.rung != rung:
            continue
        num_on_rung += 1
        if not replica.is_ready:
            continue
        num_ready += 1
        if replica.name in excluded:
            continue
        num_open += 1
        key = (replica.num_in_flight, replica.last_start, replica.name)
        if best is None or key < best_key:
            best, best_key = replica, key
    if best is not None:
        return Choice(best, ChoiceReason.ONLY_ONE_READY if num_open == 1 else ChoiceReason.LEAST_IN_FLIGHT)
    if not num_on_rung:
        return Choice(None, ChoiceReason.NO_SUCH_RUNG)
    return Choice(None, ChoiceReason.ALL_TRIED if num_ready else ChoiceReason.NONE_READY)
