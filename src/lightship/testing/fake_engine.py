"""An engine in memory that does what a script says; `fake_upstream` plays the same scripts behind a real socket.

One suite holds both to the same contract. Nothing here waits for time to pass:
what is slow waits for an `asyncio.Event` the test sets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from lightship.engines.remote import RETRYABLE_STATUSES, ProbeResult
from lightship.ports.engine import (
    AttemptError,
    AttemptFailure,
    EngineCall,
    EngineReply,
    HopTimeouts,
    StreamBrokenError,
)
from lightship.wire.errors import upstream_failed
from lightship.wire.sse import CONTENT_TYPE, DONE

UNLIMITED = HopTimeouts(connect_s=60, first_token_s=60, next_token_s=60, total_s=60)


class Fault(StrEnum):
    """What goes wrong with a reply."""

    NONE = "none"
    HANG = "hang"
    CLOSE_BEFORE_FIRST_BYTE = "close_before_first_byte"
    CLOSE_AFTER_CHUNKS = "close_after_chunks"
    STALL_AFTER_CHUNKS = "stall_after_chunks"


@dataclass(frozen=True)
class FakeReply:
    """One scripted reply.

    `first_gate` and `next_gate`, where given, hold back the first chunk and every later one until they are set.
    `is_chunked` chooses between chunked transfer and a content length, which only a socket shows.
    """

    chunks: tuple[bytes, ...] = (b'{"object":"chat.completion"}',)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    fault: Fault = Fault.NONE
    first_gate: asyncio.Event | None = None
    next_gate: asyncio.Event | None = None
    is_chunked: bool = True

    @property
    def body(self) -> bytes:
        """All chunks together."""
        return b"".join(self.chunks)


def stream_reply(
    *texts: str,
    fault: Fault = Fault.NONE,
    first_gate: asyncio.Event | None = None,
    next_gate: asyncio.Event | None = None,
) -> FakeReply:
    """A stream with one event per text, and `[DONE]` unless it closes or stalls before."""
    events = [b'data: {"choices":[{"delta":{"content":%s}}]}\n\n' % json.dumps(text).encode() for text in texts]
    end = [DONE] if fault is Fault.NONE else []
    return FakeReply(
        chunks=(*events, *end),
        headers={"content-type": CONTENT_TYPE},
        fault=fault,
        first_gate=first_gate,
        next_gate=next_gate,
    )


def error_reply(status: int, message: str = "scripted") -> FakeReply:
    """A reply with an OpenAI error object."""
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": "scripted"}}
    return FakeReply(chunks=(json.dumps(body).encode(),), status=status)


Script = Callable[[EngineCall], FakeReply]


def always(reply: FakeReply) -> Script:
    """A script with one reply for every call."""
    return lambda call: reply


def in_turn(*replies: FakeReply) -> Script:
    """A script that plays its replies one after the other, and the last one ever after."""
    rest = list(replies)
    return lambda call: rest.pop(0) if len(rest) > 1 else rest[0]


class FakeEngine:
    """An `Engine` in memory.

    It remembers `calls`, and counts those that are open (`num_open`) and that were left before their end
    (`num_abandoned`). `probe_result` is what readiness probes find.
    """

    def __init__(self, script: Script, *, name: str = "fake", timeouts: HopTimeouts = UNLIMITED) -> None:
        self.name = name
        self.calls: list[EngineCall] = []
        self.num_open = 0
        self.num_abandoned = 0
        self.probe_result = ProbeResult.READY
        self._script = script
        self._timeouts = timeouts

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """See `gateway.routing.replica.ProbedEngine`."""
        del timeout_s
        return self.probe_result

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """See `Engine`."""
        self.calls.append(call)
        reply = self._script(call)
        self.num_open += 1
        is_complete = False

        def note_complete() -> None:
            nonlocal is_complete
            is_complete = True

        try:
            await self._reach_commit_point(reply, is_streaming=call.is_streaming)
            chunks = self._chunks(reply, note_complete)
            try:
                yield EngineReply(reply.status, dict(reply.headers), chunks, replica=self.name)
            finally:
                await chunks.aclose()
        finally:
            self.num_open -= 1
            self.num_abandoned += not is_complete

    async def _reach_commit_point(self, reply: FakeReply, *, is_streaming: bool) -> None:
        limit_s = self._timeouts.first_token_s if is_streaming else self._timeouts.total_s
        try:
            async with asyncio.timeout(limit_s):
                await _pass(reply.first_gate)
                if reply.fault is Fault.HANG:
                    await asyncio.Event().wait()
        except TimeoutError as error:
            raise self._failed(AttemptFailure.FIRST_TOKEN_TIMEOUT) from error
        if reply.fault is Fault.CLOSE_BEFORE_FIRST_BYTE:
            raise self._failed(AttemptFailure.CLOSED_EARLY)
        if reply.status in RETRYABLE_STATUSES:
            raise self._failed(AttemptFailure.BAD_STATUS, reply)

    def _failed(self, failure: AttemptFailure, reply: FakeReply | None = None) -> AttemptError:
        api_error = None
        if reply is not None and reply.body.startswith(b'{"error"'):
            api_error = upstream_failed(json.loads(reply.body)["error"]["message"])
            api_error.status = reply.status
        status = reply.status if reply else None
        return AttemptError(failure, f"{self.name}: {failure}", replica=self.name, status=status, api_error=api_error)

    async def _chunks(self, reply: FakeReply, note_complete: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        for position, chunk in enumerate(reply.chunks):
            if position:
                await self._next_token(_pass(reply.next_gate))
            yield chunk
        if reply.fault is Fault.STALL_AFTER_CHUNKS:
            await self._next_token(asyncio.Event().wait())
        if reply.fault is Fault.CLOSE_AFTER_CHUNKS:
            raise StreamBrokenError(f"{self.name}: scripted break")
        note_complete()

    async def _next_token(self, wait: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(self._timeouts.next_token_s):
                await wait
        except TimeoutError as error:
            raise StreamBrokenError(f"{self.name}: nothing came") from error


async def _pass(gate: asyncio.Event | None) -> None:
    if gate is not None:
        await gate.wait()
