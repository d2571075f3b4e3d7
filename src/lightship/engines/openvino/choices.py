"""One choice of an answer while it grows: its text, its tokens, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightship.engines.openvino.generator import Piece
from lightship.engines.openvino.logprobs import ScoredToken, TokenNames, scored_tokens
from lightship.wire.replies import FinishReason


@dataclass
class Choice:
    """A growing choice. `tokens` are those whose text is part of `text`; `num_tokens` counts all that were computed.

    Args:
        index: Its place in the answer.
        num_top: Alternatives per token the pipeline reports, or None without log-probabilities.
        names: The tokenizer.
    """

    index: int
    num_top: int | None
    names: TokenNames
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    num_tokens: int = 0
    finish: FinishReason | None = None
    scores: list[ScoredToken] = field(default_factory=list)

    def add(self, piece: Piece) -> list[ScoredToken]:
        """Takes a piece; the scores that are new with it.

        The end-of-text token and tokens behind a stop string count as computed, but are no part of the choice.
        """
        self.num_tokens += len(piece.token_ids)
        self.finish = piece.finish
        self.text += piece.text
        token_ids = piece.token_ids[:-1] if piece.has_end_token else piece.token_ids
        if piece.finish == "stop" and not piece.has_end_token:
            token_ids = self._within_text(token_ids)
        self.tokens += token_ids
        if self.num_top is None:
            return []
        new = scored_tokens(token_ids, piece.logprobs[: len(token_ids)], num_top=self.num_top)
        self.scores += new
        return new

    def _within_text(self, token_ids: list[int]) -> list[int]:
        num_chars = sum(self.names.text_lengths(self.tokens))
        kept = []
        for token_id, length in zip(token_ids, self.names.text_lengths(token_ids), strict=True):
            if num_chars >= len(self.text):
                break
            kept.append(token_id)
            num_chars += length
        return kept
