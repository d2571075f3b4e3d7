"""The layer that counts tokens: it asks engines for the usage of a stream, and hides it from clients who did not ask.

The engine's own count is what is billed and learned from. Until it comes, the events of a stream are counted, so that
an answer that breaks off is settled by something. What an engine says is checked: a count that cannot be is ignored.

A chunk is looked at, not decoded: only an event that has a usage object in it is. Where a chunk ends within an event,
its rest waits for the next chunk, so that what leaves here are whole events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

import msgspec

from lightship.gateway.request_body import with_members
from lightship.ports.engine import Engine, EngineCall, EngineReply, TokenUsage
from lightship.wire.paths import API_PATHS

# More tokens than any request has, fewer than would overflow a budget's sum.
_MOST_TOKENS = 2**31
# Bytes of an event whose end has not come, and of a whole answer whose usage is looked for at its end.
_MOST_HELD_BYTES = 2**20
_HEX = (b'"usage":{', b'"usage": {')


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: Any = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _WithUsage(msgspec.Struct, frozen=True):
    usage: _Usage | None = None
    choices: list[msgspec.Raw] | None = None


class MeteredEngine:
    """Another engine whose replies know their token counts when they are at their end."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`."""
        path = API_PATHS.get(call.path)
        if path is None or not path.takes_stream_options:
            return self._inner.open(call)
        if call.is_streaming and not call.wants_usage:
            asked = with_members(call.body, {"stream_options": {"include_usage": True}}, add="stream_options")
            return _Metered(self._inner.open(replace(call, body=asked)), hides_usage=True, is_streaming=True)
        return _Metered(self._inner.open(call), hides_usage=False, is_streaming=call.is_streaming)


class _Metered:
    __slots__ = ("_hides_usage", "_inner", "_is_streaming")

    def __init__(
        self, inner: AbstractAsyncContextManager[EngineReply], *, hides_usage: bool, is_streaming: bool
    ) -> None:
        self._inner = inner
        self._hides_usage = hides_usage
        self._is_streaming = is_streaming

    async def __aenter__(self) -> EngineReply:
        reply = await self._inner.__aenter__()
        if reply.status != 200:
            return reply
        usage = reply.usage
        is_events = reply.headers.get("content-type", "").startswith("text/event-stream")
        reply.chunks = (
            _Events(reply.chunks, usage, hides_usage=self._hides_usage) if is_events else _Whole(reply.chunks, usage)
        )
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, traceback)


class _Events:
    """The chunks of a stream, as whole events."""

    __slots__ = ("_chunks", "_held", "_hides_usage", "_is_over", "_usage")

    def __init__(self, chunks: AsyncIterator[bytes], usage: TokenUsage, *, hides_usage: bool) -> None:
        self._chunks = chunks
        self._usage = usage
        self._hides_usage = hides_usage
        self._held = b""
        self._is_over = False

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> bytes:
        while not self._is_over:
            try:
                chunk = await self._chunks.__anext__()
            except StopAsyncIteration:
                self._is_over = True
                if self._held:
                    return self._take_held()
                raise
            ready = self._whole_events(chunk)
            if ready:
                return ready
        raise StopAsyncIteration

    def _whole_events(self, chunk: bytes) -> bytes:
        if self._held:
            chunk, self._held = self._held + chunk, b""
        if not chunk.endswith((b"\n\n", b"\r\n\r\n")):
            end = max(chunk.rfind(b"\n\n") + 2, chunk.rfind(b"\r\n\r\n") + 4)
            if end < 4 and len(chunk) > _MOST_HELD_BYTES:
                end = len(chunk)  # not an event stream as anyone writes it: passed on as it is
            end = max(0, end if end >= 4 else 0)
            chunk, self._held = chunk[:end], chunk[end:]
        usage = self._usage
        if not usage.is_reported:
            usage.num_output_tokens += chunk.count(b"\n\n") or chunk.count(b"\r\n\r\n")
        if _HEX[0] in chunk or _HEX[1] in chunk:
            return self._read_usage(chunk)
        return chunk

    def _read_usage(self, chunk: bytes) -> bytes:
        kept = []
        for event in chunk.replace(b"\r\n", b"\n").split(b"\n\n"):
            if _HEX[0] in event or _HEX[1] in event:
                found = _decoded(event.removeprefix(b"data:"))
                if found is not None and _take(found.usage, self._usage) and self._hides_usage and not found.choices:
                    continue
            kept.append(event)
        return b"\n\n".join(kept)

    def _take_held(self) -> bytes:
        held, self._held = self._held, b""
        return held


class _Whole:
    """The chunks of an answer that is one JSON object."""

    __slots__ = ("_chunks", "_num_bytes", "_parts", "_usage")

    def __init__(self, chunks: AsyncIterator[bytes], usage: TokenUsage) -> None:
        self._chunks = chunks
        self._usage = usage
        self._parts: list[bytes] = []
        self._num_bytes = 0

    def __aiter__(self) -> _Whole:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            found = _decoded(b"".join(self._parts))
            if found is not None:
                _take(found.usage, self._usage)
            raise
        self._num_bytes += len(chunk)
        if self._num_bytes <= _MOST_HELD_BYTES:
            self._parts.append(chunk)
        else:
            self._parts.clear()  # a body this long is not held for its last line
        return chunk


def _decoded(data: bytes) -> _WithUsage | None:
    try:
        return msgspec.json.decode(data, type=_WithUsage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _take(reported: _Usage | None, usage: TokenUsage) -> bool:
    """Whether the engine's count can be true; it is then taken over."""
    if reported is None:
        return False
    prompt, output = reported.prompt_tokens, reported.completion_tokens
    if not (0 <= prompt <= _MOST_TOKENS and 0 <= output <= _MOST_TOKENS):
        return False
    details = reported.prompt_tokens_details
    cached = details.cached_tokens if details is not None else 0
    usage.num_prompt_tokens, usage.num_output_tokens = prompt, output
    usage.num_cached_tokens = min(cached, prompt) if isinstance(cached, int) and cached > 0 else 0
    usage.is_reported = True
    return True
