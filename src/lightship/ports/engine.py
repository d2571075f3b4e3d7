"""The one shape of a thing that answers OpenAI requests: an engine worker, or a layer wrapped round another engine.

A call is opened, its reply's body is read, and leaving the context releases everything, on every path. Opening returns
at the *commit point*, when the first byte of the body is there: until then a caller may try another replica, after it
never.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lightship.wire.errors import ApiError


class Outcome(StrEnum):
    """How a client's request ended; exactly one per request, low-cardinality, fit for a metric label."""

    SERVED = "served"
    DEGRADED = "degraded"
    REJECTED = "rejected"
    EVICTED = "evicted"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptFailure(StrEnum):
    """Why one attempt at a replica gave no first byte."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    CLOSED_EARLY = "closed_early"
    BAD_STATUS = "bad_status"
    NO_REPLICA = "no_replica"


class AttemptError(Exception):
    """An attempt failed before the commit point, so another replica may be tried.

    Args:
        failure: The kind, for metrics and retry decisions.
        message: What happened, with the replica's address.
        replica: Name of the replica, or "" when none was chosen.
        status: HTTP status for `BAD_STATUS`.
        api_error: The error object the replica itself sent, if it sent one.
    """

    def __init__(
        self,
        failure: AttemptFailure,
        message: str,
        *,
        replica: str = "",
        status: int | None = None,
        api_error: ApiError | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.replica = replica
        self.status = status
        self.api_error = api_error


class StreamBrokenError(Exception):
    """A reply ended, stalled or passed its time limit after the commit point; it is never retried."""


@dataclass(frozen=True)
class EngineCall:
    """One request on its way to an engine; `body` is forwarded byte for byte.

    `rung` says which rung of the ladder is to answer (0 is the top), `excluded` names the replicas that were tried.
    """

    path: str
    body: bytes
    request_id: str
    model: str
    is_streaming: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    rung: int = 0
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class EngineReply:
    """A committed reply. `chunks` yields the body as it arrives; it may raise `StreamBrokenError`.

    Header names are lower-case. `upstream_s` is the time the replica itself took to the first byte.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    replica: str
    num_attempts: int = 1
    upstream_s: float = 0.0


class Engine(Protocol):
    """Something that answers calls."""

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """Opens the call.

        Raises: AttemptError: nothing was received yet; ApiError: the request is refused.
        """
        ...


@dataclass(frozen=True)
class HopTimeouts:
    """Time limits of one hop, all finite."""

    connect_s: float
    first_token_s: float
    next_token_s: float
    total_s: float
