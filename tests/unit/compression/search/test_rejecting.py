"""What is rejected before tasks are evaluated: limits in closed form, and nothing where a figure is missing."""

from __future__ import annotations

import math

import msgspec
import pytest
from tests.unit.compression.search.world import proposal, share

from lightship.artifacts.roofline import Roofline
from lightship.compression.search.records import Budget, Proposal, QualityFigures
from lightship.compression.search.rejecting import (
    agreement_limit,
    divergence_limit,
    divergence_rejection,
    roofline_rejection,
)


def budget(**limits: float | int) -> Budget:
    return msgspec.convert({"quality_floor": 0.97, "time_budget_s": 60.0, **limits}, Budget)


def with_roofline(
    name: str,
    *,
    weight_bytes: int = 1000,
    tokens_per_s: float = 100.0,
    bits: float | None = 16.0,
    tpot_ms: float = 10.0,
) -> Proposal:
    roofline = Roofline(ttft_ms=50.0, tpot_ms=tpot_ms, tokens_per_s=tokens_per_s, weight_bytes=weight_bytes)
    return msgspec.structs.replace(proposal(name), roofline=roofline, alone=roofline, nominal_bits=bits)


def figures(**values: float | None) -> QualityFigures:
    return QualityFigures(recovery=share(1.0), **values)  # type: ignore[arg-type]


def test_roofline_rejection_names_bytes_over_the_budget_and_lets_a_tenth_pass() -> None:
    assert roofline_rejection(with_roofline("a", weight_bytes=1100), [], budget(max_bytes=1000)) is None
    reason = roofline_rejection(with_roofline("a", weight_bytes=1200), [], budget(max_bytes=1000))
    assert reason == "about 1.2 KiB of weights, and the budget is 1000 B"


@pytest.mark.parametrize(("tpot_ms", "is_rejected"), [(10.0, False), (14.9, False), (15.1, True)])
def test_roofline_rejection_needs_half_more_than_the_promise(tpot_ms: float, is_rejected: bool) -> None:
    reason = roofline_rejection(with_roofline("a", tpot_ms=tpot_ms), [], budget(tpot_ms=10.0))
    assert (reason is not None) is is_rejected
    assert reason is None or "15.1 ms of time per output token" in reason


@pytest.mark.parametrize(
    ("rival", "is_rejected"),
    [
        (with_roofline("rival", tokens_per_s=260.0), True),
        (with_roofline("rival", tokens_per_s=240.0), False),
        (with_roofline("rival", tokens_per_s=260.0, bits=8.0), False),
        (with_roofline("rival", tokens_per_s=260.0, bits=None), False),
        (with_roofline("rival", tokens_per_s=260.0, weight_bytes=1001), False),
        (with_roofline("rival@vllm", tokens_per_s=260.0), False),
    ],
    ids=["much-faster", "not-much-faster", "fewer-bits", "unknown-bits", "larger", "another-engine"],
)
def test_roofline_rejection_by_a_rival_needs_bits_bytes_engine_and_much_speed(
    rival: Proposal, is_rejected: bool
) -> None:
    reason = roofline_rejection(with_roofline("mine"), [rival], budget())
    assert (reason is not None) is is_rejected
    assert reason is None or "can be 2.6 times as fast" in reason


def test_roofline_rejection_without_a_roofline_says_nothing() -> None:
    assert roofline_rejection(proposal("a"), [with_roofline("b")], budget(max_bytes=1)) is None


def test_divergence_limit_is_noise_plus_four_times_what_the_floor_allows() -> None:
    # A floor of 0.8 lets cross-entropy grow from 2.0 to 2.5 nats.
    assert divergence_limit(figures(kl_nats=0.001, nats_per_token=2.0), 0.8) == pytest.approx(0.001 + 4 * 0.5)
    assert divergence_limit(figures(nats_per_token=2.0), 1.0) == 0.0
    assert divergence_limit(figures(kl_nats=0.001), 0.8) is None


def test_agreement_limit_takes_pinskers_bound_off_the_references_own_agreement() -> None:
    reference = figures(kl_nats=0.0, nats_per_token=2.0, top1_agreement=0.99)
    assert agreement_limit(reference, 0.97) == pytest.approx(0.99 - math.sqrt(4 * 2.0 * (1 / 0.97 - 1) / 2))
    assert agreement_limit(figures(nats_per_token=2.0), 0.1) == 0.0


def test_divergence_rejection_of_a_hopeless_candidate_names_both_figures() -> None:
    reference = figures(kl_nats=0.0, nats_per_token=2.0, top1_agreement=1.0)
    assert divergence_rejection(figures(kl_nats=0.24, top1_agreement=0.7), reference, 0.97) is None
    reason = divergence_rejection(figures(kl_nats=0.25), reference, 0.97)
    assert reason is not None
    assert "0.25 nats" in reason
    assert "0.247" in reason
    by_agreement = divergence_rejection(figures(kl_nats=0.1, top1_agreement=0.6), reference, 0.97)
    assert by_agreement is not None
    assert "60.0%" in by_agreement


def test_divergence_rejection_without_figures_says_nothing() -> None:
    assert divergence_rejection(figures(kl_nats=9.0), figures(), 0.97) is None
    assert divergence_rejection(figures(), figures(nats_per_token=2.0), 0.97) is None
