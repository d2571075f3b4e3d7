"""One choice of an answer while it is spoken: its words, where they end, and what the client has not got yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightship.engines.openvino.text import StopMatcher
from lightship.engines.simulated.batching import BatchSequence
from lightship.engines.simulated.text import WORD_TEXTS, WORD_TOKENS, block_hash, speak

Finish = Literal["stop", "length"]


class Choice:
    """A growing choice. `unsent` is text the client has not got yet, `is_open` whether it still waits for the end.

    Args:
        index: Its place in the answer.
        sequence: Its record in the batch.
        seed: Of its words.
        stop: Strings that end it.
        finish: What its last token means: `length` when the client's limit ended it, `stop` when it ended by itself.
        prompt_tail: Tokens of the prompt behind its last full block; with the answer they fill further blocks.
        block_tokens: Tokens of a block.
    """

    __slots__ = (
        "_block",
        "_block_tokens",
        "_finish_word",
        "_matcher",
        "_words",
        "finish",
        "index",
        "is_open",
        "num_tokens",
        "sequence",
        "text",
        "unsent",
    )

    def __init__(
        self,
        *,
        index: int,
        sequence: BatchSequence,
        seed: int,
        stop: Sequence[str],
        finish: Finish,
        prompt_tail: Sequence[int],
        block_tokens: int,
    ) -> None:
        self.index = index
        self.sequence = sequence
        self.num_tokens = 0
        self.text: list[str] = []
        self.unsent: list[str] = []
        self.finish: Finish | None = None
        self.is_open = True
        self._words = speak(seed)
        self._matcher = StopMatcher(stop) if stop else None
        self._finish_word: Finish = finish
        self._block = list(prompt_tail)
        self._block_tokens = block_tokens

    def advance(self, *, is_last: bool) -> bool:
        """Speaks one word; whether a stop string ended the text with it."""
        word = next(self._words)
        self.num_tokens += 1
        block = self._block
        block.append(WORD_TOKENS[word])
        if len(block) == self._block_tokens:
            hashes = self.sequence.block_hashes
            assert isinstance(hashes, list)
            hashes.append(block_hash(hashes[-1] if hashes else 0, block))
            block.clear()
        text, is_stopped = WORD_TEXTS[word], False
        if self._matcher is not None:
            text, is_stopped = self._matcher.feed(text, is_last=is_last)
        if text:
            self.text.append(text)
            self.unsent.append(text)
        if is_stopped:
            self.finish = "stop"
        elif is_last:
            self.finish = self._finish_word
        return is_stopped
