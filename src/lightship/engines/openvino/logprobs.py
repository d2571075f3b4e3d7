"""Log-probabilities in the two shapes of the OpenAI API. Pure, but for the tokenizer that names tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightship.engines.openvino.scoring import TokenScore
from lightship.engines.openvino.text import REPLACEMENT
from lightship.wire.replies import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob


class TokenNames(Protocol):
    """What knows the text of single tokens."""

    def token_texts(self, token_ids: list[int]) -> list[str]:
        """The text of each token by itself."""
        ...

    def text_lengths(self, token_ids: list[int]) -> list[int]:
        """The characters each token adds to a text."""
        ...


@dataclass(frozen=True)
class ScoredToken:
    """One token with its score; `score` is None for the first token of a text."""

    token_id: int
    score: TokenScore | None


def scored_tokens(token_ids: Sequence[int], logprobs: Sequence[float], *, num_top: int) -> list[ScoredToken]:
    """Tokens with the pipeline's log-probabilities; with `num_top` 1 each token is its own best alternative."""
    return [
        ScoredToken(token_id, TokenScore(logprob, [token_id] * num_top, [logprob] * num_top))
        for token_id, logprob in zip(token_ids, logprobs, strict=True)
    ]


class LogprobWriter:
    """Writes log-probabilities of one choice, piece by piece.

    Args:
        names: The tokenizer.
        by_id: Whether tokens are named `token_id:123`, which is never ambiguous, instead of by their text.
        num_top: Alternatives per token.
    """

    def __init__(self, names: TokenNames, *, by_id: bool, num_top: int) -> None:
        self._names = names
        self._by_id = by_id
        self._num_top = num_top
        self._offset = 0

    def completion(
        self, tokens: Sequence[ScoredToken], *, echo: str = "", num_echo_tokens: int = 0
    ) -> CompletionLogprobs:
        """`choices[].logprobs` of a completion; offsets go on from the last call.

        Args:
            echo: The text of the first `num_echo_tokens` tokens; the space that some tokenizers drop in front of a
                text is counted out.
        """
        ids = [token.token_id for token in tokens]
        lengths = self._names.text_lengths(ids)
        self._offset -= max(0, sum(lengths[:num_echo_tokens]) - len(echo))
        offsets = []
        for length in lengths:
            offsets.append(max(0, self._offset))
            self._offset += length
        return CompletionLogprobs(
            tokens=self._label(ids),
            token_logprobs=[None if token.score is None else token.score.logprob for token in tokens],
            top_logprobs=[self._alternatives(token) for token in tokens] if self._num_top else None,
            text_offset=offsets,
        )

    def chat(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs:
        """`choices[].logprobs` of a chat reply."""
        return ChatLogprobs(content=[self._chat_entry(token) for token in tokens if token.score is not None])

    def _label(self, token_ids: list[int]) -> list[str]:
        if self._by_id:
            return [f"token_id:{token_id}" for token_id in token_ids]
        return self._names.token_texts(token_ids)

    def _alternatives(self, token: ScoredToken) -> dict[str, float] | None:
        if token.score is None:
            return None
        chosen = {self._label([token.token_id])[0]: token.score.logprob}
        # two tokens may have one text; the more likely one is told, as it comes first
        best: dict[str, float] = {}
        for label, logprob in zip(self._label(token.score.top_ids), token.score.top_logprobs, strict=True):
            best.setdefault(label, logprob)
        return {**best, **chosen}

    def _chat_entry(self, token: ScoredToken) -> ChatTokenLogprob:
        score = token.score
        assert score is not None
        text = self._names.token_texts([token.token_id])[0]
        alternatives = zip(self._names.token_texts(score.top_ids), score.top_logprobs, strict=True)
        return ChatTokenLogprob(
            token=text,
            logprob=score.logprob,
            bytes=_bytes_of(text),
            top_logprobs=[TopLogprob(token=name, logprob=value, bytes=_bytes_of(name)) for name, value in alternatives],
        )


def _bytes_of(text: str) -> list[int] | None:
    return None if REPLACEMENT in text else list(text.encode())
