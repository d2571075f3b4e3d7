"""A chat stream as the events of `/v1/responses`: a state machine that is fed events and gives back bytes. Pure.

    HELD --first token--> CREATED --first text--> OPEN --[DONE] after a finish reason--> ENDED
      |                      |                      |
      +---------error--------+----------------------+--> FAILED

While HELD nothing may be sent: `response.created` is a promise, and until a token is there another replica can still
keep it. Role-only chunks, empty texts and comments stay HELD. A model that reasons first is CREATED: its reasoning is
counted and not sent, since no field of the request could have asked for it.
Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from lightship.gateway.api.responses import completed, usage_of
from lightship.wire.errors import ApiError, upstream_failed
from lightship.wire.response_records import (
    ErrorEvent,
    ErrorObject,
    ItemEvent,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseFault,
    ResponseObject,
    ResponseUsage,
    StatusEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from lightship.wire.sse import named_event

# A response repeats its whole text at its end, so the text is kept; no engine writes more.
MAX_TEXT_CHARS = 8 * 2**20
_ENCODER = msgspec.json.Encoder()
_Event = StatusEvent | ItemEvent | PartEvent | TextDeltaEvent | TextDoneEvent | ErrorEvent


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _ChunkChoice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_ChunkChoice] | None = None
    model: str | None = None
    usage: Any = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class ChatStreamError(Exception):
    """The chat stream is not one, or says itself that it failed.

    Args:
        api_error: What to tell the client.
    """

    def __init__(self, api_error: ApiError) -> None:
        super().__init__(api_error.message)
        self.api_error = api_error


def no_answer(message: str) -> ChatStreamError:
    """The error for what is found out here, and not said by the engine."""
    error = upstream_failed(message)
    error.origin = "gateway"
    return ChatStreamError(error)


class ResponseEvents:
    """Writes the events of one response.

    Args:
        draft: The response before anything is known of it.
        message_id: Of its one message.

    `has_begun` says that something was to be sent; `num_texts` counts the deltas so far; `usage` is what the engine
    counted, once it has said so.
    """

    def __init__(self, draft: ResponseObject, *, message_id: str) -> None:
        self.usage: ResponseUsage | None = None
        self.num_texts = 0
        self.is_ended = False
        self.has_begun = False
        self._draft = draft
        self._message_id = message_id
        self._is_open = False
        self._finish_reason: str | None = None
        self._texts: list[str] = []
        self._num_chars = 0
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """What the next event of the chat stream makes: nothing, or events.

        Raises: ChatStreamError: see there; call `failed` to end the stream.
        """
        if self.is_ended:
            return b""
        if data == b"[DONE]":
            return self._end()
        try:
            chunk = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise no_answer("The model's engine sent what is no answer.") from error
        if chunk.error is not None:
            raise ChatStreamError(error_of(chunk.error))
        if chunk.model is not None and not self.has_begun:
            self._draft = msgspec.structs.replace(self._draft, model=chunk.model)
        self.usage = usage_of(chunk.usage) or self.usage
        if not chunk.choices:
            return b""
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        delta = choice.delta
        if delta is None:
            return b""
        if text := delta.content or delta.refusal:
            return self._text(text)
        return self._create() if delta.reasoning or delta.reasoning_content else b""

    def failed(self, error: ApiError) -> bytes:
        """The events that end a response which failed after it had begun."""
        self.is_ended = True
        fault = ResponseFault(error.message)
        text = "".join(self._texts)
        output = [OutputMessage(self._message_id, "incomplete", [OutputText(text)])] if self._is_open else []
        response = msgspec.structs.replace(self._draft, status="failed", error=fault, output=output, usage=self.usage)
        sent = ErrorObject(error.message, error.type, error.param, error.code, error.origin)
        return self._status("response.failed", response) + self._write(
            "error", ErrorEvent(sent, self._next(), error.message, error.code, error.param)
        )

    def _text(self, text: str) -> bytes:
        self._num_chars += len(text)
        if self._num_chars > MAX_TEXT_CHARS:
            raise no_answer("The model's engine wrote more than an answer can hold.")
        self._texts.append(text)
        self.num_texts += 1
        opening = b"" if self._is_open else self._open()
        name = "response.output_text.delta"
        return opening + self._write(name, TextDeltaEvent(name, self._next(), self._message_id, text))

    def _create(self) -> bytes:
        if self.has_begun:
            return b""
        self.has_begun = True
        return self._status("response.created", self._draft) + self._status("response.in_progress", self._draft)

    def _open(self) -> bytes:
        self._is_open = True
        item = OutputMessage(self._message_id, "in_progress", [])
        return (
            self._create()
            + self._item("response.output_item.added", item)
            + self._part("response.content_part.added", OutputText(""))
        )

    def _end(self) -> bytes:
        if self._finish_reason is None:
            raise no_answer("The answer broke off: the model's engine gave no reason to end.")
        opening = b"" if self._is_open else self._open()
        self.is_ended = True
        text = "".join(self._texts)
        response = completed(
            self._draft,
            text=text,
            finish_reason=self._finish_reason,
            usage=self.usage,
            message_id=self._message_id,
        )
        name = "response.output_text.done"
        return b"".join(
            (
                opening,
                self._write(name, TextDoneEvent(name, self._next(), self._message_id, text)),
                self._part("response.content_part.done", OutputText(text)),
                self._item("response.output_item.done", response.output[0]),
                self._status(f"response.{response.status}", response),
            )
        )

    def _status(self, name: str, response: ResponseObject) -> bytes:
        return self._write(name, StatusEvent(name, self._next(), response))

    def _item(self, name: str, item: OutputMessage) -> bytes:
        return self._write(name, ItemEvent(name, self._next(), item))

    def _part(self, name: str, part: OutputText) -> bytes:
        return self._write(name, PartEvent(name, self._next(), self._message_id, part))

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    @staticmethod
    def _write(name: str, event: _Event) -> bytes:
        return named_event(name, _ENCODER.encode(event))


def error_of(value: object) -> ApiError:
    """The error an engine put into its stream."""
    fields = value if isinstance(value, dict) else {}
    message, code, kind = fields.get("message"), fields.get("code"), fields.get("type")
    error = upstream_failed(message if isinstance(message, str) else "The model's engine failed.")
    error.code = code if isinstance(code, str) else error.code
    error.type = kind if isinstance(kind, str) else error.type
    error.origin = "engine"
    return error
