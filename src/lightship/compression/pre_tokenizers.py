"""Which of llama.cpp's pre-tokenizers splits text as a `tokenizer.json` says. Standard library only; runs in jobs.

A GGUF file carries the name of a pre-tokenizer, and llama.cpp holds its regular expressions in code. Its converter
knows the name by a hash over token ids, so only for tokenizers that its authors have met. Here the name follows from
what the tokenizer says of itself; the conversion job then compares token ids, so that a wrong entry here cannot pass.

Source: `llm_tokenizer_bpe` in `src/llama-vocab.cpp` of the pinned llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GPT2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
_QWEN2 = _LLAMA3.replace("\\p{N}{1,3}", "\\p{N}")
_BYTES = ("ByteLevel", False)

# Parts in the order in which they split. `ByteLevel` says whether it splits by GPT-2's expression itself.
_NAMES: dict[tuple[tuple[Any, ...], ...], str] = {
    (("ByteLevel", True),): "gpt-2",
    (("Split", _GPT2, "Isolated"), _BYTES): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", "\\p{N}", "Isolated"), ("ByteLevel", True)): "smollm",
    (("Split", _LLAMA3, "Isolated"), _BYTES): "llama-bpe",
    (("Split", _QWEN2, "Isolated"), _BYTES): "qwen2",
}
# With a name of llama.cpp comes whether words that are tokens as a whole are merged step by step all the same.
_IGNORES_MERGES = frozenset({"llama-bpe"})


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of this `tokenizer.json`; None where none is known to do the same.

    Only for byte-level BPE.
    """
    model = tokenizer.get("model") or {}
    parts = _parts(tokenizer.get("pre_tokenizer"))
    if model.get("type") != "BPE" or tokenizer.get("normalizer") is not None or parts is None:
        return None
    name = _NAMES.get(parts)
    if name is not None and bool(model.get("ignore_merges")) != (name in _IGNORES_MERGES):
        return None
    return name


def describe_pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """What the tokenizer says of its pre-tokenizer, in a few words."""
    parts = _parts(tokenizer.get("pre_tokenizer"))
    return "another kind" if parts is None else " + ".join(str(part[0]) for part in parts) or "none"


def merge_scores(tokenizer: Mapping[str, Any]) -> dict[str, float]:
    """A score for each token that merges make: the earlier its first merge, the higher.

    llama.cpp's SentencePiece tokenizer merges the neighbours whose token has the highest score, BPE those of the
    earliest merge. These scores make the two alike where each token's merges stand together, as they do in tokenizers
    that were converted from SentencePiece.
    """
    scores: dict[str, float] = {}
    for rank, merge in enumerate((tokenizer.get("model") or {}).get("merges") or ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        scores.setdefault(left + right, -float(rank))
    return scores


def _parts(pre_tokenizer: Any) -> tuple[tuple[Any, ...], ...] | None:
    """The pre-tokenizer as a flat list of what decides about splits; None where it has a part of another kind."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        nested = [_parts(one) for one in pre_tokenizer.get("pretokenizers", ())]
        return None if None in nested else tuple(part for parts in nested for part in parts or ())
    if kind == "Digits":
        return (("Digits", bool(pre_tokenizer.get("individual_digits"))),)
    if kind == "ByteLevel" and not pre_tokenizer.get("add_prefix_space"):
        return (("ByteLevel", pre_tokenizer.get("use_regex", True) is not False),)
    if kind == "Split" and not pre_tokenizer.get("invert"):
        pattern = pre_tokenizer.get("pattern") or {}
        return (("Split", pattern.get("Regex"), pre_tokenizer.get("behavior")),)
    return None
