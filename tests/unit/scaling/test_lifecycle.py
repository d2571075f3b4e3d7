"""The life of one replica: pauses are powers of two by hand."""

from __future__ import annotations

import msgspec

from lightship.ports.replica_control import ReplicaPhase
from lightship.scaling.lifecycle import (
    ReplicaLife,
    RestartPolicy,
    draining,
    failed,
    may_start,
    ready,
    started,
    stopped,
)

POLICY = RestartPolicy(first_pause_s=1.0, longest_pause_s=30.0, good_run_s=60.0, max_failures=3)


def test_life_from_start_to_stop_passes_each_phase() -> None:
    life = ReplicaLife()
    phases = [life.phase]
    for step in (started, ready):
        life = step(life, 1.0)
        phases.append(life.phase)
    life = draining(life, 2.0, "idle")
    phases.append(life.phase)
    life = stopped(life, 3.0, "idle")
    phases.append(life.phase)
    expected = ["sleeping", "starting", "ready", "draining", "sleeping"]
    assert phases == [ReplicaPhase(one) for one in expected]


def test_failed_in_a_row_pauses_twice_as_long_each_time_up_to_the_bound() -> None:
    life, pauses = ReplicaLife(), []
    for _ in range(8):
        life = failed(started(life, 0.0), 0.0, POLICY, "ended with status 1")
        pauses.append(life.retry_at_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_failed_a_hundred_thousand_times_keeps_the_longest_pause() -> None:
    life = msgspec.structs.replace(ReplicaLife(), num_failures=100_000)
    assert failed(started(life, 0.0), 5.0, POLICY, "x").retry_at_s == 35.0


def test_failed_after_a_good_run_counts_as_the_first() -> None:
    life = msgspec.structs.replace(ready(ReplicaLife(), 100.0), num_failures=2)
    after = failed(life, 160.0, POLICY, "was killed")
    assert (after.num_failures, after.retry_at_s) == (1, 161.0)


def test_failed_after_a_short_run_counts_on() -> None:
    life = msgspec.structs.replace(ready(ReplicaLife(), 100.0), num_failures=2)
    assert failed(life, 159.0, POLICY, "was killed").num_failures == 3


def test_may_start_failed_one_only_when_its_pause_is_over() -> None:
    life = failed(started(ReplicaLife(), 0.0), 10.0, POLICY, "x")
    assert not may_start(life, 10.9)
    assert may_start(life, 11.0)


def test_may_start_running_ones_no() -> None:
    life = started(ReplicaLife(), 0.0)
    assert not any(may_start(one, 1e9) for one in (life, ready(life, 1.0), draining(life, 2.0, "")))


def test_is_hopeless_after_the_third_failure_in_a_row() -> None:
    life, seen = ReplicaLife(), []
    for _ in range(3):
        life = failed(started(life, 0.0), 0.0, POLICY, "x")
        seen.append(life.is_hopeless(POLICY))
    assert seen == [False, False, True]
    assert not started(life, 40.0).is_hopeless(POLICY), "it is being tried"


def test_failed_detail_says_what_how_often_and_when_again() -> None:
    life = ReplicaLife()
    for _ in range(2):
        life = failed(started(life, 0.0), 0.0, POLICY, "ended with status 1")
    assert life.detail == "ended with status 1; failed 2 times in a row, next try after 2 s"
