"""The choice of the ladder: each rule with numbers, then invariants over random candidates."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError, SpecError
from lightship.evaluation.candidates import Candidate
from lightship.evaluation.ladder import Decision, Ladder, SpeedBasis, choose_ladder
from lightship.ports.measurements import Interval, Target

TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)


def candidate(
    name: str,
    quality: float,
    goodput: float,
    *,
    spread: float | None = 0.001,
    tokens: float = 100.0,
) -> Candidate:
    """A candidate; the one called `ref` is the reference."""
    interval = None if spread is None or name == "ref" else Interval(quality - spread, quality + spread, 0.95)
    return Candidate(
        name=name,
        variant_digest=f"sha256:{name}",
        target=TARGET,
        is_reference=name == "ref",
        quality_recovery=quality,
        quality_interval=interval,
        goodput_requests_per_s=goodput,
        goodput_interval=None,
        tokens_per_s=tokens,
        tokens_interval=None,
        size_bytes=1,
    )


def rung_names(ladder: Ladder) -> list[str]:
    return [rung.candidate.name for rung in ladder.rungs]


def decision(ladder: Ladder, name: str) -> Decision:
    return next(one for one in ladder.decisions if one.candidate.name == name)


def test_ladder_clear_case_orders_by_measured_goodput() -> None:
    ladder = choose_ladder(
        [candidate("int4", 0.97, 15.0), candidate("ref", 1.0, 8.0), candidate("int8", 0.99, 10.0)], quality_floor=0.95
    )
    assert rung_names(ladder) == ["ref", "int8", "int4"]
    assert [rung.position for rung in ladder.rungs] == [1, 2, 3]
    assert [rung.speedup for rung in ladder.rungs] == [None, 1.25, 1.5]
    assert ladder.note == ""
    reason = decision(ladder, "int4").reason
    assert "1.50 times the goodput (15 against 10 requests/s) of rung 2" in reason
    assert "97% (at least 96.9%) of the quality (floor 95%)" in reason


def test_ladder_lower_bits_that_are_slower_under_load_are_rejected() -> None:
    ladder = choose_ladder([candidate("ref", 1.0, 8.0), candidate("int4", 0.98, 6.4)], quality_floor=0.95)
    assert rung_names(ladder) == ["ref"]
    rejected = decision(ladder, "int4")
    assert not rejected.is_kept
    assert "0.80 times the goodput (6.4 against 8 requests/s)" in rejected.reason
    assert "would not relieve an overload" in rejected.reason


@pytest.mark.parametrize(("goodput", "is_kept"), [(10.99, False), (11.0, True)])
def test_ladder_speedup_at_the_limit(goodput: float, is_kept: bool) -> None:
    ladder = choose_ladder([candidate("ref", 1.0, 10.0), candidate("x", 0.98, goodput)], quality_floor=0.95)
    assert decision(ladder, "x").is_kept is is_kept


@pytest.mark.parametrize(("quality", "is_kept"), [(0.9515, True), (0.9505, False)])
def test_ladder_floor_is_held_by_the_lower_bound(quality: float, is_kept: bool) -> None:
    ladder = choose_ladder([candidate("ref", 1.0, 10.0), candidate("x", quality, 20.0)], quality_floor=0.95)
    found = decision(ladder, "x")
    assert found.is_kept is is_kept
    if not is_kept:
        assert "95.05% (at least 94.95%) does not reach the floor of 95%" in found.reason


def test_ladder_quality_without_interval_is_rejected() -> None:
    ladder = choose_ladder([candidate("ref", 1.0, 1.0), candidate("x", 0.99, 9.0, spread=None)], quality_floor=0.9)
    assert "without an interval" in decision(ladder, "x").reason


def test_ladder_faster_variant_of_equal_quality_takes_the_top() -> None:
    ladder = choose_ladder(
        [candidate("ref", 1.0, 8.0), candidate("int8", 0.9985, 12.0), candidate("int8b", 0.998, 10.0)],
        quality_floor=0.95,
    )
    assert rung_names(ladder) == ["int8"]
    assert "within 0.5 points of ref, at 1.50 times the goodput" in decision(ladder, "int8").reason
    assert "0.67 times the goodput" in decision(ladder, "ref").reason


def test_ladder_equal_quality_that_is_uncertain_does_not_take_the_top() -> None:
    ladder = choose_ladder(
        [candidate("ref", 1.0, 8.0), candidate("int8", 0.9985, 12.0, spread=0.02)], quality_floor=0.95
    )
    assert rung_names(ladder) == ["ref", "int8"]


def test_ladder_lucky_quality_above_the_reference_is_not_a_lower_rung() -> None:
    ladder = choose_ladder([candidate("ref", 1.0, 8.0), candidate("lucky", 1.01, 12.0, spread=0.05)], quality_floor=0.9)
    assert rung_names(ladder) == ["ref"]
    assert "too uncertain to stand above it" in decision(ladder, "lucky").reason


def test_ladder_no_goodput_anywhere_goes_by_tokens_and_says_so() -> None:
    ladder = choose_ladder(
        [candidate("ref", 1.0, 0.0, tokens=100), candidate("int4", 0.97, 0.0, tokens=150)], quality_floor=0.95
    )
    assert rung_names(ladder) == ["ref", "int4"]
    assert ladder.speed_basis is SpeedBasis.TOKENS
    assert "No variant had a single request within the SLO" in ladder.note
    assert "1.50 times the tokens/s (150 against 100 tokens/s)" in decision(ladder, "int4").reason


def test_ladder_rung_above_without_goodput_is_stepped_over_by_any() -> None:
    ladder = choose_ladder(
        [candidate("ref", 1.0, 0.0), candidate("a", 0.98, 0.0), candidate("b", 0.97, 2.0)], quality_floor=0.95
    )
    assert rung_names(ladder) == ["ref", "b"]
    assert ladder.rungs[1].speedup is None
    assert "more goodput (2 against 0 requests/s)" in decision(ladder, "b").reason


def test_ladder_without_reference_starts_at_the_best_quality() -> None:
    ladder = choose_ladder([candidate("a", 0.98, 5.0), candidate("b", 0.96, 9.0)], quality_floor=0.9)
    assert rung_names(ladder) == ["a", "b"]


def test_ladder_explicit_order_is_kept_with_warnings() -> None:
    candidates = [candidate("ref", 1.0, 8.0), candidate("int8", 0.99, 10.0), candidate("int4", 0.80, 9.0)]
    ladder = choose_ladder(candidates, quality_floor=0.95, explicit=["int8", "int4"])
    assert rung_names(ladder) == ["int8", "int4"]
    assert decision(ladder, "int8").warnings == ()
    floor, speed = decision(ladder, "int4").warnings
    assert "does not reach the floor" in floor
    assert "0.90 times the goodput" in speed
    assert decision(ladder, "ref").reason == "Not in the ladder that the spec lists."


@pytest.mark.parametrize(
    ("explicit", "message"),
    [(["nope"], r"ladder\[0\]: .*'nope'.*Measured are: ref"), (["ref", "ref"], "listed twice"), ([], "at least one")],
)
def test_ladder_explicit_nonsense_is_refused(explicit: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        choose_ladder([candidate("ref", 1.0, 1.0)], quality_floor=0.9, explicit=explicit)


def test_ladder_nothing_measured_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no measured variant"):
        choose_ladder([], quality_floor=0.9)


def test_ladder_nothing_above_the_floor_is_refused_with_figures() -> None:
    with pytest.raises(MeasurementError, match=r"floor of 99%: a: Quality 98% \(at least 97\.9%\)"):
        choose_ladder([candidate("a", 0.98, 5.0)], quality_floor=0.99)


ROWS = st.lists(
    st.tuples(st.integers(900, 1010), st.integers(0, 12), st.sampled_from([0.0005, 0.004, 0.03]), st.booleans()),
    max_size=8,
)


def from_rows(rows: list[tuple[int, int, float, bool]]) -> list[Candidate]:
    others = [
        candidate(f"v{index}", quality / 1000, float(goodput), spread=spread if has_interval else None)
        for index, (quality, goodput, spread, has_interval) in enumerate(rows)
    ]
    return [candidate("ref", 1.0, 4.0), *others]


@given(ROWS)
def test_ladder_any_candidates_hold_the_rules(rows: list[tuple[int, int, float, bool]]) -> None:
    candidates = from_rows(rows)
    ladder = choose_ladder(candidates, quality_floor=0.95)
    for above, below in zip(ladder.rungs, ladder.rungs[1:], strict=False):
        assert below.candidate.quality_recovery < above.candidate.quality_recovery
        assert below.candidate.goodput_requests_per_s >= 1.1 * above.candidate.goodput_requests_per_s
    for rung in ladder.rungs:
        one = rung.candidate
        assert one.name == "ref" or (one.quality_interval is not None and one.quality_interval.low >= 0.95)
    assert sorted(one.candidate.name for one in ladder.decisions) == sorted(one.name for one in candidates)
    assert [one.candidate.name for one in ladder.decisions if one.is_kept] == rung_names(ladder)
    assert all(one.reason.endswith(".") for one in ladder.decisions)


@given(ROWS, st.randoms(use_true_random=False))
def test_ladder_order_of_input_does_not_matter(rows: list[tuple[int, int, float, bool]], rng: random.Random) -> None:
    candidates = from_rows(rows)
    shuffled = list(candidates)
    rng.shuffle(shuffled)
    assert choose_ladder(shuffled, quality_floor=0.95) == choose_ladder(candidates, quality_floor=0.95)
