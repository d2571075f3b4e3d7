from __future__ import annotations

from typing import Any

import pytest

from lightship.compression.pre_tokenizers import describe_pre_tokenizer, merge_scores, pre_tokenizer_name

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
BYTES_ALONE = {**BYTES, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
# As the tokenizers of these families write it.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def tokenizer(pre_tokenizer: dict[str, Any] | None, **model: Any) -> dict[str, Any]:
    return {"normalizer": None, "pre_tokenizer": pre_tokenizer, "model": {"type": "BPE", **model}}


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "name"),
    [
        (BYTES, {}, "gpt-2"),
        (sequence(DIGITS, BYTES), {}, "smollm"),
        (sequence(sequence(DIGITS), BYTES), {"ignore_merges": False}, "smollm"),
        (sequence(split(LLAMA3), BYTES_ALONE), {"ignore_merges": True}, "llama-bpe"),
        (sequence(split(QWEN2), BYTES_ALONE), {}, "qwen2"),
    ],
)
def test_name_known_pre_tokenizer_is_that_of_llama_cpp(
    pre_tokenizer: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    assert pre_tokenizer_name(tokenizer(pre_tokenizer, **model)) == name


@pytest.mark.parametrize(
    "of",
    [
        tokenizer(None),
        tokenizer({**BYTES, "add_prefix_space": True}),
        tokenizer({"type": "Whitespace"}),
        tokenizer(sequence(DIGITS, {"type": "Metaspace"})),
        tokenizer(sequence(DIGITS | {"individual_digits": False}, BYTES)),
        tokenizer(sequence(BYTES, DIGITS)),
        tokenizer(sequence({**split(QWEN2), "invert": True}, BYTES_ALONE)),
        tokenizer(sequence({**split(QWEN2), "behavior": "Removed"}, BYTES_ALONE)),
        # llama.cpp's name brings that words which are tokens are not merged step by step
        tokenizer(sequence(split(LLAMA3), BYTES_ALONE), ignore_merges=False),
        tokenizer(BYTES, ignore_merges=True),
        {**tokenizer(BYTES), "normalizer": {"type": "NFC"}},
        {**tokenizer(BYTES), "model": {"type": "Unigram"}},
    ],
)
def test_name_anything_else_is_unknown(of: dict[str, Any]) -> None:
    assert pre_tokenizer_name(of) is None


def test_describe_names_the_parts() -> None:
    assert describe_pre_tokenizer(tokenizer(sequence(DIGITS, BYTES))) == "Digits + ByteLevel"
    assert describe_pre_tokenizer(tokenizer(None)) == "none"
    assert describe_pre_tokenizer(tokenizer({"type": "Whitespace"})) == "another kind"


def test_merge_scores_earlier_merges_score_higher_and_the_first_of_a_token_counts() -> None:
    merges = ["a b", ["b", "c"], "ab c", "a bc"]
    assert merge_scores(tokenizer(None, merges=merges)) == {"ab": 0.0, "bc": -1.0, "abc": -2.0}
