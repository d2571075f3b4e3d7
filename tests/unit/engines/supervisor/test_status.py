"""What a rung is, given its replicas."""

from __future__ import annotations

import pytest

from lightship.engines.supervisor.messages import ReplicaStatus
from lightship.engines.supervisor.status import rung_status
from lightship.ports.replica_control import ReplicaPhase, RungStatus


def replica(phase: str, remaining_s: float = 0.0, *, can_wake: bool = True, detail: str = "") -> ReplicaStatus:
    return ReplicaStatus(
        name="r",
        served_model="m",
        rung=0,
        phase=ReplicaPhase(phase),
        start_remaining_s=remaining_s,
        can_wake=can_wake,
        detail=detail,
    )


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["sleeping", "ready", "starting"], "ready"),
        (["sleeping", "starting"], "starting"),
        (["sleeping", "draining"], "draining"),
        (["sleeping", "sleeping"], "sleeping"),
        (["failed", "sleeping"], "failed"),
        (["failed", "starting"], "starting"),
    ],
)
def test_rung_status_best_phase_wins_but_a_spare_does_not_hide_a_failure(phases: list[str], expected: str) -> None:
    assert rung_status([replica(phase) for phase in phases]).phase == ReplicaPhase(expected)


def test_rung_status_counts_and_takes_the_shortest_start() -> None:
    status = rung_status([replica("starting", 3.0), replica("starting", 1.0), replica("sleeping", 0.5)])
    assert (status.num_ready, status.num_starting, status.start_remaining_s) == (0, 2, 1.0)


def test_rung_status_hopeless_failure_cannot_be_waited_for_and_says_why() -> None:
    status = rung_status([replica("failed", 30.0, can_wake=False, detail="no such file"), replica("sleeping")])
    assert not status.can_wake
    assert status.detail == "no such file"


def test_rung_status_no_replicas_is_nobodys() -> None:
    assert rung_status([]) == RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False)
