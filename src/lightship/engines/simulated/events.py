"""How the two APIs write simulated answers: whole, and as events cut from a template, because thousands are written.

The words of an answer need no escaping in JSON, so an event is two fixed pieces with a word between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from lightship.engines.openvino.shapes import ReplyHead
from lightship.engines.simulated.choices import Choice, Finish
from lightship.wire.replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatReplyMessage,
    Completion,
    CompletionChoice,
    Usage,
)
from lightship.wire.sse import data_event

_ENCODER = msgspec.json.Encoder()
_PLACE = "@@"  # stands in no word and needs no escaping


class EventWriter(Protocol):
    """One API's way to write an answer."""

    def text_event(self, index: int, text: str, *, is_first: bool) -> bytes:
        """The event with new text of one choice."""
        ...

    def finish_event(self, index: int, finish: Finish, *, is_first: bool) -> bytes:
        """The event that ends a choice."""
        ...

    def usage_event(self, usage: Usage) -> bytes:
        """The event with the token counts."""
        ...

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """The whole answer."""
        ...


def with_usage(event: bytes, usage: Usage) -> bytes:
    """The event with the token counts so far where it has none; words of an answer cannot look like that."""
    return event.replace(b'"usage":null', b'"usage":' + _ENCODER.encode(usage), 1)


def _template(event: bytes) -> tuple[bytes, bytes]:
    before, _, after = event.partition(_PLACE.encode())
    return before, after


class CompletionEvents:
    """Answers of `/v1/completions`."""

    def __init__(self, head: ReplyHead, num_choices: int) -> None:
        self._head = head
        self._templates = [
            _template(self._event([CompletionChoice(index, _PLACE, None)], None)) for index in range(num_choices)
        ]

    def text_event(self, index: int, text: str, *, is_first: bool) -> bytes:
        """See `EventWriter`."""
        del is_first
        before, after = self._templates[index]
        return before + text.encode() + after

    def finish_event(self, index: int, finish: Finish, *, is_first: bool) -> bytes:
        """See `EventWriter`."""
        del is_first
        return self._event([CompletionChoice(index, "", finish)], None)

    def usage_event(self, usage: Usage) -> bytes:
        """See `EventWriter`."""
        return self._event([], usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See `EventWriter`."""
        done = [CompletionChoice(choice.index, "".join(choice.text), choice.finish) for choice in choices]
        head = self._head
        return _ENCODER.encode(Completion(head.id, head.created, head.model, done, usage))

    def _event(self, choices: list[CompletionChoice], usage: Usage | None) -> bytes:
        head = self._head
        return data_event(_ENCODER.encode(Completion(head.id, head.created, head.model, choices, usage)))


class ChatEvents:
    """Answers of `/v1/chat/completions`; the role comes with a choice's first text, never alone."""

    def __init__(self, head: ReplyHead, num_choices: int) -> None:
        self._head = head
        self._templates = [
            tuple(
                _template(self._event([ChatChunkChoice(index, ChatDelta(role=role, content=_PLACE))], None))
                for role in (None, "assistant")
            )
            for index in range(num_choices)
        ]

    def text_event(self, index: int, text: str, *, is_first: bool) -> bytes:
        """See `EventWriter`."""
        before, after = self._templates[index][is_first]
        return before + text.encode() + after

    def finish_event(self, index: int, finish: Finish, *, is_first: bool) -> bytes:
        """See `EventWriter`."""
        delta = ChatDelta(role="assistant", content="") if is_first else ChatDelta()
        return self._event([ChatChunkChoice(index, delta, finish)], None)

    def usage_event(self, usage: Usage) -> bytes:
        """See `EventWriter`."""
        return self._event([], usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See `EventWriter`."""
        done = [ChatChoice(choice.index, ChatReplyMessage("".join(choice.text)), choice.finish) for choice in choices]
        head = self._head
        return _ENCODER.encode(ChatCompletion(head.id, head.created, head.model, done, usage))

    def _event(self, choices: list[ChatChunkChoice], usage: Usage | None) -> bytes:
        head = self._head
        return data_event(_ENCODER.encode(ChatChunk(head.id, head.created, head.model, choices, usage)))
