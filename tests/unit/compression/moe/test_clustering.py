"""Clusters of equal size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightship.compression.moe.clustering import assign_evenly, balanced_clusters


def assert_equal_sizes(labels: NDArray[np.int64], num_clusters: int) -> None:
    assert np.bincount(labels, minlength=num_clusters).tolist() == [len(labels) // num_clusters] * num_clusters


def test_balanced_clusters_separated_groups_are_found_whatever_their_order() -> None:
    generator = np.random.default_rng(3)
    group = generator.permutation(np.repeat(np.arange(4), 6))
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    features = (corners[group] + generator.normal(scale=0.1, size=(24, 2))).astype(np.float32)
    labels = balanced_clusters(features, num_clusters=4)
    assert_equal_sizes(labels, 4)
    for one, other in itertools.combinations(range(24), 2):
        assert (labels[one] == labels[other]) == (group[one] == group[other])


def test_balanced_clusters_group_larger_than_its_share_gives_its_farthest_away() -> None:
    # Four rows at 0 and one at 3 are nearer to each other than to the one at 10, yet each cluster must have three.
    features = np.array([[0.0], [0.0], [0.0], [0.1], [3.0], [10.0]], dtype=np.float32)
    labels = balanced_clusters(features, num_clusters=2)
    assert_equal_sizes(labels, 2)
    assert labels[4] == labels[5]
    assert labels[0] == labels[1] == labels[2]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_balanced_clusters_any_rows_have_equal_sizes(num_clusters: int, size: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(num_clusters * size, 3)).astype(np.float32)
    assert_equal_sizes(balanced_clusters(features, num_clusters=num_clusters), num_clusters)


def test_balanced_clusters_equal_rows_are_still_shared_out() -> None:
    assert_equal_sizes(balanced_clusters(np.ones((12, 4), dtype=np.float32), num_clusters=3), 3)


@pytest.mark.parametrize(("num_rows", "num_clusters"), [(7, 2), (4, 0), (0, 1)])
def test_balanced_clusters_uneven_rows_are_refused(num_rows: int, num_clusters: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared out evenly"):
        balanced_clusters(np.zeros((num_rows, 2), dtype=np.float32), num_clusters=num_clusters)


def test_assign_evenly_one_that_loses_more_goes_first() -> None:
    # Both want cluster 0. Row 1 would lose 9 by giving way, row 0 only 1: 1 + 0 is the cheapest of the two ways.
    costs = np.array([[0.0, 1.0], [0.0, 9.0]])
    assert assign_evenly(costs).tolist() == [1, 0]


@given(st.integers(0, 500))
def test_assign_evenly_two_clusters_is_as_cheap_as_the_best_of_all_ways(seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(size=(6, 2))
    cheapest = min(
        sum(costs[row, int(row in first)] for row in range(6)) for first in itertools.combinations(range(6), 3)
    )
    labels = assign_evenly(costs)
    assert_equal_sizes(labels, 2)
    # With two clusters the choice by regret is optimal: only those who lose least by it are turned away.
    assert costs[np.arange(6), labels].sum() == pytest.approx(cheapest)
