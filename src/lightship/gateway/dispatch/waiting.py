"""The queue: the most important class first, fair between tenants within a class, bounded, nobody past its deadline.

Strict order between classes would let a busy class starve those below it for as long as it stays busy. So one start in
`_PROMOTE_EVERY` goes to the class of whoever has waited longest; who of that class is still for its tenants' shares to
say, else the tenant with the longest line would get those starts on top of its share.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from lightship.gateway.dispatch.ticket import Ticket
from lightship.gateway.tenants.fairness import FairQueue

_PROMOTE_EVERY = 16
# Lines are short, for what would wait too long is refused. In six simulated overloads of five times capacity, two
# tenants that sent 55 and 35 % of it got output tokens as 1.05 to 1 on average with four kept, as 1.03 with sixteen.
_KEPT_REQUESTS = 16


class WaitingRoom:
    """Tickets that wait for one device.

    Args:
        max_queued: Most tickets.
    """

    def __init__(self, *, max_queued: int) -> None:
        self.max_queued = max_queued
        self.count = 0
        self._classes: dict[int, FairQueue[Ticket]] = {}  # by importance
        self._order: list[int] = []  # importances, highest first
        self._by_deadline: list[tuple[float, int, Ticket]] = []
        self._by_arrival: list[tuple[float, int, Ticket]] = []
        self._num_pushed = 0
        self._num_started = 0

    def push(self, ticket: Ticket) -> None:
        """Adds a ticket; see `make_room` for a full queue."""
        queue = self._class(ticket.terms.importance)
        ticket.line = queue.push(
            ticket.terms.tenant,
            ticket,
            num_prompt_tokens=ticket.terms.num_prompt_tokens,
            num_output_tokens=ticket.terms.max_output_tokens,
        )
        self._num_pushed += 1
        heapq.heappush(self._by_deadline, (ticket.start_by_s, self._num_pushed, ticket))
        heapq.heappush(self._by_arrival, (ticket.arrived_s, self._num_pushed, ticket))
        ticket.is_waiting = True
        self.count += 1

    def remove(self, ticket: Ticket) -> None:
        """Takes a waiting ticket out, wherever it stands; its tenant owes nothing for it."""
        assert ticket.line is not None, "only a ticket that waits can be removed"
        self._class(ticket.terms.importance).remove(ticket.line)
        self._left(ticket)

    def start(self, ticket: Ticket) -> None:
        """Takes out a ticket that starts, one of `heads`, and charges its tenant."""
        popped = self._class(ticket.terms.importance).pop()
        assert popped is ticket.line, "only the head of a class may start"
        self._num_started += 1
        self._left(ticket)

    def start_at_once(self, ticket: Ticket) -> None:
        """Charges the tenant of a ticket that starts without having waited."""
        if ticket.terms.tenant:
            queue = self._class(ticket.terms.importance)
            ticket.line = queue.push(
                ticket.terms.tenant,
                ticket,
                num_prompt_tokens=ticket.terms.num_prompt_tokens,
                num_output_tokens=ticket.terms.max_output_tokens,
            )
            popped = queue.pop()
            assert popped is ticket.line, "nobody of its class may be waiting when a ticket starts at once"

    def settle(self, ticket: Ticket, *, num_output_tokens: int) -> None:
        """A ticket that started has ended: its tenant pays what it took."""
        if ticket.line is not None:
            self._class(ticket.terms.importance).settle(
                ticket.line,
                num_prompt_tokens=ticket.terms.num_prompt_tokens if num_output_tokens else 0,
                num_output_tokens=num_output_tokens,
            )
            ticket.line = None

    def waiting(self) -> Iterator[Ticket]:
        """All of them, in no order."""
        return (ticket for _, _, ticket in self._by_arrival if ticket.is_waiting)

    def heads(self) -> Iterator[Ticket]:
        """Who may be next, in order: the head of each class, every so often first that of the longest waiting one's."""
        if self._num_started % _PROMOTE_EVERY == _PROMOTE_EVERY - 1:
            oldest = self._first(self._by_arrival)
            head = self._class(oldest.terms.importance).peek() if oldest is not None else None
            if head is not None:
                yield head.item
        for importance in self._order:
            if (head := self._classes[importance].peek()) is not None:
                yield head.item

    def num_ahead_of(self, importance: int) -> int:
        """Tickets that would be served before a new one of this class."""
        if not self.count:
            return 0
        return sum(len(queue) for level, queue in self._classes.items() if level >= importance)

    def least_worthy(self, ticket: Ticket, *, is_full: bool) -> Ticket | None:
        """The waiting ticket that has to go so that this one may come; None when this one is the least worthy.

        In a full room that is the last of the least important class below its own. Else, and within its own class, it
        is the one that would be served last, where that is later than this one.
        """
        own = ticket.terms.importance
        for importance in reversed(self._order) if is_full else (own,):
            queue = self._classes.get(importance)
            last = queue.last() if queue and importance <= own else None
            if queue is None or last is None:
                continue
            if (
                importance < own
                or queue.virtual_end(last.tenant) > queue.virtual_end(ticket.terms.tenant) + last.charge
            ):
                return last.item
        return None

    def expired(self, now_s: float) -> Iterator[Ticket]:
        """Takes out those that may not wait any longer, one by one."""
        while (first := self._first(self._by_deadline)) is not None and first.start_by_s <= now_s:
            self.remove(first)
            yield first

    def next_deadline_s(self) -> float | None:
        """When the next one has to go."""
        first = self._first(self._by_deadline)
        return None if first is None else first.start_by_s

    def oldest_arrival_s(self) -> float | None:
        """When the longest waiting one came."""
        first = self._first(self._by_arrival)
        return None if first is None else first.arrived_s

    def _class(self, importance: int) -> FairQueue[Ticket]:
        queue = self._classes.get(importance)
        if queue is None:
            queue = self._classes[importance] = FairQueue(kept_requests=_KEPT_REQUESTS)
            self._order = sorted(self._classes, reverse=True)
        return queue

    @staticmethod
    def _first(heap: list[tuple[float, int, Ticket]]) -> Ticket | None:
        while heap and not heap[0][2].is_waiting:
            heapq.heappop(heap)  # it left by another way
        return heap[0][2] if heap else None

    def _left(self, ticket: Ticket) -> None:
        ticket.is_waiting = False
        self.count -= 1
        for heap in (self._by_deadline, self._by_arrival):
            if len(heap) > 2 * self.count + 64:  # those that left do not pile up behind a long-lived head
                heap[:] = [entry for entry in heap if entry[2].is_waiting]
                heapq.heapify(heap)
