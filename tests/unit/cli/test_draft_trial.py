"""What the two figures of a draft's trial say; the trial itself runs on a real vLLM in the toolchain tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.cli.draft_trial import TrialProtocol, cut_prompts, draft_refusal, speedups
from lightship.errors import MeasurementError
from lightship.evaluation.greedy import GreedyRun
from lightship.ports.measurements import Measurement, Metric, Target

PROTOCOL = TrialProtocol(concurrency=8, num_rounds=3)


def figures(*, num_identical: int, speedup: float, first: tuple[int, int] | None = None) -> list[Measurement]:
    """Of a trial with 32 prompts and 100 tokens/s without the draft."""
    agreement = Measurement(
        metric=Metric.GREEDY_AGREEMENT,
        value=num_identical / 32,
        variant_digest="sha256:1",
        target=Target("vllm", "0.32.0", "CPU", "avx512", 2),
        protocol=PROTOCOL.name,
        num_items=32,
        interval=None,
        measured_unix_s=1.0,
        machine="here",
        concurrency=8,
        details={} if first is None else {"first_prompt": float(first[0]), "first_token": float(first[1])},
    )
    faster = replace(agreement, metric=Metric.DRAFT_SPEEDUP, value=speedup, details={"base_tokens_per_s": 100.0})
    return [agreement, faster]


def test_draft_refusal_lossless_and_faster_is_none() -> None:
    assert draft_refusal(figures(num_identical=32, speedup=1.3), is_16_bit=False) is None


def test_draft_refusal_not_faster_says_both_speeds_and_the_load() -> None:
    reason = draft_refusal(figures(num_identical=32, speedup=0.91), is_16_bit=False)
    assert reason is not None
    assert "91 tokens/s with it, 100 without, at 8 concurrent requests: 0.91 times" in reason
    assert reason.endswith(".")


def test_draft_refusal_other_text_is_refused_however_fast_and_names_the_first_difference() -> None:
    reason = draft_refusal(figures(num_identical=31, speedup=3.0, first=(4, 17)), is_16_bit=False)
    assert reason is not None
    assert "1 of 32 greedy completions differ, the first of them (prompt 4) from token 17 on" in reason


def test_draft_refusal_near_ties_of_16_bit_arithmetic_are_allowed_for() -> None:
    some = figures(num_identical=28, speedup=1.3, first=(0, 1))
    assert draft_refusal(some, is_16_bit=True) is None
    assert draft_refusal(some, is_16_bit=False) is not None


def test_draft_refusal_newest_figures_count() -> None:
    old = figures(num_identical=32, speedup=0.5)
    new = [replace(one, measured_unix_s=2.0) for one in figures(num_identical=32, speedup=1.5)]
    assert draft_refusal([*new, *old], is_16_bit=False) is None


@pytest.mark.parametrize("index", [0, 1])
def test_draft_refusal_without_a_whole_trial_says_nothing(index: int) -> None:
    assert draft_refusal(figures(num_identical=0, speedup=0.1)[index : index + 1], is_16_bit=False) is None


def test_trial_protocol_a_crowd_gets_a_prompt_each_and_a_few_users_get_32() -> None:
    assert [TrialProtocol(users, 1).num_prompts for users in (1, 32, 100)] == [32, 32, 100]
    assert TrialProtocol(8, 1).name != TrialProtocol(8, 3).name != TrialProtocol(16, 3).name


def test_speedups_are_of_round_by_round() -> None:
    base = [GreedyRun(((1, 2), (3,)), duration_s=1.0, concurrency=2)] * 2
    drafted = [GreedyRun(((1, 2), (3,)), duration_s=seconds, concurrency=2) for seconds in (0.5, 2.0)]
    assert speedups(base, drafted) == [2.0, 0.5]


def test_speedups_model_that_generates_nothing_says_what_to_do() -> None:
    nothing = [GreedyRun(((), ()), duration_s=1.0, concurrency=2)]
    with pytest.raises(MeasurementError, match=r"generates nothing.*without a draft"):
        speedups(nothing, nothing)


def test_cut_prompts_later_parts_follow_when_every_beginning_is_used() -> None:
    texts = ["a" * 200 + "b" * 200, "c" * 10]
    assert cut_prompts(texts, 3) == ["a" * 200, "c" * 10, "b" * 200]
    assert cut_prompts(texts, 4)[3] == "a" * 200  # there is no more
