from __future__ import annotations

import asyncio
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.code import CodeScorer, pass_at_k

AGREED = {"run_generated_code": True}
HUMAN_EVAL = {
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
}
MBPP = {
    "text": "Write a function that adds.",
    "test_list": ["assert add(1, 2) == ONE + 2"],
    "test_setup_code": "ONE = 1",
}


def item(fields: dict[str, Any]) -> Item:
    return Item("a", fields, line=1, cluster="a")


def scores(options: dict[str, Any], fields: dict[str, Any], *replies: str) -> dict[str, float]:
    return asyncio.run(CodeScorer({**AGREED, **options}).score(item(fields), replies))


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(num_samples: int, data: st.DataObject) -> None:
    num_passed = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    draws = list(combinations([True] * num_passed + [False] * (num_samples - num_passed), k))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k(num_samples=num_samples, num_passed=num_passed, k=k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_impossible_counts_are_our_mistake() -> None:
    with pytest.raises(ValueError, match="pass@3 of 0 passed of 2"):
        pass_at_k(num_samples=2, num_passed=0, k=3)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("    return a + b\n", 1),
        ("```python\ndef add(a, b):\n    return a + b\n```", 1),
        ("    return a - b\n", 0),
        ("", 0),
        ("I cannot do that.", 0),
        ("def add(a, b):\n    return a + b\n\ndef check(candidate):\n    pass\n", 1),
        ("def add(a, b):\n    return a - b\n\ndef check(candidate):\n    pass\n", 0),
    ],
)
def test_code_humaneval_item_passes_with_a_right_function_alone(reply: str, expected: int) -> None:
    assert scores({}, HUMAN_EVAL, reply) == {"pass@1": expected}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("```\ndef add(a, b):\n    return a + b\n```", 1), ("def add(a, b): return 0", 0), ("def sub(a, b): return 0", 0)],
)
def test_code_mbpp_item_runs_its_setup_and_tests(reply: str, expected: int) -> None:
    assert scores({}, MBPP, reply) == {"pass@1": expected}


def test_code_several_samples_give_the_unbiased_estimate() -> None:
    right, wrong = "    return a + b\n", "    return a - b\n"
    found = scores({"samples": 4, "k": [1, 2, 4]}, HUMAN_EVAL, right, wrong, wrong, wrong)
    assert found == {"pass@1": 1 / 4, "pass@2": 1 / 2, "pass@4": 1.0}
    scorer = CodeScorer({**AGREED, "samples": 4, "k": [1, 2, 4]})
    assert scorer.metrics == ("pass@1", "pass@2", "pass@4")
    assert scorer.binary_metrics == ("pass@4",)
    assert scorer.min_samples == 4


def test_code_other_number_of_samples_is_refused() -> None:
    with pytest.raises(MeasurementError, match="2 samples were generated, the option 'samples' says 1"):
        scores({}, HUMAN_EVAL, "", "")


def test_code_scorer_serves_several_event_loops() -> None:
    scorer = CodeScorer(AGREED)

    async def many() -> list[dict[str, float]]:
        return list(await asyncio.gather(*(scorer.score(item(MBPP), ["def add(a, b): return 3"]) for _ in range(4))))

    assert asyncio.run(many()) == asyncio.run(many()) == [{"pass@1": 1.0}] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "runs code that a model wrote, on this machine. Set run_generated_code: true"),
        ({"run_generated_code": False}, "runs code that a model wrote"),
        ({"run_generated_code": "yes"}, "expected true or false, got 'yes'"),
        ({**AGREED, "sample": 3}, "unknown option 'sample'. Did you mean 'samples'"),
        ({**AGREED, "k": [2]}, "option 'k': expected a list of whole numbers from 1 to 1, got [2]"),
        ({**AGREED, "k": [1, 1]}, "twice"),
        ({**AGREED, "cpu_limit_s": 0}, "option 'cpu_limit_s': expected a whole number from 1"),
        ({**AGREED, "memory_mib": 1}, "option 'memory_mib'"),
    ],
)
def test_code_scorer_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        CodeScorer(options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "x"}, "the item has no field 'tests'"),
        ({"tests": [" "]}, "field 'tests': expected at least one assertion"),
        ({**HUMAN_EVAL, "tests": ["assert 1"]}, "both 'entry_point' and a list of tests"),
        ({**HUMAN_EVAL, "entry_point": "sub"}, "'prompt' does not begin the function 'sub'"),
        ({**HUMAN_EVAL, "entry_point": "add("}, "expected the name of a function"),
        ({**HUMAN_EVAL, "test": "assert add(1, 2) == 3"}, "'test' does not define check(candidate)"),
        ({"entry_point": "add", "test": "def check(c): pass"}, "the item has no field 'prompt'"),
    ],
)
def test_code_check_malformed_items_are_refused_by_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        CodeScorer(AGREED).check(item(fields))
    assert message in str(caught.value)


def test_code_target_is_all_that_decides() -> None:
    assert CodeScorer(AGREED).target(item(MBPP)) == "ONE = 1\nassert add(1, 2) == ONE + 2"
