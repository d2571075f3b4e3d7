"""Hold, pass on or give up: one row for each situation a request can come into."""

from __future__ import annotations

import pytest

from lightship.gateway.activation.decide import HoldDecision, RungSeen, hold_or_pass
from lightship.ports.replica_control import ReplicaPhase, RungStatus

SLEEPING = RungStatus(phase=ReplicaPhase.SLEEPING, start_remaining_s=2.0)
STARTING = RungStatus(phase=ReplicaPhase.STARTING, num_starting=1, start_remaining_s=1.5)
READY = RungStatus(phase=ReplicaPhase.READY, num_ready=1)
DRAINING = RungStatus(phase=ReplicaPhase.DRAINING, start_remaining_s=9.0)
FAILED = RungStatus(phase=ReplicaPhase.FAILED, start_remaining_s=4.0)
HOPELESS = RungStatus(phase=ReplicaPhase.FAILED, can_wake=False, start_remaining_s=30.0)
NOBODYS = RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([(True, READY)], HoldDecision(False)),
        ([(False, SLEEPING)], HoldDecision(True, 0, 2.0)),
        ([(False, STARTING)], HoldDecision(True, None, 1.5)),
        ([(False, READY)], HoldDecision(True, None, 0.0)),
        ([(False, DRAINING)], HoldDecision(True, 0, 9.0)),
        ([(False, FAILED)], HoldDecision(True, 0, 4.0)),
        ([(False, HOPELESS)], HoldDecision(False)),
        ([(False, NOBODYS)], HoldDecision(False)),
        # a lower rung that is up answers, and the asked one is woken beside it
        ([(False, SLEEPING), (True, READY)], HoldDecision(False, 0)),
        ([(False, STARTING), (True, READY)], HoldDecision(False)),
        ([(False, HOPELESS), (True, READY)], HoldDecision(False)),
        # the asked rung is hopeless: the one below is woken
        ([(False, HOPELESS), (False, SLEEPING)], HoldDecision(True, 1, 2.0)),
        # both come: the sooner says how long it takes
        ([(False, SLEEPING), (False, STARTING)], HoldDecision(True, 0, 1.5)),
        ([], HoldDecision(False)),
    ],
)
def test_hold_or_pass_each_situation(statuses: list[tuple[bool, RungStatus]], expected: HoldDecision) -> None:
    seen = [RungSeen(rung, is_up, status) for rung, (is_up, status) in enumerate(statuses)]
    assert hold_or_pass(seen) == expected
