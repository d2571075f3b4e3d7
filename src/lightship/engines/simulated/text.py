"""The simulated engine's tokens and words. Pure; the same input always gives the same output.

Tokens: a run of ASCII characters is cut every four characters, and each byte of any other character is a token of its
own. The cut begins anew after such a character and nowhere else, so texts that begin alike have tokens that begin
alike. There is no vocabulary file: the number of a token spells its bytes, so every token can be read back.

Words: every output token is a space and a word of three letters, which is four characters and so one token again: the
tokens of an answer are those of its text.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

# Tokens below spell one byte; those from here on up to four ASCII characters, big-endian.
_FIRST_RUN_TOKEN = 256
_RUN_CHARS = 4
VOCAB_SIZE = _FIRST_RUN_TOKEN + 2**31
_RUNS = re.compile(rb"[\x00-\x7f]+|[\x80-\xff]")

_WORDS = (
    "and", "the", "was", "one", "day", "old", "fox", "cat", "dog", "sun", "sea", "sky", "ran", "saw", "sat", "ate",
    "she", "her", "him", "his", "you", "who", "how", "why", "now", "yet", "but", "for", "not", "all", "any", "few",
    "big", "red", "wet", "dry", "hot", "icy", "shy", "sly", "hen", "owl", "bee", "ant", "elf", "hat", "cup", "jar",
    "key", "map", "toy", "bed", "log", "oak", "ivy", "hut", "inn", "mud", "ice", "fog", "gem", "pie", "jam", "egg",
)  # fmt: skip
WORD_TOKENS = tuple(_FIRST_RUN_TOKEN + int.from_bytes(b" " + word.encode(), "big") for word in _WORDS)
WORD_TEXTS = tuple(f" {word}" for word in _WORDS)

# Knuth's MMIX generator; its high bits are good enough to choose words by.
_MULTIPLIER, _INCREMENT, _MASK = 6364136223846793005, 1442695040888963407, 2**64 - 1
_WORD_SHIFT = 64 - 6  # the highest six bits number the 64 words


def encode_text(text: str) -> list[int]:
    """The tokens of a text.

    >>> [len(encode_text(text)) for text in ("", "Once upon", "Zoë")]
    [0, 3, 3]
    """
    tokens: list[int] = []
    for run in _RUNS.findall(text.encode("utf-8", "surrogatepass")):
        if run[0] >= 0x80:
            tokens.append(run[0])
            continue
        num_whole = len(run) // _RUN_CHARS
        end = num_whole * _RUN_CHARS
        tokens += [_FIRST_RUN_TOKEN + number for number in struct.unpack_from(f">{num_whole}I", run)]
        if end < len(run):
            tokens.append(_FIRST_RUN_TOKEN + int.from_bytes(run[end:], "big"))
    return tokens


def decode_tokens(tokens: Sequence[int]) -> str:
    """The text of tokens below `VOCAB_SIZE`; bytes that are no text read as U+FFFD."""
    return b"".join(map(_token_bytes, tokens)).decode("utf-8", "replace")


def _token_bytes(token: int) -> bytes:
    if token < _FIRST_RUN_TOKEN:
        return bytes([token])
    number = token - _FIRST_RUN_TOKEN
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def speak(seed: int) -> Iterator[int]:
    """Numbers of words (see `WORD_TOKENS`, `WORD_TEXTS`) without end."""
    state = (seed * _MULTIPLIER + _INCREMENT) & _MASK
    while True:
        state = (state * _MULTIPLIER + _INCREMENT) & _MASK
        yield state >> _WORD_SHIFT


def text_seed(prompt: Sequence[int], *, sampling_seed: int) -> int:
    """Seed of the text that answers a prompt."""
    return hash((tuple(prompt), sampling_seed)) & _MASK


def answer_length(seed: int, *, mean_tokens: int) -> int:
    """Tokens after which an answer ends by itself: from half the mean to one and a half, equally likely."""
    return max(1, mean_tokens // 2 + (seed >> 7) % (mean_tokens + 1))


def block_hash(previous: int, tokens: Sequence[int]) -> int:
    """Names the content of a block and of everything before it; `previous` is 0 for the first."""
    return hash((previous, tuple(tokens)))


def block_hashes(tokens: Sequence[int], *, block_tokens: int) -> list[int]:
    """Hashes of the full blocks of a sequence."""
    found: list[int] = []
    previous = 0
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        previous = block_hash(previous, tokens[start : start + block_tokens])
        found.append(previous)
    return found
