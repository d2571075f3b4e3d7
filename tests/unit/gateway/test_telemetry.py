"""Which promises a request kept, and what its log line says."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry

from lightship.gateway.telemetry import GatewayTelemetry, RequestRecord, verdicts
from lightship.ports.engine import Outcome, TokenUsage

ANSWERED = RequestRecord(
    path="/v1/chat/completions",
    request_id="req-1",
    started_s=0.0,
    model="m",
    status=200,
    first_byte_s=0.3,
    promised_ttft_s=0.4,
    promised_tpot_s=0.05,
    is_streamed=True,
    usage=TokenUsage(num_prompt_tokens=10, num_output_tokens=11, is_reported=True),
)


@dataclass(frozen=True)
class Case:
    """A request, how it ended, and the verdicts."""

    name: str
    record: RequestRecord
    outcome: Outcome
    duration_s: float
    expected: dict[str, str]


@pytest.mark.parametrize(
    "case",
    [
        # ten tokens after the first in 0.4 s are 0.04 s each, in 0.6 s they are 0.06 s
        Case("kept", ANSWERED, Outcome.SERVED, 0.7, {"ttft": "good", "tpot": "good"}),
        Case("slow tokens", ANSWERED, Outcome.DEGRADED, 0.9, {"ttft": "good", "tpot": "bad"}),
        Case("late", replace(ANSWERED, first_byte_s=0.5), Outcome.SERVED, 0.9, {"ttft": "bad", "tpot": "good"}),
        Case("failed", replace(ANSWERED, status=502), Outcome.FAILED, 0.9, {"ttft": "bad", "tpot": "bad"}),
        Case("shed", replace(ANSWERED, status=503), Outcome.EVICTED, 0.9, {"ttft": "bad", "tpot": "bad"}),
        Case("client left", ANSWERED, Outcome.CANCELLED, 0.9, {}),
        Case("wrong request", replace(ANSWERED, status=400), Outcome.REJECTED, 0.1, {}),
        Case("in one piece", replace(ANSWERED, is_streamed=False), Outcome.SERVED, 0.7, {"ttft": "undetermined"}),
        Case("one token", replace(ANSWERED, usage=TokenUsage(0, 0, 1)), Outcome.SERVED, 0.3, {"ttft": "good"}),
        Case("no promise", RequestRecord("/tokenize", "req-2", 0.0, status=200), Outcome.SERVED, 0.1, {}),
    ],
    ids=lambda case: case.name,
)  # fmt: skip
def test_verdicts_tell_each_promise_apart(case: Case) -> None:
    assert dict(verdicts(case.record, case.outcome, duration_s=case.duration_s)) == case.expected


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_telemetry_degraded_answer_is_counted_by_reason_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = GatewayTelemetry()
    record = replace(
        ANSWERED, outcome=Outcome.DEGRADED, rung=1, degraded="rung=1; reason=load", queue_s=0.12, priority="chat"
    )
    with caplog.at_level(logging.INFO, logger="lightship.gateway.access"):
        telemetry.record_request(record, ended_s=0.7)
    registry = telemetry.registry
    assert value(registry, "lightship_degraded_requests_total", model="m", reason="load") == 1
    assert value(registry, "lightship_tokens_total", model="m", kind="output") == 11
    assert value(registry, "lightship_slo_requests_total", objective="ttft", verdict="good") == 1
    line = json.loads(caplog.records[0].getMessage())
    assert (line["rung"], line["degraded"], line["queue_ms"]) == (1, "rung=1; reason=load", 120.0)
    assert (line["prompt_tokens"], line["output_tokens"], line["priority"]) == (10, 11, "chat")


def test_telemetry_trimmed_answer_is_counted_as_trimmed() -> None:
    telemetry = GatewayTelemetry()
    telemetry.record_request(replace(ANSWERED, outcome=Outcome.DEGRADED, degraded="max_tokens=trimmed"), ended_s=0.7)
    assert value(telemetry.registry, "lightship_degraded_requests_total", model="m", reason="trimmed") == 1
