"""The one shape of a thing that answers OpenAI requests: an engine worker, or a layer wrapped round another engine.

A call is opened, its reply's body is read, and leaving the context releases everything, on every path. Opening returns
at the *commit point*, when the first byte of the body is there: until then a caller may try another replica, after it
never.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec

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


class Degrade(StrEnum):
    """Whether a lower rung than the one asked for may answer."""

    ALLOWED = "allowed"
    PREFERRED = "preferred"
    NEVER = "never"


class CallTerms(msgspec.Struct, frozen=True):
    """What one request may cost, how long it may wait and what it accepts; decided once, from its key, head and body.

    Args:
        tenant: Whose limits apply; "" where no keys are in use.
        priority: Name of its class, always a configured one.
        importance: Of that class: the highest is served first and shed last.
        session: Requests of one session stay on one replica and one rung where they can; "" is none.
        num_prompt_tokens: An estimate, made from the size of the prompt.
        max_output_tokens: The most it may generate: what it asks for, else the configured bound.
        deadline_s: On the monotonic clock; after it nobody waits for the first byte any more.
        max_wait_s: Longest time in the queue.
        may_leave: Whether it may be answered elsewhere than on the machines of the deployment.
        ttft_s: Time to first token it was promised.
        tpot_s: Time per output token after the first it was promised.
        degrade: Whether a lower rung may answer.
        min_quality: Least share of the reference's quality it accepts.
        trimmed_output_tokens: What `max_output_tokens` may be cut to at peak load; None where it may not.
        reads_cache: Whether a stored answer may be given.
        stores_in_cache: Whether the answer may be stored.
        max_cached_age_s: Oldest stored answer it accepts.
    """

    tenant: str = ""
    priority: str = "default"
    importance: int = 0
    session: str = ""
    num_prompt_tokens: int = 0
    max_output_tokens: int = 0
    deadline_s: float = math.inf
    max_wait_s: float = math.inf
    may_leave: bool = True
    ttft_s: float = math.inf
    tpot_s: float = math.inf
    degrade: Degrade = Degrade.ALLOWED
    min_quality: float = 0.0
    trimmed_output_tokens: int | None = None
    reads_cache: bool = True
    stores_in_cache: bool = True
    max_cached_age_s: float = math.inf


ANY_TERMS = CallTerms()
"""Of a call about which nothing was decided."""


@dataclass(frozen=True)
class EngineCall:
    """One request on its way to an engine; `body` is forwarded byte for byte.

    `served_model` is the configured name whose ladder it is for, `rung` the rung of it that is to answer (0 is the
    top), `excluded` names the replicas that were tried. `is_pinned` says that the client addressed the rung by name, so
    that no other may answer; `wants_usage`, that it asked for the token counts of its stream.
    """

    path: str
    body: bytes
    request_id: str
    model: str
    is_streaming: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    rung: int = 0
    excluded: frozenset[str] = frozenset()
    is_pinned: bool = False
    wants_usage: bool = False
    served_model: str = ""
    terms: CallTerms = ANY_TERMS


@dataclass(slots=True)
class TokenUsage:
    """Tokens of one reply, filled in while its body passes.

    `is_reported` says that the engine itself counted; until then `num_output_tokens` counts the events of a stream,
    which is what an answer that breaks off is settled by.
    """

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    is_reported: bool = False


@dataclass(slots=True)
class EngineReply:
    """A committed reply. `chunks` yields the body as it arrives; it may raise `StreamBrokenError`.

    On its way up each layer fills in what it knows; it has one owner at a time.

    Header names are lower-case. `upstream_s` is the time the replica itself took to the first byte, `queue_s` the time
    the request waited for its turn. `usage` is complete when `chunks` is at its end. `degraded` says why a lower rung
    answered than the one asked for; "" where none did.
    """

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]
    replica: str
    num_attempts: int = 1
    upstream_s: float = 0.0
    queue_s: float = 0.0
    rung: int = 0
    degraded: str = ""
    usage: TokenUsage = field(default_factory=TokenUsage)


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
