from __future__ import annotations

import pytest

from lightship.engines.remote import ProbeResult
from lightship.gateway.routing.health import (
    FAILED_CONNECTS,
    PROBES_WITHOUT_ANSWER,
    Health,
    health_after_failed_connect,
    health_after_probe,
)

READY = Health(is_ready=True)


@pytest.mark.parametrize("result", [ProbeResult.NOT_READY, ProbeResult.UNREACHABLE])
def test_health_a_clear_no_counts_at_once(result: ProbeResult) -> None:
    assert not health_after_probe(READY, result).is_ready
    assert health_after_probe(Health(), ProbeResult.READY).is_ready


def test_health_late_answers_count_only_in_a_row() -> None:
    health = READY
    for _ in range(PROBES_WITHOUT_ANSWER - 1):
        health = health_after_probe(health, ProbeResult.TIMED_OUT)
    assert health.is_ready
    assert not health_after_probe(health, ProbeResult.TIMED_OUT).is_ready
    recovered = health_after_probe(health, ProbeResult.READY)
    assert health_after_probe(recovered, ProbeResult.TIMED_OUT).is_ready


def test_health_late_answer_does_not_make_ready() -> None:
    assert not health_after_probe(Health(), ProbeResult.TIMED_OUT).is_ready


def test_health_failed_connects_count_in_a_row() -> None:
    health = READY
    for _ in range(FAILED_CONNECTS - 1):
        health = health_after_failed_connect(health)
    assert health.is_ready
    assert not health_after_failed_connect(health).is_ready
