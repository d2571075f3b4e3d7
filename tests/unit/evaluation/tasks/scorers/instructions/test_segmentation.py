from __future__ import annotations

import pytest

from lightship.evaluation.tasks.scorers.instructions.segmentation import count_sentences, split_tokens, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("...", 0),
        ("No end", 1),
        ("Hello. World!", 2),
        ("Dr. Smith went home. He slept.", 2),
        ("J. K. Rowling wrote it.", 1),
        ("We met at 5 p.m. today. It rained.", 2),
        ("It is e.g. this etc.\nNew line.", 2),
        ("1. One thing\n2. Two things", 1),
        ("It costs 3.50 dollars. OK.", 2),
        ("Wait... what?! Yes!", 3),
        ('He said "Stop!" She stopped.', 2),
        ("**Bold.** Plain.", 2),
        ("It was I. Then you.", 2),
        ("First part\nsecond part\n\nthird part", 1),
        ("आप कैसे हैं? मैं ठीक हूँ।", 2),
        ("これは本です。それもです。", 2),
        ("ہاں۔ نہیں۔", 2),
        ("No.Space", 1),
    ],
)
def test_count_sentences_by_hand(text: str, expected: int) -> None:
    assert count_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Don't panic, well-known one!", 6), ("हिन्दी भाषा", 2), ("a_b 12", 2), ("-- ...", 0), ("cafe\u0301 x", 2)],
)
def test_words_are_runs_of_letters_digits_and_their_marks(text: str, expected: int) -> None:
    assert len(words(text)) == expected


def test_split_tokens_lose_the_punctuation_round_them() -> None:
    assert split_tokens("(don't) well-known — 'U.S.' -- हिन्दी!") == ["don't", "well-known", "U.S", "हिन्दी"]
