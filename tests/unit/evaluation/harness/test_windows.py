from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import PromptLogprobs
from lightship.evaluation.harness.windows import (
    Likelihood,
    Window,
    excerpt,
    fitted,
    likelihood,
    pair_window,
    rolling_windows,
    split_pair,
    without_doubled_prefix,
)


@dataclass(frozen=True)
class Pair:
    name: str
    context: str
    continuation: str
    expected: tuple[str, str]


@pytest.mark.parametrize(
    "pair",
    [
        Pair("no_space", "Answer:", " yes", ("Answer:", " yes")),
        Pair("space_moves", "Answer: ", "yes", ("Answer:", " yes")),
        Pair("line_break_moves_too", "Answer: \n", "yes", ("Answer:", " \nyes")),
        Pair("only_space", "  ", "yes", ("", "  yes")),
        Pair("space_in_front_stays", "  Answer:", "yes", ("  Answer:", "yes")),
    ],
    ids=lambda pair: pair.name,
)
def test_split_pair_white_space_at_the_end_goes_to_the_continuation(pair: Pair) -> None:
    assert split_pair(pair.context, pair.continuation) == pair.expected


def test_pair_window_whole_split_differently_keeps_the_contexts_own_tokens() -> None:
    # context "1 2", whole "9 8 3": what is scored is the whole without as many tokens as the context has
    assert pair_window((1, 2), (9, 8, 3, 4), where="r") == Window((1, 2, 3, 4), 2)


def test_pair_window_continuation_swallowed_by_the_context_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no tokens of its own"):
        pair_window((1, 2), (1, 7), where="r")


def test_pair_window_context_without_tokens_is_refused() -> None:
    with pytest.raises(MeasurementError, match="the context has no tokens"):
        pair_window((), (1, 7), where="r")


def test_without_doubled_prefix_text_with_its_own_bos_loses_one() -> None:
    assert without_doubled_prefix((5, 5, 1), 5) == (5, 1)
    assert without_doubled_prefix((5, 1, 5), 5) == (5, 1, 5)
    assert without_doubled_prefix((5, 5, 1), None) == (5, 5, 1)


def test_fitted_window_within_the_context_is_unchanged() -> None:
    window = Window((1, 2, 3, 4), 2)
    assert fitted(window, context_length=4, may_cut=False, where="r") is window
    assert fitted(window, context_length=None, may_cut=False, where="r") is window


def test_fitted_window_too_long_is_cut_only_when_allowed() -> None:
    window = Window((1, 2, 3, 4), 2)
    assert fitted(window, context_length=3, may_cut=True, where="r") == Window((2, 3, 4), 2)
    with pytest.raises(MeasurementError, match="4 tokens do not fit the model's context of 3"):
        fitted(window, context_length=3, may_cut=False, where="r")


def test_fitted_window_that_would_lose_all_context_is_refused_even_then() -> None:
    with pytest.raises(MeasurementError, match="2 of them to be scored"):
        fitted(Window((1, 2, 3, 4), 2), context_length=2, may_cut=True, where="r")


def test_rolling_windows_published_example_is_reproduced() -> None:
    """The example in the documentation of the harness's `loglikelihood_rolling`: ten tokens, four inputs at a time."""
    assert rolling_windows(tuple(range(10)), prefix_token_id=99, context_length=5) == [
        Window((99, 0, 1, 2, 3), 4),
        Window((3, 4, 5, 6, 7), 4),
        Window((5, 6, 7, 8, 9), 2),
    ]


@given(st.integers(0, 40), st.integers(2, 12))
def test_rolling_windows_score_every_token_once_and_fit(num_tokens: int, context_length: int) -> None:
    token_ids = tuple(range(num_tokens))
    windows = rolling_windows(token_ids, prefix_token_id=-1, context_length=context_length)
    scored = [token for window in windows for token in window.token_ids[-window.num_scored :]]
    assert scored == list(token_ids)
    assert all(window.num_scored < len(window.token_ids) <= context_length for window in windows)


def test_rolling_windows_context_without_room_is_refused() -> None:
    with pytest.raises(MeasurementError, match="leaves none to score"):
        rolling_windows((1, 2), prefix_token_id=0, context_length=1)


def scored_reply(*values: float | None, tops: tuple[dict[int, float | None] | None, ...] = ()) -> PromptLogprobs:
    """An answer about tokens 10, 11, 12 and so on."""
    ids = tuple(range(10, 10 + len(values)))
    return PromptLogprobs(ids, values, tops or (None,) * len(values), None)


def test_likelihood_sums_the_scored_tokens_alone() -> None:
    found = likelihood(Window((10, 11, 12), 2), scored_reply(None, -1.5, -0.25), where="r")
    assert found == Likelihood(-1.75, is_greedy=True)


@pytest.mark.parametrize(
    ("top", "is_greedy"),
    [
        ({12: -0.25}, True),
        ({7: -0.125}, False),
        ({13: -0.25}, True),  # equally likely: an argmax takes the lower id, which is the token's
        ({7: -0.25}, False),  # equally likely, and the other id is lower
        ({7: None, 12: -0.25}, True),
    ],
)
def test_likelihood_token_is_greedy_where_an_argmax_would_pick_it(
    top: dict[int, float | None], is_greedy: bool
) -> None:
    reply = scored_reply(None, -1.5, -0.25, tops=(None, {11: -1.5}, top))
    assert likelihood(Window((10, 11, 12), 1), reply, where="r").is_greedy is is_greedy


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf"), 0.5])
def test_likelihood_impossible_number_is_refused_with_its_position(value: float | None) -> None:
    with pytest.raises(MeasurementError, match="token position 2 is"):
        likelihood(Window((10, 11, 12), 1), scored_reply(None, -1.0, value), where="r")


def test_likelihood_answer_about_other_tokens_is_refused() -> None:
    with pytest.raises(MeasurementError, match="scored other tokens"):
        likelihood(Window((10, 99, 12), 1), scored_reply(None, -1.0, -1.0), where="r")


def test_excerpt_long_request_shows_its_end() -> None:
    assert excerpt(["a" * 100, " the end"]) == repr("..." + "a" * 69 + " the end")
    assert excerpt(["short"]) == "'short'"
