"""Prompts without a trace."""

from __future__ import annotations

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.prompts import OPENING_CHARS, draw_prompts


def draw(texts: list[str], num_prompts: int, *, num_chars: int = 80, seed: int = 0) -> list[str]:
    prompts = draw_prompts(texts, num_chars=num_chars, seed=seed)
    return [next(prompts) for _ in range(num_prompts)]


def test_prompts_have_the_stated_length_and_different_openings() -> None:
    text = " ".join(f"word{number}" for number in range(2000))
    prompts = draw([text], 500)
    assert {len(prompt) for prompt in prompts} == {80}
    assert len({prompt[:OPENING_CHARS] for prompt in prompts}) == 500
    assert all(prompt[:60] in f"{text} {text}" for prompt in prompts)


def test_prompts_same_seed_same_prompts() -> None:
    text = " ".join(f"word{number}" for number in range(500))
    assert draw([text], 20, seed=3) == draw([text], 20, seed=3)
    assert draw([text], 20, seed=3) != draw([text], 20, seed=4)


def test_prompts_short_text_is_shuffled_rather_than_repeated() -> None:
    prompts = draw(["the quick brown fox jumps over the lazy dog"], 200)
    assert len({prompt[:OPENING_CHARS] for prompt in prompts}) == 200


@pytest.mark.parametrize("texts", [[], ["  \n"]])
def test_prompts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(MeasurementError, match="no text"):
        draw(texts, 1)


def test_prompts_too_few_words_are_refused() -> None:
    with pytest.raises(MeasurementError, match="too few different words"):
        draw(["one two"], 5000)
