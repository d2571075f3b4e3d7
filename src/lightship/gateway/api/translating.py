"""Answers of `/v1/chat/completions` as answers of `/v1/responses`, as they come from a replica."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import msgspec

from lightship.gateway.api.native_events import fill_usage
from lightship.gateway.api.reply_chunks import Resumed, described_as, first_of, read_whole, with_body
from lightship.gateway.api.response_events import ChatStreamError, ResponseEvents, no_answer
from lightship.gateway.api.responses import ChatCall, from_chat_reply, renamed_error
from lightship.ports.engine import AttemptError, AttemptFailure, EngineReply, StreamBrokenError, TokenUsage
from lightship.wire.errors import ApiError
from lightship.wire.sse import CONTENT_TYPE, EventSplitter, EventTooLargeError

# A whole answer is read into memory to be translated, one event of a stream too; no answer comes near.
MAX_WHOLE_BYTES = 16 * 2**20
MAX_EVENT_BYTES = 2 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
_BROKE_OFF = "The answer broke off: the model's engine failed."


@asynccontextmanager
async def translated_reply(
    reply: EngineReply, chat: ChatCall, *, message_id: str, first_token_s: float
) -> AsyncIterator[EngineReply]:
    """The response that a chat answer makes. Its `usage` is filled in as the answer passes.

    Raises: AttemptError: the answer is of no use, and nothing of it was sent.
    """
    if reply.status != 200:
        yield await _refusal(reply, chat)
    elif not chat.is_streaming:
        yield await _whole(reply, chat, message_id=message_id)
    else:
        async with aclosing(_events(reply, ResponseEvents(chat.draft, message_id=message_id))) as events:
            first = await first_of(events, replica=reply.replica, limit_s=first_token_s)
            headers = described_as(reply.headers, content_type=CONTENT_TYPE)
            yield replace(reply, headers=headers, chunks=Resumed(first, events))


async def _events(reply: EngineReply, events: ResponseEvents) -> AsyncGenerator[bytes, None]:
    """The events of a response, each time there is something worth sending.

    Raises: ChatStreamError, StreamBrokenError: it failed before its first token. StreamBrokenError: it failed later,
        after the events that say so.
    """
    try:
        _check_readable(reply, content_type="text/event-stream")
        async with aclosing(_made_of(reply, events)) as made:
            async for text in made:
                yield text
        if not events.is_ended:
            raise StreamBrokenError("the engine ended the stream without [DONE]")
    except (ChatStreamError, StreamBrokenError) as error:
        if not events.has_begun or events.is_ended:
            raise
        said = error if isinstance(error, ChatStreamError) else no_answer(_BROKE_OFF)
        yield events.failed(said.api_error)
        raise StreamBrokenError(str(error)) from error


async def _made_of(reply: EngineReply, events: ResponseEvents) -> AsyncGenerator[bytes, None]:
    splitter = EventSplitter(limit_bytes=MAX_EVENT_BYTES)
    async for chunk in reply.chunks:
        made: list[bytes] = []
        failure: ChatStreamError | StreamBrokenError | None = None
        try:
            for data in splitter.feed(chunk):
                made.append(events.feed(data))
        except ChatStreamError as error:
            failure = error
        except EventTooLargeError as error:
            failure = StreamBrokenError(str(error))
        _note_progress(reply.usage, events)
        if text := b"".join(made):
            yield text  # what came before the failure is still worth sending
        if failure is not None:
            raise failure


def _note_progress(usage: TokenUsage, events: ResponseEvents) -> None:
    if events.usage is not None:
        fill_usage(usage, events.usage)
    elif not usage.is_reported:
        usage.num_output_tokens = events.num_texts


async def _whole(reply: EngineReply, chat: ChatCall, *, message_id: str) -> EngineReply:
    try:
        _check_readable(reply, content_type="application/json")
        body = await read_whole(reply, limit_bytes=MAX_WHOLE_BYTES)
        response = from_chat_reply(body, chat.draft, message_id=message_id)
    except (ValueError, ChatStreamError) as error:
        message = f"{reply.replica}: {error}"
        raise AttemptError(AttemptFailure.BAD_STATUS, message, replica=reply.replica, status=502) from error
    if response.usage is not None:
        fill_usage(reply.usage, response.usage)
    return with_body(reply, msgspec.json.encode(response))


def _check_readable(reply: EngineReply, *, content_type: str) -> None:
    """Raises: ChatStreamError: the answer is of another kind than was asked for, or compressed."""
    kind = reply.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != content_type or reply.headers.get("content-encoding", "identity") != "identity":
        raise no_answer("The model's engine answered in a form that cannot be read.")


class _ErrorFields(msgspec.Struct, frozen=True):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    origin: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorFields


async def _refusal(reply: EngineReply, chat: ChatCall) -> EngineReply:
    """The engine's refusal, naming fields as the client knows them; as it is when it is no error object."""
    body = await read_whole(reply, limit_bytes=MAX_ERROR_BYTES)
    try:
        fields = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return replace(reply, chunks=Resumed(body))
    refusal = ApiError(
        reply.status,
        fields.message,
        type=fields.type or "invalid_request_error",
        code=None if fields.code is None else str(fields.code),
        param=fields.param,
        origin=fields.origin,
    )
    return with_body(reply, renamed_error(refusal, chat).body_bytes())
