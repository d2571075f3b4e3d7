"""Virtual time: what happens next, in order; at equal times in the order in which it was planned."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[[float, Any], None]


class EventQueue:
    """Planned actions, each called with the time and its argument."""

    __slots__ = ("_heap", "_num_planned", "now_s")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action, Any]] = []
        self._num_planned = 0
        self.now_s = 0.0

    def plan(self, at_s: float, action: Action, argument: Any = None) -> None:
        """Calls `action(at_s, argument)` at that time; never earlier than now."""
        self._num_planned += 1
        heapq.heappush(self._heap, (at_s, self._num_planned, action, argument))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Lets time pass until it is over, or nothing is planned."""
        heap, pop = self._heap, heapq.heappop
        while heap:
            at_s, _, action, argument = pop(heap)
            self.now_s = max(self.now_s, at_s)
            action(self.now_s, argument)
            if is_over():
                return

    # `Clock`, as far as the gateway's parts ask for it

    def monotonic_s(self) -> float:
        """Now."""
        return self.now_s

    def unix_s(self) -> float:
        """Now; the simulation begins at 0."""
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        """Nobody may wait in virtual time: raises RuntimeError."""
        raise RuntimeError(f"nothing in a simulation sleeps, and something wanted to for {duration_s:g} s")
