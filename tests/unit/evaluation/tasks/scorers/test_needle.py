from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.needle import NeedleScorer, cut_haystack, insert_at_depth, needle_items

FIELDS: dict[str, Any] = {
    "context_chars": 60,
    "depth": 0.5,
    "needle": "The code is 4711.",
    "question": "What is the code?",
    "secret": "4711",
    "context": "One two three four. Five six seven eight. Nine ten eleven twelve.",
}


def item(**changes: Any) -> Item:
    return Item("a", {**FIELDS, **changes}, line=1, cluster="a")


def test_prompt_holds_the_needle_at_a_sentence_s_end_by_hand() -> None:
    prompt = NeedleScorer({"instruction": "Read."}).prompt(item(context_chars=65))
    assert prompt == (
        "Read.\n\nOne two three four. The code is 4711. Five six seven eight. Nine ten eleven twelve."
        "\n\nWhat is the code?"
    )


@given(st.floats(0, 1), st.integers(300, 5000), st.integers(0, 100_000))
def test_prompt_depth_is_met_within_a_sentence(depth: float, num_chars: int, start: int) -> None:
    scorer = NeedleScorer({})
    text = scorer.prompt(item(context_chars=num_chars, depth=depth, start=start, **{"context": HAYSTACK}))
    body = text.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    position = body.index(FIELDS["needle"])
    assert len(body) == num_chars + len(FIELDS["needle"]) + 1
    assert depth * num_chars - 600 <= position <= depth * num_chars + 1
    assert body.replace(FIELDS["needle"] + " ", "", 1).replace(" " + FIELDS["needle"], "", 1) in HAYSTACK


HAYSTACK = " ".join(f"This is sentence number {'x' * (index % 7)} of many." for index in range(4000))


def test_insert_at_depth_ends_of_the_text() -> None:
    assert insert_at_depth("One. Two.", "New.", depth=0) == "New. One. Two."
    assert insert_at_depth("One. Two.", "New.", depth=1) == "One. Two. New."


def test_insert_at_depth_text_without_sentences_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"no sentence ends within 5000 characters before depth 0\.9"):
        insert_at_depth("x" * 10_000, "New.", depth=0.9)


@given(st.text(min_size=1, max_size=20), st.integers(0, 100), st.integers(1, 100))
def test_cut_haystack_has_its_length_and_goes_round(haystack: str, start: int, num_chars: int) -> None:
    cut = cut_haystack(haystack, start=start, num_chars=num_chars)
    assert cut == "".join(haystack[(start + index) % len(haystack)] for index in range(num_chars))


@pytest.mark.parametrize(
    ("reply", "contains", "exact_match"),
    [("4711", 1, 1), (" 4711.\n", 1, 1), ("It is 4711!", 1, 0), ("14711", 0, 0), ("4711a", 0, 0), ("", 0, 0)],
)
def test_score_secret_by_itself(reply: str, contains: int, exact_match: int) -> None:
    assert asyncio.run(NeedleScorer({}).score(item(), [reply])) == {"contains": contains, "exact_match": exact_match}


def test_needle_scorer_deciding_metric_is_a_choice() -> None:
    assert NeedleScorer({}).metrics == ("contains", "exact_match")
    assert NeedleScorer({"match": "exact_match"}).metrics == ("exact_match", "contains")


def test_needle_scorer_haystack_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "stack.txt"
    path.write_text("One. Two.\n\nThree.")
    scorer = NeedleScorer({"haystack": str(path)})
    assert scorer.details.startswith("haystack=stack:")
    assert NeedleScorer({}).details == f"haystack={builtin_texts().label}"
    assert "One. Two.\n\nThree.\n\nOne." in scorer.prompt(
        Item("a", {key: value for key, value in FIELDS.items() if key != "context"} | {"depth": 1.0}, 1, "a")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secret": 4711}, "field 'secret': expected a text"),
        ({"context_chars": 0}, "field 'context_chars': expected a whole number"),
        ({"depth": 1.5}, "field 'depth': expected a number from 0 to 1"),
        ({"start": -1}, "field 'start'"),
        ({"secret": "47"}, "'needle' does not contain the secret '47'"),
        ({"question": "Is it 4711?"}, "stands in the text or the question without the needle"),
        ({"context": FIELDS["context"] + " 4711", "context_chars": 70}, "without the needle"),
        ({"context_chars": 1000}, "field 'context' has 65 characters, 1000 are asked for"),
    ],
)
def test_check_malformed_items_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        NeedleScorer({}).check(item(**changes))
    assert message in str(caught.value)


def test_needle_items_are_a_grid_that_the_scorer_accepts() -> None:
    options = {"context_tokens": [250, 1000], "depths": [0, 0.5, 1], "repeats": 2}
    items = needle_items(options, seed=3)
    scorer = NeedleScorer(options)
    for made in items:
        scorer.check(made)
        assert made.fields["needle"] in scorer.prompt(made)
        assert len(scorer.prompt(made)) > made.fields["context_chars"]
    assert [made.fields["context_chars"] for made in items] == [1000] * 6 + [4000] * 6
    assert len({made.item_id for made in items}) == 12
    assert len({made.cluster for made in items}) == 4
    assert len({made.fields["secret"] for made in items}) == 12


def test_needle_items_are_decided_by_the_seed() -> None:
    options = {"context_chars": [500]}
    assert needle_items(options, seed=1) == needle_items(options, seed=1) != needle_items(options, seed=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'context_chars' or 'context_tokens' is missing"),
        ({"context_char": [1]}, "unknown option 'context_char'. Did you mean 'context_chars'"),
        ({"context_chars": 5}, "option 'context_chars': expected a list of whole numbers"),
        ({"context_chars": None}, "option 'context_chars': expected a list of whole numbers"),
        ({"context_chars": [5, 5]}, "twice"),
        ({"context_chars": [5], "context_tokens": [5]}, "exclude each other"),
        ({"context_chars": [5], "chars_per_token": 3}, "has no effect without 'context_tokens'"),
        ({"context_chars": [5], "depths": [2]}, "option 'depths'"),
        ({"context_chars": [5], "depths": [0, 0.0]}, "twice"),
        ({"context_chars": [5], "needle": "x"}, "must contain {secret} once"),
        ({"context_chars": [5], "question": "{secret}?"}, "would give it away"),
        ({"context_chars": [10**9]}, "not within 1 to"),
    ],
)
def test_needle_items_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        needle_items(options, seed=0)
    assert message in str(caught.value)
