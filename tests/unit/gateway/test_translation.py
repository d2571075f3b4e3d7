from __future__ import annotations

import pytest

from lightship.gateway.translation import outcome_of, to_api_error
from lightship.ports.engine import AttemptError, AttemptFailure, Outcome
from lightship.wire.errors import overloaded

EXPECTED = {
    AttemptFailure.CONNECT: (502, "upstream_error"),
    AttemptFailure.CONNECT_TIMEOUT: (504, "upstream_timeout"),
    AttemptFailure.FIRST_TOKEN_TIMEOUT: (504, "upstream_timeout"),
    AttemptFailure.CLOSED_EARLY: (502, "upstream_error"),
    AttemptFailure.BAD_STATUS: (502, "upstream_error"),
    AttemptFailure.NO_REPLICA: (503, "server_is_overloaded"),
}


@pytest.mark.parametrize("failure", AttemptFailure)
def test_translation_every_failure_has_an_answer_without_addresses(failure: AttemptFailure) -> None:
    error = to_api_error(AttemptError(failure, "http://10.0.0.7:9: secret", replica="r0"))
    assert (error.status, error.code) == EXPECTED[failure]
    assert b"10.0.0.7" not in error.body_bytes()
    assert error.body()["error"]["origin"] == "gateway"


def test_translation_no_replica_carries_its_reason() -> None:
    headers = to_api_error(AttemptError(AttemptFailure.NO_REPLICA, "none")).headers
    assert headers["x-reject-reason"] == "no-variant"
    assert int(headers["retry-after"]) >= 1


def test_translation_replicas_own_error_is_passed_on() -> None:
    own = overloaded("queue full", reason="queue-full")
    error = to_api_error(AttemptError(AttemptFailure.BAD_STATUS, "x", status=503, api_error=own))
    assert (error.status, error.message, error.headers["x-reject-reason"]) == (503, "queue full", "queue-full")
    assert error.origin == "engine"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.SERVED),
        (400, Outcome.REJECTED),
        (429, Outcome.REJECTED),
        (499, Outcome.REJECTED),
        (500, Outcome.FAILED),
        (502, Outcome.FAILED),
        (503, Outcome.REJECTED),
        (504, Outcome.FAILED),
    ],
)
def test_outcome_of_status(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome
