"""One request on its way through the dispatcher, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from lightship.gateway.dispatch.ladder import RungReason
from lightship.gateway.dispatch.ladder_state import RungPlace
from lightship.gateway.tenants import fairness
from lightship.ports.engine import CallTerms, Degrade


class RefusalReason(StrEnum):
    """Why a request was not served: the words of `x-reject-reason`."""

    QUEUE_FULL = "queue-full"
    DEADLINE = "deadline"
    SATURATED = "saturated"
    NO_VARIANT = "no-variant"


@dataclass(eq=False, slots=True)
class Ticket:
    """What the dispatcher is told of a request, then its own record of it.

        offered --> WAITING --> STARTED --> finished
           |           '--> evicted
           '--> refused

    Args:
        served_model: Whose ladder it is for.
        asked_rung: The rung its model name leads to.
        is_pinned: No other rung may answer.
        terms: What it accepts and was promised.
        arrived_s: On the monotonic clock.
        is_streamed: Its first byte says when its prompt was computed; without that its prompt counts nowhere.
        handle: Belongs to whoever made the ticket.
        avoided: Rungs on which it was tried already, and failed before its first byte.
    """

    served_model: str
    asked_rung: int
    is_pinned: bool
    terms: CallTerms
    arrived_s: float
    is_streamed: bool = True
    handle: Any = None
    avoided: frozenset[int] = frozenset()
    # Results: where and why it was started.
    rung: int = field(default=-1, init=False)
    reason: RungReason = field(default=RungReason.ASKED, init=False)
    is_trimmed: bool = field(default=False, init=False)
    started_s: float = field(default=0.0, init=False)
    # The dispatcher's own.
    is_waiting: bool = field(default=False, init=False)
    start_by_s: float = field(default=0.0, init=False)
    line: fairness.Ticket[Ticket] | None = field(default=None, init=False)
    place: RungPlace | None = field(default=None, init=False)
    share: float = field(default=0.0, init=False)
    num_tokens: float = field(default=0.0, init=False)
    tokens_ahead: float = field(default=0.0, init=False)
    num_together: int = field(default=0, init=False)
    is_prefill_ahead: bool = field(default=False, init=False)
    paid_loss: float | None = field(default=None, init=False)
    paid_usd: float = field(default=0.0, init=False)

    @property
    def counts_against_budget(self) -> bool:
        """Whether the quality budget is about it: not where the client asked for less."""
        return not self.is_pinned and self.terms.degrade is not Degrade.PREFERRED

    @property
    def is_short_of_room(self) -> bool:
        """Whether it started on a lower rung than it wants because that one had no room, or no replica."""
        is_lower = self.rung > self.asked_rung and self.terms.degrade is not Degrade.PREFERRED
        return is_lower and self.reason in {RungReason.LEVEL, RungReason.UNAVAILABLE}


class Answered(msgspec.Struct, frozen=True):
    """What a request saw of its engine. `ttft_s` counts from its start there; `tpot_s` is None below two tokens."""

    ttft_s: float
    tpot_s: float | None
    num_output_tokens: int


class Start(msgspec.Struct, frozen=True):
    """The ticket starts now; `rung`, `reason` and `is_trimmed` stand in it."""

    ticket: Ticket


class Wait(msgspec.Struct, frozen=True):
    """The ticket waits; the dispatcher will say when it starts or has to go."""

    ticket: Ticket


class Refuse(msgspec.Struct, frozen=True):
    """The ticket is refused, or was waiting and has to go. `may_retry` says whether another try could do better."""

    ticket: Ticket
    reason: RefusalReason
    retry_after_s: float = 1.0
    may_retry: bool = True


Decision = Start | Wait | Refuse
