"""Which channels become which expert, and the linear router."""

from __future__ import annotations

import numpy as np
import pytest

from lightship.compression.moe.carve import chosen_experts, fit_router, split_channels
from lightship.compression.moe.layouts import Carving


def test_split_channels_strongest_are_shared_and_those_that_fire_together_are_one_expert() -> None:
    # Eight channels: 1 and 6 are always strong; 0, 3, 5 fire on even tokens, 2, 4, 7 on odd ones.
    contributions = np.zeros((10, 8), dtype=np.float32)
    contributions[:, [1, 6]] = 5.0
    contributions[::2, [0, 3, 5]] = 1.0
    contributions[1::2, [2, 4, 7]] = 1.0
    split = split_channels(contributions, Carving(num_experts=8, num_shared=2, top_k=1))
    assert split.shared.tolist() == [1, 6]
    assert sorted(len(part) for part in split.routed) == [1] * 6
    halves = split_channels(contributions[:, [0, 3, 5, 2, 4, 7, 1, 6]], Carving(num_experts=4, num_shared=1, top_k=1))
    assert halves.shared.tolist() == [6, 7]
    assert [set(part.tolist()) <= {0, 1, 2} for part in halves.routed].count(True) >= 1


def test_split_channels_strength_does_not_decide_who_goes_together() -> None:
    # Channels 1 and 2 fire on the same tokens, one ten times as strongly; likewise 3 and 4. Channel 0 and 5 are shared.
    contributions = np.zeros((8, 6), dtype=np.float32)
    contributions[:, [0, 5]] = 100.0
    contributions[:4, 1], contributions[:4, 2] = 10.0, 1.0
    contributions[4:, 3], contributions[4:, 4] = 1.0, 10.0
    split = split_channels(contributions, Carving(num_experts=3, num_shared=1, top_k=1))
    assert split.shared.tolist() == [0, 5]
    assert {tuple(part.tolist()) for part in split.routed} == {(1, 2), (3, 4)}


def test_split_channels_every_channel_is_in_one_expert() -> None:
    contributions = np.abs(np.random.default_rng(0).normal(size=(50, 48))).astype(np.float32)
    split = split_channels(contributions, Carving(num_experts=8, num_shared=3, top_k=2))
    assert len(split.shared) == 18
    assert [len(part) for part in split.routed] == [6] * 5
    assert sorted(np.concatenate([split.shared, *split.routed]).tolist()) == list(range(48))


def test_fit_router_linear_norms_are_ordered_as_they_are() -> None:
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(2000, 6)).astype(np.float32)
    truth = generator.normal(size=(4, 6))
    norms = (inputs @ truth.T + 10.0).astype(np.float32)
    router = fit_router(inputs, norms, spread=0.2)
    unseen = generator.normal(size=(500, 6))
    agreed = (unseen @ router.T).argmax(axis=1) == (unseen @ truth.T).argmax(axis=1)
    assert agreed.mean() > 0.97
    assert np.std(inputs @ router.T) == pytest.approx(0.2, rel=1e-6)
    assert router.sum(axis=0) == pytest.approx(np.zeros(6), abs=1e-12)


def test_fit_router_fewer_tokens_than_dimensions_stays_finite() -> None:
    inputs = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)
    router = fit_router(inputs, np.abs(inputs[:, :3]))
    assert np.isfinite(router).all()


def test_fit_router_equal_experts_have_no_preference() -> None:
    router = fit_router(np.ones((4, 3), dtype=np.float32), np.ones((4, 2), dtype=np.float32))
    assert (router == 0).all()


def test_chosen_experts_weights_are_the_layouts_softmax_over_those_chosen() -> None:
    # Logits 0, ln 3, ln 1 and -5: the two largest share by 3 : 1, times top_k.
    inputs = np.array([[1.0]], dtype=np.float32)
    router = np.array([[-1.0], [np.log(3.0)], [0.0], [-5.0]])
    weights = chosen_experts(inputs, router, top_k=2)
    assert weights[0].tolist() == pytest.approx([0.0, 1.5, 0.5, 0.0])


def test_chosen_experts_without_preference_weigh_one_each() -> None:
    weights = chosen_experts(np.ones((3, 2), dtype=np.float32), np.zeros((4, 2)), top_k=4)
    assert weights.tolist() == [[1.0] * 4] * 3
