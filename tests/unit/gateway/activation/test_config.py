"""Bounds that make no sense are told by key."""

from __future__ import annotations

import msgspec
import pytest

from lightship.gateway.activation.config import ActivationConfig, activation_problems


def test_activation_problems_defaults_have_none() -> None:
    assert list(activation_problems(ActivationConfig())) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"max_held": 0}, "max_held: must be at least 1, got 0"),
        ({"hold_s": 0.0}, "hold_s: must be above 0 and finite, got 0"),
        ({"whole_answer_hold_s": float("inf")}, "whole_answer_hold_s: must be above 0 and finite, got inf"),
        ({"keep_alive_s": -1.0}, "keep_alive_s: must be above 0 and finite, got -1"),
    ],
)
def test_activation_problems_each_bound_is_named(change: dict[str, float], problem: str) -> None:
    config = msgspec.structs.replace(ActivationConfig(), **change)
    assert list(activation_problems(config)) == [problem]
