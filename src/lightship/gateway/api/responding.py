"""The layer that gives every replica `/v1/responses`: as the engine has it, or made of `/v1/chat/completions`.

    unknown --any answer but "no such path"------> native: bytes pass, and are only watched
    unknown --404, 405 or 501 for the path-------> lacking: requests and answers are translated
    lacking --RETRY_NATIVE_S later---------------> unknown (another engine may have taken the address)

Either way nothing is sent before the first token, a stream that lacks its end is broken, and the usage is read.
All other paths pass by: they are opened at the inner engine itself.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from enum import StrEnum

from lightship.engines.remote import ProbeResult
from lightship.gateway.api.native_events import NativeStream, fill_usage, usage_of_response
from lightship.gateway.api.reply_chunks import Resumed, first_of, read_whole
from lightship.gateway.api.responses import to_chat_call
from lightship.gateway.api.translating import MAX_ERROR_BYTES, MAX_EVENT_BYTES, MAX_WHOLE_BYTES, translated_reply
from lightship.gateway.routing.replica import ProbedEngine
from lightship.ports.clock import Clock
from lightship.ports.engine import EngineCall, EngineReply, StreamBrokenError
from lightship.wire.paths import CHAT_COMPLETIONS, RESPONSES

# How long an engine without the path is believed to be without it.
RETRY_NATIVE_S = 600.0
_NO_SUCH_PATH = frozenset({404, 405, 501})


class ResponsesMode(StrEnum):
    """Whether an engine's own `/v1/responses` is used."""

    AUTO = "auto"
    NATIVE = "native"
    TRANSLATED = "translated"


class ResponsesEngine:
    """Another engine, with `/v1/responses`.

    Args:
        inner: One replica.
        mode: AUTO asks the engine once and remembers.
        first_token_s: How long after an engine's first byte its first token may come.
        draw_id: Gives the random part of ids.

    Concurrency: any number of calls from one event loop; what is remembered may be found out by several at once.
    """

    def __init__(
        self,
        inner: ProbedEngine,
        *,
        clock: Clock,
        mode: ResponsesMode = ResponsesMode.AUTO,
        first_token_s: float = 60.0,
        draw_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._mode = mode
        self._first_token_s = first_token_s
        self._draw_id = draw_id
        self._lacking_until_s = -math.inf

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """See `ProbedEngine`."""
        return await self._inner.probe_ready(timeout_s=timeout_s)

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`."""
        return self._open(call) if call.path == RESPONSES else self._inner.open(call)

    @asynccontextmanager
    async def _open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        if self._may_be_native:
            async with self._inner.open(call) as answer:
                reply = await self._unless_path_is_missing(answer)
                if reply is not None:
                    async with _watched(reply, first_token_s=self._first_token_s) as native:
                        yield native
                    return
            self._lacking_until_s = self._clock.monotonic_s() + RETRY_NATIVE_S
        created_unix_s = int(self._clock.unix_s())
        chat = to_chat_call(call.body, response_id=f"resp_{self._draw_id()}", created_unix_s=created_unix_s)
        inner_call = replace(call, path=CHAT_COMPLETIONS, body=chat.body, is_streaming=chat.is_streaming)
        async with (
            self._inner.open(inner_call) as answer,
            translated_reply(
                answer, chat, message_id=f"msg_{self._draw_id()}", first_token_s=self._first_token_s
            ) as reply,
        ):
            yield reply

    @property
    def _may_be_native(self) -> bool:
        if self._mode is not ResponsesMode.AUTO:
            return self._mode is ResponsesMode.NATIVE
        return self._clock.monotonic_s() >= self._lacking_until_s

    async def _unless_path_is_missing(self, reply: EngineReply) -> EngineReply | None:
        """The answer, or None when it says that the engine has no such path. A 404 may be about the model as well."""
        if reply.status not in _NO_SUCH_PATH or self._mode is ResponsesMode.NATIVE:
            return reply
        body = await read_whole(reply, limit_bytes=MAX_ERROR_BYTES)
        return replace(reply, chunks=Resumed(body)) if b"model" in body.lower() else None


@asynccontextmanager
async def _watched(reply: EngineReply, *, first_token_s: float) -> AsyncIterator[EngineReply]:
    """An engine's own response: byte for byte, from its first token on, its usage read as it passes."""
    if reply.status != 200:
        yield reply
        return
    is_stream = reply.headers.get("content-type", "").startswith("text/event-stream")
    async with aclosing(_native_events(reply) if is_stream else _native_whole(reply)) as chunks:
        first = await first_of(chunks, replica=reply.replica, limit_s=first_token_s)
        yield replace(reply, chunks=Resumed(first, chunks))


async def _native_events(reply: EngineReply) -> AsyncGenerator[bytes, None]:
    stream = NativeStream(reply.usage, limit_bytes=MAX_EVENT_BYTES)
    held: list[bytes] = []
    num_held = 0
    async for chunk in reply.chunks:
        stream.feed(chunk)
        if stream.has_token:
            yield b"".join([*held, chunk]) if held else chunk
            held.clear()
            continue
        held.append(chunk)
        num_held += len(chunk)
        if num_held > MAX_EVENT_BYTES:
            raise StreamBrokenError("the engine sent a lot, and no token")
    if not stream.is_complete:
        raise StreamBrokenError("the engine ended the stream without its last event")


async def _native_whole(reply: EngineReply) -> AsyncGenerator[bytes, None]:
    pieces: list[bytes] = []
    num_bytes = 0
    async for chunk in reply.chunks:
        num_bytes += len(chunk)
        if num_bytes <= MAX_WHOLE_BYTES:
            pieces.append(chunk)
        yield chunk
    if num_bytes <= MAX_WHOLE_BYTES and (usage := usage_of_response(b"".join(pieces))) is not None:
        fill_usage(reply.usage, usage)
