"""A queue that serves tenants by the tokens they had, so that nobody who sends more gets more than a share.

One queue is one priority class. Each tenant has a virtual counter, `w_in * prompt tokens + w_out * output tokens` of
what was dispatched for it; the smallest counter among tenants that wait goes next, first come first served within one.

    ticket = queue.push("team-a", item, num_prompt_tokens=300, num_output_tokens=200)   # O(log n)
    ticket = queue.pop()             # the next one, charged with what `push` said; None when nobody waits; O(log n)
    queue.peek()                     # the one `pop` would give, not charged
    queue.remove(ticket)             # a client left or its deadline passed; False when it no longer waits; O(log n)
    queue.settle(ticket, num_prompt_tokens=300, num_output_tokens=57)   # once it is over, on every path; O(log n)
    queue.longest()                  # whom to send away when the queue is full: else one tenant could fill it

`remove` and `settle` tell by the ticket whether there is something to do, so a `finally` may call
`queue.remove(ticket) or queue.settle(ticket, ...)` whatever happened before; what was dispatched and generated nothing
is settled with zeros.

A tenant that comes back from having nothing in the queue is lifted to the smallest counter of those that wait, or to
the largest that anybody was served at less the charge of `kept_requests` like the one it comes with, if that is
smaller: it cannot save up a right to be served for the time it was away. With nothing kept, as in the paper, the
tenant that sends less gets less where queues are short: its line runs empty for a moment again and again, and each
time what it was behind is forgotten.

Bound: let U be the largest charge of one request, and O the largest sum by which the charges of a tenant's running
requests can differ from what they turn out to cost. While two tenants both have something waiting, the service they get
differs by at most 2 (U + O); with exact charges by 2 U; and by `kept_requests` + 1 U more after one has come back.

Does not: know time, priorities or capacity.
Source: the Virtual Token Counter, arXiv:2401.00588, algorithm 2. It charges output tokens while they are generated;
here an expectation is charged at dispatch and settled at the end, so that nothing is done per token.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

T = TypeVar("T")

# Stale heap entries that are kept at least before the heap is rebuilt; of the order of one rebuild per request saved.
_STALE_ALLOWED = 64


class _Stage(Enum):
    """waiting -> running -> over; or waiting -> over."""

    WAITING = auto()
    RUNNING = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """What one token costs; an output token takes a whole step of the engine, a prompt token a part of one."""

    prompt: float = 1.0
    output: float = 2.0


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One item's place. `charge` is what its tenant's counter was, or will be, raised by."""

    tenant: str
    item: T
    charge: float
    position: int
    _stage: _Stage = field(default=_Stage.WAITING, repr=False)

    @property
    def is_waiting(self) -> bool:
        """Whether it is still in the queue."""
        return self._stage is _Stage.WAITING


@dataclass(slots=True, eq=False)
class _Tenant(Generic[T]):
    name: str
    counter: float = 0.0
    num_running: int = 0
    waiting_charge: float = 0.0
    # Raised with every change of its place among the tenants; an entry of the heap with another number is stale.
    version: int = 0
    waiting: OrderedDict[int, Ticket[T]] = field(default_factory=OrderedDict)

    @property
    def first(self) -> Ticket[T]:
        return next(iter(self.waiting.values()))


class FairQueue(Generic[T]):
    """See the module.

    Args:
        weights: Of prompt and output tokens.
        max_idle_tenants: So many tenants with nothing waiting or running are remembered, the latest ones. One that is
            forgotten starts anew, with at most the debt of its last requests forgiven.
        kept_requests: So many requests' charges a remembered tenant may be behind the others when it comes back.

    Concurrency: one event loop; nothing here awaits.
    """

    def __init__(
        self, *, weights: TokenWeights | None = None, max_idle_tenants: int = 10_000, kept_requests: int = 0
    ) -> None:
        self._weights = weights or TokenWeights()
        self._kept_requests = kept_requests
        self._max_idle_tenants = max_idle_tenants
        self._tenants: dict[str, _Tenant[T]] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._heap: list[tuple[float, int, int, _Tenant[T]]] = []
        self._num_active = 0
        self._num_waiting = 0
        self._next_position = 0
        self._last_left: _Tenant[T] | None = None
        self._latest_start = 0.0  # the largest counter anybody was served at

    def __len__(self) -> int:
        """Items that wait."""
        return self._num_waiting

    @property
    def num_tenants(self) -> int:
        """Tenants that are remembered."""
        return len(self._tenants)

    def num_waiting(self, tenant: str) -> int:
        """Items of this tenant that wait."""
        known = self._tenants.get(tenant)
        return len(known.waiting) if known else 0

    def counter(self, tenant: str) -> float:
        """What was dispatched for this tenant, weighted; 0 for one that is not known."""
        known = self._tenants.get(tenant)
        return known.counter if known else 0.0

    def push(self, tenant: str, item: T, *, num_prompt_tokens: int, num_output_tokens: int) -> Ticket[T]:
        """The item's place at the end of its tenant's line; `num_output_tokens` is what is expected of it."""
        charge = self._cost(num_prompt_tokens, num_output_tokens)
        ticket = Ticket(tenant, item, charge, self._next_position)
        self._next_position += 1
        state = self._tenants.get(tenant)
        kept = 0.0
        if state is None:
            state = self._tenants[tenant] = _Tenant(tenant)
        else:
            self._idle.pop(tenant, None)
            kept = self._kept_requests * charge
        if not state.waiting:
            # From the latest start, not from the smallest that waits: that one may itself have come back with a rest
            # kept, and many that come back would each go below the one before.
            floor = min(self._floor(), self._latest_start - kept) if kept else self._floor()
            state.counter = max(state.counter, floor)
            self._num_active += 1
            state.waiting[ticket.position] = ticket
            self._place(state)
        else:
            state.waiting[ticket.position] = ticket
        self._num_waiting += 1
        state.waiting_charge += charge
        return ticket

    def peek(self) -> Ticket[T] | None:
        """The ticket `pop` would give."""
        state = self._smallest()
        return state.first if state else None

    def pop(self) -> Ticket[T] | None:
        """The next ticket: its tenant is charged, and `settle` has to follow; None when nobody waits."""
        state = self._smallest()
        if state is None:
            return None
        _, ticket = state.waiting.popitem(last=False)
        ticket._stage = _Stage.RUNNING  # the queue owns its tickets
        self._num_waiting -= 1
        state.waiting_charge = state.waiting_charge - ticket.charge if state.waiting else 0.0
        state.num_running += 1
        self._latest_start = max(self._latest_start, state.counter)
        state.counter += ticket.charge
        self._waiting_changed(state)
        return ticket

    def remove(self, ticket: Ticket[T]) -> bool:
        """Whether the ticket was waiting; it no longer is, and its tenant owes nothing for it."""
        if ticket._stage is not _Stage.WAITING:
            return False
        ticket._stage = _Stage.OVER
        state = self._tenants[ticket.tenant]
        is_first = state.first is ticket
        del state.waiting[ticket.position]
        self._num_waiting -= 1
        state.waiting_charge = state.waiting_charge - ticket.charge if state.waiting else 0.0
        if is_first or not state.waiting:
            self._waiting_changed(state)
        return True

    def settle(self, ticket: Ticket[T], *, num_prompt_tokens: int, num_output_tokens: int) -> bool:
        """Whether the ticket was running; its tenant has now paid what it really took."""
        if ticket._stage is not _Stage.RUNNING:
            return False
        ticket._stage = _Stage.OVER
        state = self._tenants[ticket.tenant]
        state.num_running -= 1
        difference = self._cost(num_prompt_tokens, num_output_tokens) - ticket.charge
        if difference:
            state.counter += difference
            if state.waiting:
                self._place(state)
        self._forget_if_idle(state)
        return True

    def longest(self) -> Ticket[T] | None:
        """The newest ticket of the tenant with the most waiting, the one with the largest counter of several.

        Takes time in the number of tenants: it is for the moment when a queue is full.
        """
        active = [state for state in self._tenants.values() if state.waiting]
        if not active:
            return None
        state = max(active, key=lambda state: (len(state.waiting), state.counter))
        return next(reversed(state.waiting.values()))

    def virtual_end(self, tenant: str) -> float:
        """What the tenant's counter will be when all it waits for was dispatched."""
        known = self._tenants.get(tenant)
        if known is None or not known.waiting:
            return max(known.counter if known else 0.0, self._floor())
        return known.counter + known.waiting_charge

    def last(self) -> Ticket[T] | None:
        """The newest ticket of the tenant with the largest virtual end: the one that would be served last.

        Takes time in the number of tenants, as `longest` does.
        """
        active = [state for state in self._tenants.values() if state.waiting]
        if not active:
            return None
        state = max(active, key=lambda state: state.counter + state.waiting_charge)
        return next(reversed(state.waiting.values()))

    def _cost(self, num_prompt_tokens: int, num_output_tokens: int) -> float:
        return self._weights.prompt * num_prompt_tokens + self._weights.output * num_output_tokens

    def _floor(self) -> float:
        """The counter a tenant that comes back is lifted to: of those that wait, else of the last one that did."""
        smallest = self._smallest() or self._last_left
        return smallest.counter if smallest else 0.0

    def _waiting_changed(self, state: _Tenant[T]) -> None:
        if state.waiting:
            self._place(state)
            return
        state.version += 1
        self._num_active -= 1
        self._last_left = state
        self._forget_if_idle(state)

    def _place(self, state: _Tenant[T]) -> None:
        """Equal counters: whose first item came first."""
        state.version += 1
        if len(self._heap) > 2 * self._num_active + _STALE_ALLOWED:
            self._heap = [entry for entry in self._heap if entry[2] == entry[3].version]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (state.counter, state.first.position, state.version, state))

    def _smallest(self) -> _Tenant[T] | None:
        heap = self._heap
        while heap:
            state = heap[0][3]
            if heap[0][2] == state.version:
                return state
            heapq.heappop(heap)
        return None

    def _forget_if_idle(self, state: _Tenant[T]) -> None:
        if state.waiting or state.num_running:
            return
        self._idle[state.name] = None
        self._idle.move_to_end(state.name)
        while len(self._idle) > self._max_idle_tenants:
            name, _ = self._idle.popitem(last=False)
            del self._tenants[name]
