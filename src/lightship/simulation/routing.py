"""Which replica of a rung, by the gateway's `pick_replica`, over those of them that it could choose.

Without sessions and prefixes its choice is the least work in flight, then the longest idle, then the first by name.
With a thousand replicas, looking at all of them for each request would be most of a simulation. A heap keeps the two
first in that order, and `pick_replica` chooses between them. A test holds that the choice is that over all.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

from lightship.gateway.routing.config import RoutingConfig
from lightship.gateway.routing.picking import Choice, ReplicaState, RequestFacts, pick_replica

# Below this many replicas all of them are looked at.
_FEW = 8
# Entries that are not true any more, per replica, before the heap is made anew.
_STALE_PER_REPLICA = 8

_Entry = tuple[float, int, str, ReplicaState]


class RungRouting:
    """The replicas of one rung.

    Args:
        rung: Which.
        config: How requests are shared.
    """

    def __init__(self, rung: int, config: RoutingConfig) -> None:
        self.rung = rung
        self._config = config
        self._states: dict[str, ReplicaState] = {}
        self._heap: list[_Entry] = []
        self._is_complete = False  # whether the heap has every replica as it stands
        self.num_ready = 0

    def add(self, state: ReplicaState) -> None:
        """A replica is ready."""
        self._states[state.name] = state
        state.is_ready = True
        self.num_ready += 1
        self.note(state)

    def remove(self, state: ReplicaState) -> None:
        """It takes nothing new any more."""
        if self._states.pop(state.name, None) is not None:
            self.num_ready -= 1
        state.is_ready = False

    def note(self, state: ReplicaState) -> None:
        """Its work has changed, or whether it is kept away from."""
        if len(self._states) <= _FEW:
            self._is_complete = False
        elif self._is_complete and state.is_ready:
            heapq.heappush(self._heap, (state.work_s, state.last_start, state.name, state))
            if len(self._heap) > _STALE_PER_REPLICA * len(self._states):
                self._rebuild()

    def pick(self, *, excluded: Collection[str], now_s: float) -> Choice:
        """The gateway's choice."""
        facts = RequestFacts(rung=self.rung, now_s=now_s, excluded=excluded)
        if len(self._states) > _FEW:
            first = self._first_usable(excluded, now_s)
            if first:
                return pick_replica(first, facts, self._config)
        return pick_replica(list(self._states.values()), facts, self._config)

    def _first_usable(self, excluded: Collection[str], now_s: float) -> list[ReplicaState]:
        """The one or two usable ones that come first in the order of `pick_replica`."""
        if not self._is_complete:
            self._rebuild()
        heap = self._heap
        found: list[ReplicaState] = []
        kept: list[_Entry] = []
        while heap and len(found) < 2:
            entry = heap[0]
            work_s, last_start, name, state = entry
            if not state.is_ready or work_s != state.work_s or last_start != state.last_start:
                heapq.heappop(heap)
                continue
            heapq.heappop(heap)
            if kept and kept[-1][3] is state:
                continue  # the same entry twice
            kept.append(entry)
            is_usable = state.blocked_until_s <= now_s and state.num_in_flight < state.max_in_flight
            if is_usable and name not in excluded:
                found.append(state)
        for entry in kept:
            heapq.heappush(heap, entry)
        return found

    def _rebuild(self) -> None:
        self._heap = [(one.work_s, one.last_start, one.name, one) for one in self._states.values()]
        heapq.heapify(self._heap)
        self._is_complete = True
