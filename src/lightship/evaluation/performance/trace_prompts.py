"""Texts for the requests of a trace: as long as it says, in tokens, and alike where it says they begin alike. Pure.

    hash_ids  7        19       4        -> text(7) + text(19) + text(4)[:rest]
    hash_ids  7        19       5  31    -> text(7) + text(19) + text(5) + text(31)[:rest]
              ^^^^^^^^^^^^^^^^^ equal blocks, so equal text, so a prefix cache finds it

A block's text follows from its number and the seed. It begins with a tag of its own, so that blocks of different
numbers differ from the first token on, and goes on with running text from a place that the number decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.performance.traces import TraceRequest

# Letters of a block's tag. With the place in the text they make some 10**15 different blocks, so that two of a million
# hardly ever begin alike.
_TAG_LETTERS = 8
# Share of a block's characters that its tag may take at most, where blocks are scaled down to a few tokens.
_MAX_TAG_SHARE = 0.5


@dataclass(frozen=True)
class TokenLength:
    """How many characters make so many tokens at an endpoint: tokens = overhead + characters / chars_per_token.

    `overhead_tokens` are those that every prompt has, such as a beginning-of-text token.
    """

    chars_per_token: float
    overhead_tokens: float = 0.0

    def num_chars(self, num_tokens: float) -> int:
        """Characters of a prompt of that many tokens, at least one."""
        return max(1, round((num_tokens - self.overhead_tokens) * self.chars_per_token))


class TracePrompts:
    """Makes the prompt of each request of a trace.

    Args:
        texts: Where the words come from.
        length: Characters for tokens.
        block_tokens: Tokens of a prefix block.
        seed: Same seed, same prompts; another seed shares no block with it.

    Raises: MeasurementError: there is no text.
    """

    def __init__(self, texts: Sequence[str], *, length: TokenLength, block_tokens: float, seed: int) -> None:
        self._text = " ".join(word for text in texts for word in text.split())
        if not self._text:
            raise MeasurementError("there is no text to make prompts of", hint="Give texts with words in them.")
        self._length = length
        self._block_chars = max(2, round(block_tokens * length.chars_per_token))
        self._seed = seed

    def prompt(self, request: TraceRequest, *, index: int) -> str:
        """The text of a request; `index` names what it shares with no other."""
        if request.prompt is not None:
            return request.prompt
        num_chars = self._length.num_chars(request.num_prompt_tokens)
        parts = [self._block(f"b{name}", self._block_chars) for name in request.prefix_blocks]
        missing = num_chars - self._block_chars * len(parts)
        if missing > 0:
            parts.append(self._block(f"r{index}", missing))
        return "".join(parts)[:num_chars]

    def _block(self, name: str, num_chars: int) -> str:
        digest = hashlib.blake2b(f"{self._seed}/{name}".encode(), digest_size=16).digest()
        tag = _tag(int.from_bytes(digest[:8], "big"))[: max(1, int(num_chars * _MAX_TAG_SHARE))]
        place = int.from_bytes(digest[8:], "big") % len(self._text)
        wanted = max(0, num_chars - len(tag) - 2)
        body = self._text[place : place + wanted]
        while len(body) < wanted:  # round the end of the text, as often as it takes
            body += " " + self._text[: wanted - len(body) - 1]
        return f"{tag} {body} "[:num_chars]


def _tag(number: int) -> str:
    letters = []
    for _ in range(_TAG_LETTERS):
        number, letter = divmod(number, 26)
        letters.append(chr(ord("a") + letter))
    return "".join(letters)
