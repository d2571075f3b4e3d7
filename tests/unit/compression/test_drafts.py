"""The decision about a draft, with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lightship.compression.drafts import DraftTrial, OutputComparison, accept_draft, compare_outputs

SAME = ((1, 2, 3), (4, 5), (6,), (7, 8))
ONE_DIFFERS = ((1, 2, 3), (4, 9), (6,), (7, 8))


def trial(
    ids: Sequence[tuple[int, ...]], drafted_tokens_per_s: float, base_tokens_per_s: float = 100, concurrency: int = 8
) -> DraftTrial:
    """Completions with the draft beside `SAME` without it."""
    return DraftTrial(compare_outputs(SAME, ids), base_tokens_per_s, drafted_tokens_per_s, concurrency)


def test_accept_draft_faster_and_identical_is_taken_with_both_speeds() -> None:
    accepted, reason = accept_draft(trial(SAME, 150))
    assert accepted
    assert "150 tokens/s" in reason
    assert "100 without" in reason
    assert "8 concurrent" in reason
    assert "1.50 times" in reason


@pytest.mark.parametrize(("tokens_per_s", "is_taken"), [(119.9, False), (120.0, True)])
def test_accept_draft_the_least_speedup_is_a_bound(tokens_per_s: float, is_taken: bool) -> None:
    accepted, reason = accept_draft(trial(SAME, tokens_per_s), min_speedup=1.2)
    assert accepted is is_taken
    assert reason.startswith("faster" if is_taken else "not faster")


def test_accept_draft_other_output_is_refused_however_fast() -> None:
    accepted, reason = accept_draft(trial(ONE_DIFFERS, 900))
    assert not accepted
    assert "1 of 4 greedy completions differ" in reason
    assert "prompt 1" in reason
    assert "token 1" in reason


def test_accept_draft_in_16_bits_a_quarter_of_the_completions_may_differ() -> None:
    two_differ = ((1, 2, 3), (4, 9), (6,), (7, 9))
    assert accept_draft(trial(ONE_DIFFERS, 200), is_16_bit=True)[0]
    assert not accept_draft(trial(two_differ, 200), is_16_bit=True)[0]


def test_draft_trial_without_any_speed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tokens were generated"):
        trial(SAME, 100, base_tokens_per_s=0)


@pytest.mark.parametrize("ids", [SAME[:2], ()], ids=["other_prompts", "no_prompts"])
def test_compare_outputs_of_other_prompts_is_an_error(ids: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare_outputs(ids, ids if not ids else SAME)


def test_compare_outputs_shorter_completion_differs_where_it_ends() -> None:
    compared = compare_outputs([[1, 2, 3]], [[1, 2]])
    assert compared == OutputComparison(num_prompts=1, num_identical=0, first_difference=(0, 2))
    assert compared.differing_share == 1
