"""The layer that makes the first token of a stream its commit point, whatever an engine sends before it.

Some engines answer with 200 and a chunk that has a role and no text before they have worked at all, some send comments
while a request waits, and some tell a failure as their first event. Nothing of that is worth a retry that is no longer
possible, so it is held until there is a token, or the end. What is held is then sent as it came.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

import msgspec

from lightship.engines.remote import ProbeResult
from lightship.gateway.api.reply_chunks import Resumed
from lightship.gateway.api.response_events import error_of
from lightship.gateway.routing.replica import ProbedEngine
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply, StreamBrokenError
from lightship.wire.paths import API_PATHS
from lightship.wire.sse import EventSplitter, EventTooLargeError

# Far more than any engine sends before its first token.
MAX_HELD_BYTES = 2**20
_EVENT_STREAM = "text/event-stream"


class _Choice(msgspec.Struct, frozen=True):
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class FirstTokenEngine:
    """Another engine, whose streams are committed to with their first token.

    Args:
        inner: One replica.
        first_token_s: How long after an engine's first byte its first token may come.
    """

    def __init__(self, inner: ProbedEngine, *, first_token_s: float) -> None:
        self._inner = inner
        self._first_token_s = first_token_s

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """See `ProbedEngine`."""
        return await self._inner.probe_ready(timeout_s=timeout_s)

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`."""
        inner = self._inner.open(call)
        path = API_PATHS.get(call.path)
        if not call.is_streaming or path is None or not path.ends_with_done:
            return inner
        return _Held(inner, first_token_s=self._first_token_s)


class _Held:
    __slots__ = ("_first_token_s", "_inner")

    def __init__(self, inner: AbstractAsyncContextManager[EngineReply], *, first_token_s: float) -> None:
        self._inner = inner
        self._first_token_s = first_token_s

    async def __aenter__(self) -> EngineReply:
        reply = await self._inner.__aenter__()
        if reply.status != 200 or not reply.headers.get("content-type", "").startswith(_EVENT_STREAM):
            return reply
        try:
            beginning = await self._beginning(reply)
        except BaseException as error:  # the inner context must end however this one does
            await self._inner.__aexit__(type(error), error, error.__traceback__)
            raise
        return replace(reply, chunks=Resumed(beginning, reply.chunks))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, traceback)

    async def _beginning(self, reply: EngineReply) -> bytes:
        """What came up to the first token, or up to the end of a stream that has none.

        Raises: AttemptError: it failed, ended or was late before that.
        """
        replica = reply.replica
        try:
            first = await anext(reply.chunks)
            if _begins_with_token(first):
                return first  # as most engines do: no timer, no splitting
            async with asyncio.timeout(self._first_token_s):
                return await _held(first, reply)
        except TimeoutError as error:
            message = f"{replica}: no token came in time"
            raise AttemptError(AttemptFailure.FIRST_TOKEN_TIMEOUT, message, replica=replica) from error
        except (StreamBrokenError, EventTooLargeError) as error:
            raise AttemptError(AttemptFailure.CLOSED_EARLY, f"{replica}: {error}", replica=replica) from error
        except StopAsyncIteration:
            raise AttemptError(AttemptFailure.CLOSED_EARLY, f"{replica}: no token came", replica=replica) from None


async def _held(first: bytes, reply: EngineReply) -> bytes:
    splitter = EventSplitter(limit_bytes=MAX_HELD_BYTES)
    held: list[bytes] = []
    num_bytes = 0
    chunk = first
    while True:
        held.append(chunk)
        num_bytes += len(chunk)
        if any(_commits(data, replica=reply.replica) for data in splitter.feed(chunk)):
            return b"".join(held)
        if num_bytes > MAX_HELD_BYTES:
            raise StreamBrokenError("the engine sent a lot, and no token")
        chunk = await anext(reply.chunks)


def _begins_with_token(chunk: bytes) -> bool:
    """Whether the first event of a chunk is whole and has a token; False where a closer look is needed."""
    if not chunk.startswith(b"data: "):
        return False
    end = chunk.find(b"\n\n")
    if end < 0:
        return False
    try:
        event = _DECODER.decode(chunk[6:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return event.error is None and _has_token(event)


def _commits(data: bytes, *, replica: str) -> bool:
    """Whether this event is a token, or an end, or something unknown that the client had better see.

    Raises: AttemptError: it says that the engine failed.
    """
    try:
        event = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    if event.error is not None:
        error = error_of(event.error)
        message = f"{replica}: its stream began with an error: {error.message}"
        raise AttemptError(AttemptFailure.BAD_STATUS, message, replica=replica, status=502, api_error=error)
    return _has_token(event)


def _has_token(event: _Chunk) -> bool:
    return any(
        choice.finish_reason is not None
        or bool(choice.text)
        or any(value for name, value in (choice.delta or {}).items() if name != "role")
        for choice in event.choices or ()
    )
