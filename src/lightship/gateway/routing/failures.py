"""What a failed attempt says: about its replica, and about a second try."""

from __future__ import annotations

from lightship.gateway.routing.breaker import Verdict
from lightship.ports.engine import AttemptError, AttemptFailure, StreamBrokenError

CONNECT_FAILURES = frozenset({AttemptFailure.CONNECT, AttemptFailure.CONNECT_TIMEOUT})


# Of the words of `x-reject-reason`, those that speak of capacity. One that stops or starts says nothing of the others.
_FULL = frozenset({"queue-full", "saturated", "deadline"})


def is_refusal(error: AttemptError) -> bool:
    """Whether the replica refused of its own accord: it works, and says why in `x-reject-reason`."""
    return _reject_reason(error) is not None


def is_shed(error: AttemptError) -> bool:
    """Whether the replica refused because it is full."""
    return _reject_reason(error) in _FULL


def _reject_reason(error: AttemptError) -> str | None:
    return None if error.api_error is None else error.api_error.headers.get("x-reject-reason")


def verdict_of_failure(error: BaseException) -> Verdict:
    """What an attempt that ended with this exception says about its replica.

    A client that left, a request that was refused and a bug of ours say nothing.
    """
    if isinstance(error, StreamBrokenError):
        return Verdict.BAD
    if isinstance(error, AttemptError):
        return Verdict.NEITHER if is_refusal(error) else Verdict.BAD
    return Verdict.NEITHER


def verdict_of_answer(status: int) -> Verdict:
    """What a complete answer says: the replica works; an answer about the request's own mistakes proves less."""
    return Verdict.GOOD if status < 300 else Verdict.NEITHER
