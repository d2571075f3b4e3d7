"""Faults on purpose: which request meets which one. Decides only; `faulty_call` acts.

A rule either hits a share of the requests, drawn from a seed, or the next so many, or both: a share of requests until
so many were hit. The first rule that hits wins, in the order they were given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from lightship.wire.errors import ApiError, overloaded


class FaultKind(StrEnum):
    """What goes wrong. `after_events` of the rule says how far a stream comes first."""

    HANG = "hang"  # nothing more is sent; the connection stays open
    STATUS = "status"  # an error answer instead of a stream
    SLOW_FIRST_BYTE = "slow_first_byte"  # `delay_s` before anything else happens
    ERROR_EVENT = "error_event"  # an error object as an event; the stream ends without [DONE]
    TRUNCATE = "truncate"  # the connection is closed in the middle of the body
    TRICKLE = "trickle"  # `delay_s` before each event
    RESET = "reset"  # the connection is reset (TCP RST)


class FaultRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault and whom it hits.

    Args:
        kind: What goes wrong.
        share: Share of requests that are hit.
        num_requests: After so many hits the rule is spent; None never.
        delay_s: For `slow_first_byte` and `trickle`.
        status: For `status`: 500, 502 or 503.
        retry_after_s: For `status` 503: the `Retry-After` header.
        after_events: For `hang`, `error_event`, `truncate` and `reset`: chunks of a stream that arrive first. An
            answer that is not streamed breaks in the middle of its body when this is over 0.
    """

    kind: FaultKind
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    num_requests: Annotated[int, msgspec.Meta(ge=1)] | None = None
    delay_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] | None = None
    status: Annotated[int, msgspec.Meta(ge=500, le=503)] | None = None
    retry_after_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    after_events: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError: a field is missing that the kind needs, or set although the kind does not use it."""
        uses = _USES[self.kind]
        for name in ("delay_s", "status", "retry_after_s", "after_events"):
            if getattr(self, name) is not None and name not in uses:
                raise ValueError(f"{name} has no meaning for the fault {self.kind.value}")
        if "delay_s" in uses and self.delay_s is None:
            raise ValueError(f"the fault {self.kind.value} needs delay_s")
        if self.status == 501:
            raise ValueError("status must be 500, 502 or 503")
        if self.retry_after_s is not None and self.status not in (None, 503):
            raise ValueError("retry_after_s has a meaning for status 503 only")

    @property
    def num_events_before(self) -> int:
        """Chunks of a stream that arrive first."""
        if self.after_events is not None:
            return self.after_events
        return 1 if self.kind in (FaultKind.ERROR_EVENT, FaultKind.TRUNCATE) else 0


_USES: dict[FaultKind, frozenset[str]] = {
    FaultKind.HANG: frozenset({"after_events"}),
    FaultKind.STATUS: frozenset({"status", "retry_after_s"}),
    FaultKind.SLOW_FIRST_BYTE: frozenset({"delay_s"}),
    FaultKind.ERROR_EVENT: frozenset({"after_events"}),
    FaultKind.TRUNCATE: frozenset({"after_events"}),
    FaultKind.TRICKLE: frozenset({"delay_s"}),
    FaultKind.RESET: frozenset({"after_events"}),
}
_DEFAULT_STATUS = 503


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules and the seed of the draws."""

    rules: tuple[FaultRule, ...] = ()
    seed: int = 0


class FaultDraws:
    """Draws the fault of each request; equal plans draw equally."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.num_hits = [0] * len(plan.rules)
        self._rng = random.Random(plan.seed)

    def draw(self) -> FaultRule | None:
        """The fault of the next request. One number is drawn per rule, whatever the rules before it did."""
        draws = [self._rng.random() for _ in self.plan.rules]
        for index, (rule, number) in enumerate(zip(self.plan.rules, draws, strict=True)):
            is_spent = rule.num_requests is not None and self.num_hits[index] >= rule.num_requests
            if not is_spent and number < rule.share:
                self.num_hits[index] += 1
                return rule
        return None


def status_error(rule: FaultRule) -> ApiError:
    """The error answer of a `status` rule."""
    status = rule.status or _DEFAULT_STATUS
    if status == 503:
        retry_after_s = 1.0 if rule.retry_after_s is None else rule.retry_after_s
        return overloaded("Simulated fault: overloaded.", reason="simulated", retry_after_s=retry_after_s)
    return injected_error(status)


def injected_error(status: int = 500) -> ApiError:
    """An error that was ordered."""
    return ApiError(
        status, f"Simulated fault: status {status}.", type="server_error", code="simulated_fault", origin="engine"
    )


def parse_fault(text: str) -> FaultRule:
    """A rule as people write it: a kind, then options.

    Args:
        text: `KIND[:NAME=VALUE[,NAME=VALUE...]]`; a number as the kind means `status`.

    Raises: ValueError: not a rule; the message says why.

    >>> parse_fault("503:share=0.1,retry_after_s=2").status
    503
    """
    kind, _, rest = text.partition(":")
    document: dict[str, object] = {"kind": "status", "status": kind} if kind.isdigit() else {"kind": kind}
    for option in filter(None, rest.split(",")):
        name, separator, value = option.partition("=")
        if not separator:
            raise ValueError(f"{option!r} is not NAME=VALUE")
        document[name.strip()] = value.strip()
    try:
        return msgspec.convert(document, FaultRule, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def spell_rules(rules: Sequence[FaultRule]) -> str:
    """The rules in one line, for a log."""
    return ", ".join(msgspec.json.encode(rule).decode() for rule in rules) or "none"
