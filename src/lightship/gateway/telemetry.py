"""What a gateway counts and logs. Nothing here ever raises into a request."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightship.gateway.replicas import ReplicaPool
from lightship.gateway.routing import ReplicaState
from lightship.observability import names
from lightship.ports.engine import AttemptFailure, Outcome

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


class _AccessLine(msgspec.Struct, frozen=True):
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


@dataclass
class _Children:
    """Metrics with their labels filled in: looking one up takes longer than counting."""

    requests: dict[tuple[str, str, str], Counter] = field(default_factory=dict)
    attempts: dict[tuple[str, str], Counter] = field(default_factory=dict)


class GatewayTelemetry:
    """Metrics in a registry of their own, and one log line per request.

    Labels: paths and models that are configured, outcomes and results from closed lists, replicas by their names.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children = _Children()
        labels = [names.LABEL_PATH, names.LABEL_MODEL, names.LABEL_OUTCOME]
        self._requests = Counter(names.REQUESTS, "Requests by how they ended.", labels, registry=self.registry)
        self._duration = Histogram(
            names.REQUEST_DURATION,
            "Seconds from a request's head to its end.",
            registry=self.registry,
            buckets=names.DURATION_BUCKETS_S,
        )
        self._first_byte = Histogram(
            names.TIME_TO_FIRST_BYTE,
            "Seconds from a request's head to the first byte of its answer.",
            registry=self.registry,
            buckets=names.TTFT_BUCKETS_S,
        )
        self._attempts = Counter(
            names.ATTEMPTS,
            "Attempts at replicas by how they ended.",
            [names.LABEL_REPLICA, names.LABEL_RESULT],
            registry=self.registry,
        )
        self._in_flight = Gauge(names.IN_FLIGHT, "Attempts under way.", [names.LABEL_REPLICA], registry=self.registry)
        self._replica_up = Gauge(
            names.REPLICA_UP, "1 when a replica is ready.", [names.LABEL_REPLICA], registry=self.registry
        )

    def watch_replicas(self, pool: ReplicaPool) -> None:
        """Effects: the gauges read the pool's state when they are asked for; replicas that are gone are forgotten."""
        self._in_flight.clear()
        self._replica_up.clear()
        for replica in pool:
            self._in_flight.labels(replica.state.name).set_function(partial(_num_in_flight, replica.state))
            self._replica_up.labels(replica.state.name).set_function(partial(_is_up, replica.state))

    def record_attempt(self, *, replica: str, result: AttemptResult | AttemptFailure) -> None:
        """Counts one attempt."""
        try:
            key = (replica, result.value)
            child = self._children.attempts.get(key)
            if child is None:
                child = self._children.attempts[key] = self._attempts.labels(*key)
            child.inc()
        except Exception:  # noqa: BLE001 # a fault in counting must not become a fault of the request
            _log.exception("an attempt was not counted")

    def record_request(self, record: RequestRecord, *, ended_s: float) -> None:
        """Counts one request, once, and writes its log line."""
        try:
            outcome = record.outcome or Outcome.FAILED
            key = (record.path, record.model, outcome.value)
            child = self._children.requests.get(key)
            if child is None:
                child = self._children.requests[key] = self._requests.labels(*key)
            child.inc()
            duration_s = ended_s - record.started_s
            self._duration.observe(duration_s)
            if record.first_byte_s is not None:
                self._first_byte.observe(record.first_byte_s)
            if _access_log.isEnabledFor(logging.INFO):
                _access_log.info("%s", _line(record, outcome, duration_s=duration_s))
        except Exception:  # noqa: BLE001 # a fault in counting must not become a fault of the request
            _log.exception("a request was not counted")

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _num_in_flight(state: ReplicaState) -> float:
    return state.num_in_flight


def _is_up(state: ReplicaState) -> float:
    return float(state.is_ready)


def _line(record: RequestRecord, outcome: Outcome, *, duration_s: float) -> str:
    line = _AccessLine(
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
    )
    return msgspec.json.encode(line).decode()
