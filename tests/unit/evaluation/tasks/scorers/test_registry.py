"""What all scorers promise: see `tasks.scorer.Scorer`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item, Scorer
from lightship.evaluation.tasks.scorers.instructions.registry import INSTRUCTIONS
from lightship.evaluation.tasks.scorers.registry import ITEM_GENERATORS, SCORERS

PARAMETERS: dict[str, Any] = {
    "capital_frequency": 3, "capital_relation": "at least", "prompt_to_repeat": "a", "num_placeholders": 1,
    "postscript_marker": "P.S.", "section_spliter": "Day", "num_sections": 2, "num_bullets": 1, "num_highlights": 1,
    "keywords": ["a"], "forbidden_words": ["("], "keyword": "\\", "frequency": 1, "relation": "less than",
    "letter": "#", "let_frequency": 1, "let_relation": "at least", "language": "de", "num_paragraphs": 2,
    "nth_paragraph": 1, "first_word": "a", "num_sentences": 1, "num_words": 1, "end_phrase": "a",
}  # fmt: skip
ALL_INSTRUCTIONS = {
    "instruction_id_list": list(INSTRUCTIONS),
    "kwargs": [{name: PARAMETERS[name] for name in kind.parameters} for kind in INSTRUCTIONS.values()],
}
NEEDLE = {"context_chars": 90, "depth": 0.5, "needle": "It is 4711.", "question": "What?", "secret": "4711"}
STEPS = ["lower", "punctuation", "articles", "whitespace"]
# Not code: a process per example takes too long; its own tests run what breaks programs.
PURE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "text": ("generation", {"normalize": STEPS, "contains": True, "extract": "last_line"}, {"answer": ["x", "The b"]}),
    "regex": ("generation", {"extract": {"regex": "(?:is|=)(.*)"}}, {"answer": "a"}),
    "number": ("generation", {"numeric": True, "tolerance": 0.5}, {"answer": "1.5"}),
    "instructions": ("instructions", {}, ALL_INSTRUCTIONS),
    "needle": ("needle", {}, NEEDLE),
}
PIECES = [
    "*",
    "**",
    "******",
    "\n\n",
    "```",
    "<<",
    ">>",
    "[",
    "]",
    '"',
    "1,000.5",
    "-3/4",
    "P.S.",
    "Day 1",
    ".",
    "a",
    "\ud800",
]
REPLIES = st.one_of(st.text(), st.lists(st.sampled_from(PIECES) | st.text(max_size=5)).map("".join))


@pytest.mark.parametrize("name", PURE)
@given(reply=REPLIES)
def test_scorers_never_raise_and_stay_in_bounds_whatever_the_reply(name: str, reply: str) -> None:
    kind, options, fields = PURE[name]
    scorer: Scorer = SCORERS[kind](options)
    scores = asyncio.run(scorer.score(Item("a", fields, line=1, cluster="a"), [reply]))
    assert set(scores) == set(scorer.metrics) >= set(scorer.binary_metrics)
    assert all(0 <= value <= 1 for value in scores.values())
    assert all(scores[metric] in {0.0, 1.0} for metric in scorer.binary_metrics)


@pytest.mark.parametrize("name", PURE)
def test_scorers_long_reply_takes_no_long_time(name: str) -> None:
    kind, options, fields = PURE[name]
    scorer = SCORERS[kind](options)
    for piece in ("* ", "1,", "(" * 3, "a. ", "[", "<<", "`", "\n", "is", "1"):
        asyncio.run(scorer.score(Item("a", fields, line=1, cluster="a"), [piece * 5_000]))


@pytest.mark.parametrize("kind", SCORERS)
def test_scorers_know_their_kind_and_refuse_unknown_options(kind: str) -> None:
    options = {"run_generated_code": True} if kind == "code" else {}
    scorer = SCORERS[kind](options)
    assert scorer.kind == kind
    assert scorer.min_samples == 1
    with pytest.raises(MeasurementError, match="unknown option 'anser'"):
        SCORERS[kind]({**options, "anser": "x"})


def test_item_generators_belong_to_kinds() -> None:
    assert set(ITEM_GENERATORS) <= set(SCORERS)
