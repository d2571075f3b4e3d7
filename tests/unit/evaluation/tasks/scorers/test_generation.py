from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item, Scorer
from lightship.evaluation.tasks.scorers.generation import generation_scorer


def item(**fields: Any) -> Item:
    return Item("a", fields, line=1, cluster="a")


def scores(options: dict[str, Any], answer: Any, reply: str) -> dict[str, float]:
    scorer: Scorer = generation_scorer(options)
    scorer.check(item(answer=answer))
    return asyncio.run(scorer.score(item(answer=answer), [reply]))


@pytest.mark.parametrize(
    ("options", "answer", "reply", "expected"),
    [
        ({}, "Paris", "  Paris\n", 1),
        ({}, "Paris", "paris", 0),
        ({}, ["Paris", "Lutetia"], "Lutetia", 1),
        ({"normalize": ["lower", "punctuation", "articles", "whitespace"]}, "the  Eiffel Tower", "Eiffel tower!", 1),
        ({"normalize": ["lower", "strip"]}, "Paris", "Paris.", 0),
        ({"extract": "first_line"}, "Paris", "\n Paris \nIt lies on the Seine.", 1),
        ({"extract": "last_line"}, "Paris", "Let me think.\nParis\n\n", 1),
        ({"extract": "last_word", "normalize": ["punctuation"]}, "Paris", "I say Paris.", 1),
        ({"extract": "first_word", "normalize": ["punctuation"]}, "Paris", "Paris, of course", 1),
        ({"extract": {"after": "####"}}, "Paris", "#### Rome\n no, ####\nParis\nyes", 1),
        ({"extract": {"regex": r"answer is (\w+)"}}, "Paris", "The answer is Rome. No, the answer is Paris.", 1),
    ],
)
def test_exact_match_compares_after_extraction_and_the_steps_in_order(
    options: dict[str, Any], answer: Any, reply: str, expected: int
) -> None:
    assert scores(options, answer, reply) == {"exact_match": expected, "answered": 1}


@pytest.mark.parametrize(
    ("options", "reply"),
    [({}, " \n"), ({"extract": {"after": "####"}}, "Paris"), ({"extract": {"regex": "is (x)"}}, "Paris")],
)
def test_exact_match_reply_without_an_answer_is_wrong_and_counted_as_not_answered(
    options: dict[str, Any], reply: str
) -> None:
    assert scores(options, "Paris", reply) == {"exact_match": 0, "answered": 0}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("It is Paris, no doubt", 1), ("Parisian food", 0), ("in Comparis", 0), ("Parisian, Paris", 1)],
)
def test_contains_finds_whole_words(reply: str, expected: int) -> None:
    assert scores({"contains": True}, "Paris", reply)["contains"] == expected


@pytest.mark.parametrize(
    ("options", "answer", "reply", "expected"),
    [
        ({}, "18", "9 + 9 = 18 dollars.", (1, 1)),
        ({}, 18, "so it is $18.00", (1, 1)),
        ({}, "1,234.5", "1234.50", (1, 1)),
        ({}, "18", "18 eggs in 3 days", (0, 1)),
        ({}, "18", "eighteen", (0, 0)),
        ({}, ["1/2", "0.5"], "0.50", (1, 1)),
        ({"tolerance": 0.01}, "3.14", "3.15", (1, 1)),
        ({"tolerance": 0.01}, "3.14", "3.1501", (0, 1)),
        ({"extract": {"after": "####"}}, "18", "17 and\n#### 18\n19 more", (1, 1)),
        ({"extract": {"after": "####"}}, "18", "18", (0, 0)),
    ],
)
def test_numeric_match_compares_numbers_not_their_form(
    options: dict[str, Any], answer: Any, reply: str, expected: tuple[int, int]
) -> None:
    found = scores({"numeric": True, **options}, answer, reply)
    assert (found["numeric_match"], found["answered"]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": []}, "unknown option 'normalise'. Did you mean 'normalize'"),
        ({"normalize": ["lowr"]}, "unknown step 'lowr'. Did you mean 'lower'"),
        ({"normalize": "strip"}, "expected a list of steps"),
        ({"normalize": ["strip", "strip"]}, "twice"),
        ({"extract": "lastline"}, "unknown extraction 'lastline'. Did you mean 'last_line'"),
        ({"extract": "regex"}, "'regex' needs a text"),
        ({"extract": {"regex": "("}}, "does not compile"),
        ({"extract": {"regex": "a"}}, "has 0 groups, expected one"),
        ({"extract": {"after": 3}}, "'extract.after': expected a text, got 3"),
        ({"extract": 3}, "unknown extraction 3"),
        ({"numeric": 1}, "option 'numeric': expected true or false, got 1"),
        ({"numeric": True, "normalize": []}, "'normalize' has no effect with numeric: true"),
        ({"tolerance": 0.1}, "'tolerance' has no effect with numeric: false"),
        ({"numeric": True, "tolerance": -1}, "option 'tolerance': expected a number from 0"),
        ({"answer": ""}, "option 'answer': expected a text"),
    ],
)
def test_generation_scorer_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        generation_scorer(options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({}, {"answr": "x"}, "the item has no field 'answer'. Did you mean 'answr'"),
        ({}, {"answer": 3}, "field 'answer': expected a text or a list of texts, got 3"),
        ({}, {"answer": []}, "field 'answer': expected a text or a list of texts"),
        ({"normalize": ["punctuation"]}, {"answer": "!"}, "is empty once normalized"),
        ({"numeric": True}, {"answer": "x"}, "'x' is not a number"),
        ({"numeric": True}, {"answer": True}, "expected a text or a list of texts, got True"),
    ],
)
def test_check_malformed_items_are_refused_by_field(
    options: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeasurementError) as caught:
        generation_scorer(options).check(item(**fields))
    assert message in str(caught.value)


def test_score_several_samples_are_refused_not_ignored() -> None:
    with pytest.raises(MeasurementError, match="one sample per item, not 2"):
        asyncio.run(generation_scorer({}).score(item(answer="x"), ["x", "y"]))


def test_target_names_every_acceptable_answer() -> None:
    assert generation_scorer({}).target(item(answer=["a", "b"])) == "a\nb"
    assert generation_scorer({"numeric": True}).target(item(answer=1.5)) == "1.5"
