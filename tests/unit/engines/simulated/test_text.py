"""Tokens of the simulated engine: round trips, prefixes, words."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.engines.simulated.text import (
    VOCAB_SIZE,
    WORD_TEXTS,
    WORD_TOKENS,
    answer_length,
    block_hashes,
    decode_tokens,
    encode_text,
    speak,
    text_seed,
)

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


@settings(max_examples=50)
@given(TEXTS)
def test_tokens_read_back_are_the_text(text: str) -> None:
    tokens = encode_text(text)
    assert decode_tokens(tokens) == text
    assert all(0 <= token < VOCAB_SIZE for token in tokens)


def test_tokens_are_four_ascii_characters_or_one_byte() -> None:
    assert [decode_tokens([token]) for token in encode_text("Once upon")] == ["Once", " upo", "n"]
    assert len(encode_text("é日")) == 2 + 3


@settings(max_examples=50)
@given(TEXTS.filter(bool), st.text(st.characters(min_codepoint=1, max_codepoint=127)))
def test_tokens_of_a_longer_text_begin_alike_but_for_the_last_cut(text: str, more: str) -> None:
    tokens = encode_text(text)
    assert encode_text(text + more)[: len(tokens) - 1] == tokens[:-1]


def test_words_are_one_token_each_and_distinct() -> None:
    assert len(set(WORD_TOKENS)) == 64
    assert [encode_text(text) for text in WORD_TEXTS] == [[token] for token in WORD_TOKENS]


def test_answer_has_the_tokens_of_its_text() -> None:
    words = list(islice(speak(5), 200))
    text = "".join(WORD_TEXTS[word] for word in words)
    assert encode_text(text) == [WORD_TOKENS[word] for word in words]
    assert len(set(words)) > 50  # not a short cycle


def test_answer_seed_depends_on_prompt_and_sampling() -> None:
    assert text_seed([1, 2], sampling_seed=0) == text_seed((1, 2), sampling_seed=0)
    assert (
        len(
            {text_seed([1, 2], sampling_seed=0), text_seed([2, 1], sampling_seed=0), text_seed([1, 2], sampling_seed=1)}
        )
        == 3
    )


@pytest.mark.parametrize("mean_tokens", [1, 2, 100])
def test_answer_lengths_are_spread_round_their_mean(mean_tokens: int) -> None:
    lengths = [answer_length(text_seed([seed], sampling_seed=0), mean_tokens=mean_tokens) for seed in range(4000)]
    assert min(lengths) >= max(1, mean_tokens // 2)
    assert max(lengths) <= mean_tokens + (mean_tokens + 1) // 2
    assert sum(lengths) / len(lengths) == pytest.approx(mean_tokens, rel=0.2 if mean_tokens < 10 else 0.05)


def test_block_hashes_cover_everything_before() -> None:
    hashes = block_hashes(range(10), block_tokens=4)
    assert len(hashes) == 2
    assert block_hashes([*range(4), 9, 9, 9, 9], block_tokens=4)[0] == hashes[0]
    assert block_hashes([9, *range(1, 10)], block_tokens=4)[1] != hashes[1]
