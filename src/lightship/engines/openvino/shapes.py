"""How the two APIs write answers: `/v1/completions` and `/v1/chat/completions`, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from lightship.engines.openvino.choices import Choice
from lightship.engines.openvino.logprobs import LogprobWriter, ScoredToken
from lightship.wire.replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatReplyMessage,
    Completion,
    CompletionChoice,
    FinishReason,
    Usage,
)
from lightship.wire.sse import data_event

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class ReplyHead:
    """What every chunk of one reply repeats."""

    id: str
    created: int
    model: str


class Shape(Protocol):
    """One API's way to write an answer. Writers are per choice, because text offsets go on from chunk to chunk."""

    def text_chunk(
        self, choice: Choice, text: str, scores: Sequence[ScoredToken], *, is_first: bool, usage: Usage | None
    ) -> bytes:
        """The event with new text, and with the token counts so far where they are given."""
        ...

    def finish_chunk(self, choice: Choice, finish: FinishReason, *, is_first: bool, usage: Usage | None) -> bytes:
        """The event that ends a choice."""
        ...

    def usage_chunk(self, usage: Usage) -> bytes:
        """The event with the token counts."""
        ...

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """The whole answer."""
        ...


class CompletionShape:
    """Answers of `/v1/completions`.

    Args:
        head: Repeated in every chunk.
        writers: One per choice, or nothing without log-probabilities.
        echoes: Text in front of each choice: its prompt, or "".
    """

    def __init__(self, head: ReplyHead, writers: Sequence[LogprobWriter], echoes: Sequence[str]) -> None:
        self._head = head
        self._writers = writers
        self._echoes = echoes

    def text_chunk(
        self, choice: Choice, text: str, scores: Sequence[ScoredToken], *, is_first: bool, usage: Usage | None
    ) -> bytes:
        """See `Shape`."""
        shown = self._echoes[choice.index] + text if is_first else text
        logprobs = self._writers[choice.index].completion(scores) if self._writers else None
        return self._event([CompletionChoice(choice.index, shown, None, logprobs)], usage)

    def finish_chunk(self, choice: Choice, finish: FinishReason, *, is_first: bool, usage: Usage | None) -> bytes:
        """See `Shape`."""
        text = self._echoes[choice.index] if is_first else ""
        return self._event([CompletionChoice(choice.index, text, finish)], usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """See `Shape`."""
        return self._event([], usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See `Shape`."""
        done = []
        for choice in choices:
            echo = self._echoes[choice.index]
            num_echo_tokens = max(0, len(choice.scores) - len(choice.tokens))
            logprobs = (
                self._writers[choice.index].completion(choice.scores, echo=echo, num_echo_tokens=num_echo_tokens)
                if self._writers
                else None
            )
            done.append(CompletionChoice(choice.index, echo + choice.text, choice.finish, logprobs))
        return _ENCODER.encode(Completion(self._head.id, self._head.created, self._head.model, done, usage))

    def _event(self, choices: list[CompletionChoice], usage: Usage | None) -> bytes:
        head = self._head
        return data_event(_ENCODER.encode(Completion(head.id, head.created, head.model, choices, usage)))


class ChatShape:
    """Answers of `/v1/chat/completions`; the role comes with a choice's first text, never alone."""

    def __init__(self, head: ReplyHead, writers: Sequence[LogprobWriter]) -> None:
        self._head = head
        self._writers = writers

    def text_chunk(
        self, choice: Choice, text: str, scores: Sequence[ScoredToken], *, is_first: bool, usage: Usage | None
    ) -> bytes:
        """See `Shape`."""
        delta = ChatDelta(role="assistant" if is_first else None, content=text)
        logprobs = self._writers[choice.index].chat(scores) if self._writers else None
        return self._event([ChatChunkChoice(choice.index, delta, None, logprobs)], usage)

    def finish_chunk(self, choice: Choice, finish: FinishReason, *, is_first: bool, usage: Usage | None) -> bytes:
        """See `Shape`."""
        delta = ChatDelta(role="assistant", content="") if is_first else ChatDelta()
        return self._event([ChatChunkChoice(choice.index, delta, finish)], usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """See `Shape`."""
        return self._event([], usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See `Shape`."""
        done = [
            ChatChoice(
                choice.index,
                ChatReplyMessage(choice.text),
                choice.finish,
                self._writers[choice.index].chat(choice.scores) if self._writers else None,
            )
            for choice in choices
        ]
        return _ENCODER.encode(ChatCompletion(self._head.id, self._head.created, self._head.model, done, usage))

    def _event(self, choices: list[ChatChunkChoice], usage: Usage | None) -> bytes:
        head = self._head
        return data_event(_ENCODER.encode(ChatChunk(head.id, head.created, head.model, choices, usage)))
