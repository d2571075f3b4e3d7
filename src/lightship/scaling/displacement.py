"""Which sleeping-to-be replicas make room for one that is wanted, where memory does not hold all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A replica that holds memory.

    Args:
        name: Of the replica.
        memory_bytes: What it holds, or is going to hold.
        last_used_s: When a request of it last began or ended.
        is_busy: Requests are under way or wait for it; it is never displaced.
        is_kept: It is one of those that always run; nor is it.
    """

    name: str
    memory_bytes: int
    last_used_s: float
    is_busy: bool = False
    is_kept: bool = False


@dataclass(frozen=True)
class Displacement:
    """Who has to go, least recently used first, so that there is room; `missing_bytes` is over 0 where there is not."""

    names: tuple[str, ...]
    missing_bytes: int = 0


def make_room(residents: Iterable[Resident], *, needed_bytes: int, budget_bytes: int) -> Displacement:
    """The idle replicas to stop, least recently used first, before one that needs `needed_bytes` is started.

    Nobody is stopped in vain: where even all idle ones together do not make room, `names` is empty.
    """
    residents = list(residents)
    excess = sum(one.memory_bytes for one in residents) + needed_bytes - budget_bytes
    names: list[str] = []
    idle = [one for one in residents if not one.is_busy and not one.is_kept]
    for one in sorted(idle, key=lambda one: (one.last_used_s, one.name)):
        if excess <= 0:
            break
        names.append(one.name)
        excess -= one.memory_bytes
    if excess > 0:
        return Displacement((), excess)
    return Displacement(tuple(names))
