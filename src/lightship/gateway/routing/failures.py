"""What a failed attempt says: about its replica, and about a second try."""

from __future__ import annotations

from lightship.gateway.routing.breaker import Verdict
from lightship.ports.engine import AttemptError, AttemptFailure, StreamBrokenError

CONNECT_FAILURES = frozenset({AttemptFailure.CONNECT, AttemptFailure.CONNECT_TIMEOUT})


def is_shed(error: AttemptError) -> bool:
    """Whether the replica refused because it is full: it works, and says so in `x-reject-reason`."""
    return error.api_error is not None and "x-reject-reason" in error.api_error.headers


def verdict_of_failure(error: BaseException) -> Verdict:
    """What an attempt that ended with this exception says about its replica.

    A client that left, a request that was refused and a bug of ours say nothing.
    """
    if isinstance(error, StreamBrokenError):
        return Verdict.BAD
    if isinstance(error, AttemptError):
        return Verdict.NEITHER if is_shed(error) else Verdict.BAD
    return Verdict.NEITHER


def verdict_of_answer(status: int) -> Verdict:
    """What a complete answer says: the replica works; an answer about the request's own mistakes proves less."""
    return Verdict.GOOD if status < 300 else Verdict.NEITHER
