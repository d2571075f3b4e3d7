from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import PromptLogprobs
from lightship.evaluation.tasks.choices import (
    ChoiceRule,
    ChoiceScore,
    choose,
    continuation_logprob,
    split_at_white_space,
)


def scored(*logprobs: float | None) -> PromptLogprobs:
    """A reply whose tokens have these log-probabilities."""
    return PromptLogprobs(
        token_ids=tuple(range(len(logprobs))),
        token_logprobs=logprobs,
        top_logprobs=tuple({} for _ in logprobs),
        text_offsets=None,
    )


def rule(**changes: Any) -> ChoiceRule:
    return ChoiceRule(**{"choices": "choices", "answer": "answer", "prefix": " ", "style": "text", **changes})


def test_choose_sum_and_sum_per_character_may_differ() -> None:
    # -6 > -8 in sum; -6 / 3 = -2 < -8 / 8 = -1 per character
    assert choose([-6.0, -8.0], ["cat", "elephant"]) == ChoiceScore((-6.0, -8.0), likeliest=0, likeliest_per_char=1)


def test_choose_equal_values_take_the_first() -> None:
    assert choose([-3.0, -2.0, -2.0], ["a", "bb", "bb"]) == ChoiceScore((-3.0, -2.0, -2.0), 1, 1)


def test_choose_characters_are_counted_not_bytes() -> None:
    # per character -4/4 = -1 against -6/8 = -0.75; per byte it would be -4/8 = -0.5
    assert choose([-4.0, -6.0], ["ééééé"[:4], "eeeeeeee"]).likeliest_per_char == 1


def test_choice_scores_are_one_where_the_winner_is_right() -> None:
    assert ChoiceScore((-1.0, -2.0), likeliest=0, likeliest_per_char=1).scores(1) == {"acc": 0.0, "acc_norm": 1.0}


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("A:", " x", ("A:", " x")),
        ("A: ", "x", ("A:", " x")),
        ("A:\n\n ", " x", ("A:", "\n\n  x")),
        ("A:\u00a0", "x", ("A:", "\u00a0x")),
        (" \n", "x", ("", " \nx")),
    ],
)
def test_split_moves_white_space_to_the_continuation(
    context: str, continuation: str, expected: tuple[str, str]
) -> None:
    assert split_at_white_space(context, continuation) == expected


def test_continuation_logprob_sums_the_tokens_after_the_context() -> None:
    assert continuation_logprob(scored(None, -1.0, -0.25, -0.5), num_context_tokens=2) == -0.75


@dataclass(frozen=True)
class Fault:
    name: str
    reply: PromptLogprobs
    num_context_tokens: int
    says: str


FAULTS = [
    Fault("none", scored(None, -1.0, None), 1, "position 2 is not a finite number"),
    Fault("nan", scored(None, math.nan, -1.0), 1, "position 1 is not a finite number"),
    Fault("infinite", scored(None, -1.0, -math.inf), 2, "position 2 is not a finite number"),
    Fault("no_token", scored(None, -1.0), 2, "adds no token to the 2 of its prompt"),
    Fault("nothing_before", scored(None, -1.0), 0, "nothing comes before the choice"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_continuation_logprob_no_honest_number_is_refused(fault: Fault) -> None:
    with pytest.raises(MeasurementError, match=fault.says):
        continuation_logprob(fault.reply, num_context_tokens=fault.num_context_tokens)


def test_continuation_logprob_bad_number_inside_the_context_is_none_of_its_business() -> None:
    assert continuation_logprob(scored(None, None, -1.5), num_context_tokens=2) == -1.5


def test_rule_answer_is_an_index_or_a_text() -> None:
    fields = {"choices": ["red", "blue", "3"], "answer": 1}
    assert rule().answer_index(fields) == 1
    assert rule().answer_index({**fields, "answer": "3"}) == 2


def test_rule_letters_follow_the_prompt_and_options_show_them() -> None:
    fields = {"choices": ["red", "blue"], "answer": "B"}
    lettered = rule(style="letters")
    assert lettered.texts(fields) == ("A", "B")
    assert lettered.answer_index(fields) == 1
    assert lettered.shown_fields(fields)["options"] == "A. red\nB. blue"


def test_rule_fixed_choices_are_the_same_for_every_item() -> None:
    fixed = rule(choices=("no", "yes"))
    assert fixed.texts({"answer": "yes"}) == ("no", "yes")
    assert fixed.answer_index({"answer": "yes"}) == 1


BAD_FIELDS = [
    ({"answer": 0}, "no field 'choices'"),
    ({"choices": "ab", "answer": 0}, "must be a list of choices, got text"),
    ({"choices": ["a"], "answer": 0}, "has 1 choices"),
    ({"choices": ["a", ""], "answer": 0}, "choice 1 .* got empty"),
    ({"choices": ["a", 2], "answer": 0}, "choice 1 .* got a number"),
    ({"choices": ["a", "b"]}, "no field 'answer'"),
    ({"choices": ["a", "b"], "answer": 2}, "is 2, but there are 2 choices.*from 0 to 1"),
    ({"choices": ["a", "b"], "answer": -1}, "is -1, but"),
    ({"choices": ["a", "b"], "answer": True}, "got true or false"),
    ({"choices": ["a", "b"], "answer": 1.0}, "got a number"),
    ({"choices": ["a", "b"], "answer": "1"}, "none of the choices.*without quotes"),
    ({"choices": ["a", "b"], "answer": "B"}, "none of the choices"),
]


@pytest.mark.parametrize(("fields", "says"), BAD_FIELDS)
def test_rule_bad_item_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(MeasurementError, match=says):
        rule().answer_index(fields)
