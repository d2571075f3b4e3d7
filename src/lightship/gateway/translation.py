"""The one place where what went wrong inside becomes what a client is told.

Addresses and exception texts stay in the log: a client learns what happened, not what the machines are called.
"""

from __future__ import annotations

from collections.abc import Callable

from lightship.ports.engine import AttemptError, AttemptFailure, Outcome
from lightship.wire.errors import ApiError, overloaded, upstream_failed, upstream_timed_out

_Answer = Callable[[], ApiError]


def to_api_error(error: AttemptError) -> ApiError:
    """The answer to a request none of whose attempts gave a first byte. A replica's own error object is passed on."""
    if error.api_error is not None:
        error.api_error.origin = error.api_error.origin or "engine"
        return error.api_error
    return from_here(_TABLE[error.failure]())


_TABLE: dict[AttemptFailure, _Answer] = {
    AttemptFailure.CONNECT: lambda: upstream_failed("The model's engine cannot be reached. Try again."),
    AttemptFailure.CONNECT_TIMEOUT: lambda: upstream_timed_out("The model's engine did not take the connection."),
    AttemptFailure.FIRST_TOKEN_TIMEOUT: lambda: upstream_timed_out("The model's engine did not answer in time."),
    AttemptFailure.CLOSED_EARLY: lambda: upstream_failed("The model's engine broke off before it answered."),
    AttemptFailure.BAD_STATUS: lambda: upstream_failed("The model's engine failed."),
    AttemptFailure.NO_REPLICA: lambda: overloaded("No engine is ready for this model.", reason="no-variant"),
}


def from_here(error: ApiError) -> ApiError:
    """The same error, saying that the gateway is who answers."""
    error.origin = error.origin or "gateway"
    return error


def outcome_of(status: int) -> Outcome:
    """How a request with a complete answer of this status ended.

    What an engine refuses (4xx), and what there is no capacity for (503), was never queued; other 5xx are failures.
    """
    if status == 503 or 400 <= status < 500:
        return Outcome.REJECTED
    return Outcome.FAILED if status >= 500 else Outcome.SERVED
