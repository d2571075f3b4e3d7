from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.instructions.scorer import InstructionsScorer, loose_variants


def item(**instructions: dict[str, Any]) -> Item:
    names = [name.replace("__", ":") for name in instructions]
    return Item("a", {"instruction_id_list": names, "kwargs": list(instructions.values())}, line=1, cluster="a")


TWO = item(punctuation__no_comma={}, startend__quotation={})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('"All of it."', (1, 1, 1, 1)),
        ('"One, two."', (0, 0, 0.5, 0.5)),
        ("One, two.", (0, 0, 0, 0)),
        ('Sure, here it is:\n"All of it."', (0, 1, 0, 1)),
        ('"All of it."\nAnything else, perhaps?', (0, 1, 0, 1)),
        ('**"All of it."**', (0, 1, 0.5, 1)),
        (" \n", (0, 0, 0, 0)),
    ],
)
def test_score_strict_and_loose_by_hand(reply: str, expected: tuple[float, ...]) -> None:
    found = asyncio.run(InstructionsScorer({}).score(TWO, [reply]))
    assert tuple(found[name] for name in InstructionsScorer.metrics) == expected


def test_score_every_instruction_may_choose_its_own_loose_variant() -> None:
    # Without its first line the reply has no comma, without its last one it is quoted; no variant is both.
    found = asyncio.run(InstructionsScorer({}).score(TWO, ['"a, b"\nc']))
    assert found == {"prompt_strict": 0, "prompt_loose": 1, "instruction_strict": 0, "instruction_loose": 1}


def test_loose_variants_are_the_eight_of_the_paper() -> None:
    assert loose_variants("*a*\nb\nc*") == ["*a*\nb\nc*", "b\nc*", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the item has no field 'instruction_id_list'"),
        ({"instruction_id_list": []}, "expected a list of instruction ids"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "the item has no field 'kwargs'"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "1 instructions, but 'kwargs' has 0"),
        (
            {"instruction_id_list": ["punctuation:no_commas"], "kwargs": [{}]},
            "unknown instruction 'punctuation:no_commas'. Did you mean 'punctuation:no_comma'",
        ),
        (
            {"instruction_id_list": ["startend:end_checker"], "kwargs": [{}]},
            "startend:end_checker: parameter 'end_phrase' is missing",
        ),
        (
            {"instruction_id_list": ["startend:quotation"], "kwargs": [{"end": "x"}]},
            "unknown parameter 'end'",
        ),
        (
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]},
            "parameter 'language': expected the code of a language that can be told",
        ),
        (
            {"instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": 1.5}]},
            "expected a whole number of 0 or more, got 1.5",
        ),
        (
            {
                "instruction_id_list": ["keywords:frequency"],
                "kwargs": [{"keyword": "a", "frequency": 1, "relation": "at most"}],
            },
            "parameter 'relation': expected one of at least, less than, got 'at most'",
        ),
    ],
)
def test_check_malformed_items_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        InstructionsScorer({}).check(Item("a", fields, line=1, cluster="a"))
    assert message in str(caught.value)


def test_check_null_parameters_count_as_not_given_and_whole_floats_as_whole() -> None:
    InstructionsScorer({}).check(item(detectable_format__number_bullet_lists={"num_bullets": 3.0, "keywords": None}))


def test_scorer_has_no_options() -> None:
    with pytest.raises(MeasurementError, match="unknown option 'strict'"):
        InstructionsScorer({"strict": True})


def test_target_shows_instructions_and_parameters() -> None:
    assert InstructionsScorer({}).target(item(startend__end_checker={"end_phrase": "x"}, startend__quotation={})) == (
        "startend:end_checker end_phrase='x'\nstartend:quotation"
    )


def test_check_accepts_every_item_of_the_published_set(shared_data: Path) -> None:
    lines = (shared_data / "eval" / "ifeval.jsonl").read_text("utf-8").splitlines()
    scorer = InstructionsScorer({})
    names = set()
    for number, line in enumerate(lines, start=1):
        fields = json.loads(line)
        published = Item(str(number), fields, line=number, cluster=str(number))
        scorer.check(published)
        assert 0 <= asyncio.run(scorer.score(published, ["Yes."]))["instruction_loose"] <= 1
        names |= set(fields["instruction_id_list"])
    assert len(lines) == 541
    assert len(names) == 25
