"""Cores of replicas: by hand."""

from __future__ import annotations

from itertools import combinations

from lightship.engines.supervisor.placement import shared_cores


def test_shared_cores_uneven_number_goes_to_the_later_ones() -> None:
    assert shared_cores([0, 1, 2, 3, 4], num_replicas=2) == [frozenset({0, 1}), frozenset({2, 3, 4})]


def test_shared_cores_one_replica_has_all() -> None:
    assert shared_cores([3, 1], num_replicas=1) == [frozenset({1, 3})]


def test_shared_cores_more_replicas_than_cores_take_turns() -> None:
    assert shared_cores([4, 5], num_replicas=3) == [frozenset({4}), frozenset({5}), frozenset({4})]


def test_shared_cores_enough_cores_are_in_no_two_places() -> None:
    parts = shared_cores(range(64), num_replicas=7)
    assert all(not (one & other) for one, other in combinations(parts, 2))
    assert frozenset().union(*parts) == frozenset(range(64))
