"""What a gateway counts and logs. Nothing here ever raises into a request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from lightship.gateway.activation.collector import ActivationCollector
from lightship.gateway.activation.holding import HeldEngine
from lightship.gateway.dispatch.collector import DispatchCollector
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.routing.collector import RoutingCollector
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.tenants.authentication import KeyFailure
from lightship.observability import names
from lightship.observability.counting import CountTable, TimeHistogram
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptFailure, Outcome, TokenUsage
from lightship.ports.replica_control import RungLoad

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("lightship.gateway.access")

UNKNOWN_MODEL = "unknown"


class AttemptResult(StrEnum):
    """How one attempt ended when it gave a first byte, or was given up before; else see `AttemptFailure`."""

    COMPLETE = "complete"
    BROKEN = "broken"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class RequestRecord:
    """What is to be known of one request when it is over; filled in on its way.

    `model` is a configured name or `UNKNOWN_MODEL`. `status` is 0 when nothing was sent.
    """

    path: str
    request_id: str
    started_s: float
    model: str = UNKNOWN_MODEL
    outcome: Outcome | None = None
    status: int = 0
    replica: str = ""
    num_attempts: int = 0
    first_byte_s: float | None = None
    num_bytes: int = 0
    error: str = ""
    tenant: str = ""
    priority: str = ""
    rung: int = 0
    degraded: str = ""
    cache: str = ""
    queue_s: float = 0.0
    usage: TokenUsage | None = None
    promised_ttft_s: float = math.inf
    promised_tpot_s: float = math.inf
    is_streamed: bool = False
    unix_s: float = 0.0


class _AccessLine(msgspec.Struct, frozen=True):
    unix_s: float
    request_id: str
    path: str
    model: str
    outcome: str
    status: int
    replica: str
    attempts: int
    first_byte_ms: float | None
    duration_ms: float
    bytes: int
    error: str
    tenant: str
    priority: str
    rung: int
    degraded: str
    cache: str
    queue_ms: float
    prompt_tokens: int
    output_tokens: int


class GatewayTelemetry:
    """Metrics in a registry of their own, and one log line per request.

    Labels: paths and models that are configured, outcomes and results from closed lists, replicas by their names.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = CountTable(
            names.REQUESTS,
            "Requests by how they ended.",
            [names.LABEL_PATH, names.LABEL_MODEL, names.LABEL_OUTCOME],
            registry=registry,
        )
        self._duration = TimeHistogram(
            names.REQUEST_DURATION,
            "Seconds from a request's head to its end.",
            names.DURATION_BUCKETS_S,
            registry=registry,
        )
        self._first_byte = TimeHistogram(
            names.TIME_TO_FIRST_BYTE,
            "Seconds from a request's head to the first byte of its answer.",
            names.TTFT_BUCKETS_S,
            registry=registry,
        )
        self._queue = TimeHistogram(
            names.QUEUE_TIME, "Seconds a request waited for its turn.", names.TTFT_BUCKETS_S, registry=registry
        )
        self._attempts = CountTable(
            names.ATTEMPTS,
            "Attempts at replicas by how they ended.",
            [names.LABEL_REPLICA, names.LABEL_RESULT],
            registry=registry,
        )
        self._tokens = CountTable(
            names.TOKENS, "Tokens of answers.", [names.LABEL_MODEL, names.LABEL_KIND], registry=registry
        )
        self._degraded = CountTable(
            names.DEGRADED,
            "Answers of a lower rung than asked, or cut short, by reason.",
            [names.LABEL_MODEL, names.LABEL_REASON],
            registry=registry,
        )
        self._objectives = CountTable(
            names.SLO_REQUESTS,
            "Requests by whether they kept each promise; what was cancelled is undetermined.",
            [names.LABEL_OBJECTIVE, names.LABEL_VERDICT],
            registry=registry,
        )
        self._key_failures = CountTable(
            names.KEY_FAILURES, "Requests that were not let in, by reason.", [names.LABEL_REASON], registry=registry
        )
        self._watched: ReplicaPool | None = None

    def watch_replicas(self, pool: ReplicaPool) -> None:
        """Effects: the metrics of routing read the pool's state when they are asked for, whatever replicas it has."""
        if self._watched is not pool:
            self._watched = pool
            self.registry.register(RoutingCollector(pool))

    def watch_dispatcher(self, dispatcher: Dispatcher, clock: Clock) -> None:
        """Effects: the metrics of admission are read from it when they are asked for. To be called once."""
        self.registry.register(DispatchCollector(dispatcher, clock))

    def watch_activation(self, held: HeldEngine, loads: Callable[[], Sequence[RungLoad]]) -> None:
        """Effects: the metrics of activation are read from it when they are asked for. To be called once."""
        self.registry.register(ActivationCollector(held, loads))

    def record_key_failure(self, failure: KeyFailure) -> None:
        """Counts one request that was not let in."""
        self._key_failures.add(failure.value)

    def record_attempt(self, *, replica: str, result: AttemptResult | AttemptFailure) -> None:
        """Counts one attempt."""
        try:
            self._attempts.add(replica, result.value)
        except Exception:  # noqa: BLE001 # a fault in counting must not become a fault of the request
            _log.exception("an attempt was not counted")

    def record_request(self, record: RequestRecord, *, ended_s: float) -> None:
        """Counts one request, once, and writes its log line."""
        try:
            outcome = record.outcome or Outcome.FAILED
            self._requests.add(record.path, record.model, outcome.value)
            duration_s = ended_s - record.started_s
            self._duration.observe(duration_s)
            if record.first_byte_s is not None:
                self._first_byte.observe(record.first_byte_s)
                self._queue.observe(record.queue_s)
            if record.usage is not None:
                self._count_tokens(record.model, record.usage)
            if outcome is Outcome.DEGRADED:
                reason = record.degraded.partition("reason=")[2].partition(";")[0] or "trimmed"
                self._degraded.add(record.model, reason)
            for objective, verdict in verdicts(record, outcome, duration_s=duration_s):
                self._objectives.add(objective, verdict)
            if _access_log.isEnabledFor(logging.INFO):
                _access_log.info("%s", _line(record, outcome, duration_s=duration_s))
        except Exception:  # noqa: BLE001 # a fault in counting must not become a fault of the request
            _log.exception("a request was not counted")

    def _count_tokens(self, model: str, usage: TokenUsage) -> None:
        counts = (
            ("prompt", usage.num_prompt_tokens),
            ("cached", usage.num_cached_tokens),
            ("output", usage.num_output_tokens),
        )
        for kind, count in counts:
            if count:
                self._tokens.add(model, kind, by=count)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def verdicts(record: RequestRecord, outcome: Outcome, *, duration_s: float) -> Iterator[tuple[str, str]]:
    """(objective, verdict) for each promise that was made; errors broke it, what cannot be told is left out."""
    if record.promised_ttft_s == math.inf or outcome is Outcome.CANCELLED or 400 <= record.status < 500:
        return
    is_answered = outcome in {Outcome.SERVED, Outcome.DEGRADED}
    first_byte_s = record.first_byte_s
    if not is_answered or first_byte_s is None:
        yield "ttft", "bad"
        yield "tpot", "bad"
        return
    if not record.is_streamed:
        yield "ttft", "undetermined"  # an answer in one piece has no first token of its own
        return
    yield "ttft", "good" if first_byte_s <= record.promised_ttft_s else "bad"
    num_after_first = (record.usage.num_output_tokens if record.usage else 0) - 1
    if num_after_first > 0:
        tpot_s = (duration_s - first_byte_s) / num_after_first
        yield "tpot", "good" if tpot_s <= record.promised_tpot_s else "bad"


def _line(record: RequestRecord, outcome: Outcome, *, duration_s: float) -> str:
    line = _AccessLine(
        unix_s=round(record.unix_s, 3),
        request_id=record.request_id,
        path=record.path,
        model=record.model,
        outcome=outcome.value,
        status=record.status,
        replica=record.replica,
        attempts=record.num_attempts,
        first_byte_ms=None if record.first_byte_s is None else round(record.first_byte_s * 1000, 3),
        duration_ms=round(duration_s * 1000, 3),
        bytes=record.num_bytes,
        error=record.error,
        tenant=record.tenant,
        priority=record.priority,
        rung=record.rung,
        degraded=record.degraded,
        cache=record.cache,
        queue_ms=round(record.queue_s * 1000, 3),
        prompt_tokens=record.usage.num_prompt_tokens if record.usage else 0,
        output_tokens=record.usage.num_output_tokens if record.usage else 0,
    )
    return msgspec.json.encode(line).decode()
