"""Sends one answer to the client, byte for byte as it comes, and says so when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Send

from lightship.gateway import headers as names
from lightship.gateway.telemetry import RequestRecord
from lightship.gateway.translation import from_here, outcome_of
from lightship.ports.clock import Clock
from lightship.ports.engine import EngineReply, Outcome, StreamBrokenError
from lightship.serving.responses import end_stream, raw_headers, send_api_error, send_chunk
from lightship.wire.errors import ApiError
from lightship.wire.sse import data_event

# The end of a stream is recognised by its last bytes; this many hold `data: [DONE]` with room to spare.
_TAIL_BYTES = 64
# A client that does not read may not keep the last event, nor the request, for longer than this.
_LAST_EVENT_S = 1.0
# Of an engine's refusal; more is no refusal.
_MAX_ERROR_BYTES = 64 * 1024


class Relay:
    """The sending side of one request. Exactly one of `send_reply`, `fail` and `give_up` says how it ended."""

    __slots__ = (
        "_clock", "_ends_with_done", "_is_early", "_is_event_stream", "_is_started", "_record", "_send", "_tail",
    )  # fmt: skip

    def __init__(self, send: Send, record: RequestRecord, clock: Clock, *, ends_with_done: bool = True) -> None:
        self._send = send
        self._ends_with_done = ends_with_done
        self._record = record
        self._clock = clock
        self._is_started = False
        self._is_early = False
        self._is_event_stream = False
        self._tail = b""

    async def send_sign_of_life(self) -> None:
        """Sends a comment to a client whose stream is held; the first time with headers, after which no status can."""
        if not self._is_started:
            self._is_started = self._is_early = self._is_event_stream = True
            ours = {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                names.REQUEST_ID: self._record.request_id,
                names.COLD_START: "true",
            }
            await self._send({"type": "http.response.start", "status": 200, "headers": raw_headers(ours)})
        await send_chunk(self._send, b": starting\n\n")

    async def send_reply(self, reply: EngineReply, *, degraded: str, ready_s: float) -> None:
        """Sends a committed reply to its end.

        Args:
            reply: Its chunks are sent one by one, as they come.
            degraded: What `x-degraded` says unless a layer below knows better.
            ready_s: When the request was complete; what passed since, without the replica's share, is our overhead.

        Raises: StreamBrokenError: the reply did not come to its end.
        """
        record = self._record
        now_s = self._clock.monotonic_s()
        record.first_byte_s = now_s - record.started_s
        record.status, record.replica, record.num_attempts = reply.status, reply.replica, reply.num_attempts
        record.rung, record.queue_s, record.usage = reply.rung, reply.queue_s, reply.usage
        record.degraded = reply.degraded
        record.cache = reply.headers.get(names.CACHE, "")
        overhead_s = now_s - ready_s - reply.upstream_s - reply.queue_s
        ours = {
            **reply.headers,
            names.DEGRADED: reply.degraded or degraded,
            names.REQUEST_ID: record.request_id,
            names.QUEUE_MS: f"{reply.queue_s * 1000:.3f}",
            names.OVERHEAD_MS: f"{max(0.0, overhead_s) * 1000:.3f}",
        }
        is_event_stream = reply.headers.get("content-type", "").startswith("text/event-stream")
        if self._is_early and not is_event_stream:
            await self._send_as_event(reply)
            return
        self._is_event_stream = is_event_stream
        if not self._is_started:
            self._is_started = True
            await self._send({"type": "http.response.start", "status": reply.status, "headers": raw_headers(ours)})
        async for chunk in reply.chunks:
            record.num_bytes += len(chunk)
            self._tail = chunk if len(chunk) >= _TAIL_BYTES else (self._tail + chunk)[-_TAIL_BYTES:]
            await send_chunk(self._send, chunk)
        needs_done = self._ends_with_done and self._is_event_stream and reply.status == 200
        if needs_done and not self._tail.rstrip().endswith(b"data: [DONE]"):
            raise StreamBrokenError("the engine ended the stream without [DONE]")
        record.outcome = outcome_of(reply.status)
        if record.outcome is Outcome.SERVED and reply.degraded:
            record.outcome = Outcome.DEGRADED
        await end_stream(self._send)

    async def fail(self, error: ApiError) -> None:
        """Tells the client about a failure: as the whole answer, or, when that has begun, as its last event."""
        record = self._record
        record.error = error.code or error.type
        if not self._is_started:
            self._is_started = True
            record.status = error.status
            record.outcome = Outcome.EVICTED if error.was_queued else outcome_of(error.status)
            await self._send_error(error)
            return
        record.outcome = Outcome.FAILED
        if self._is_early and not self._tail:  # nothing but signs of life was sent
            record.status = error.status
            record.outcome = Outcome.EVICTED if error.was_queued else outcome_of(error.status)
        if self._is_event_stream:
            await self._end_with_event(error)
        # Any other body is left unfinished: the server closes the connection, and the client sees that it is not whole.

    def give_up(self, outcome: Outcome) -> None:
        """Nobody is there to be told. An answer that was complete stays what it was."""
        if self._record.outcome is None:
            self._record.outcome = outcome

    async def _send_as_event(self, reply: EngineReply) -> None:
        """Sends an engine's refusal to a client that has had its headers already: as the stream's only event."""
        body = b""
        async for chunk in reply.chunks:
            body += chunk
            if len(body) > _MAX_ERROR_BYTES:
                raise StreamBrokenError("the engine sent more than an error where a stream was asked for")
        # one line, whatever the engine's JSON looked like: an event ends at an empty one
        event = data_event(b" ".join(body.split(b"\n")))
        self._record.num_bytes, self._tail = len(event), event[-_TAIL_BYTES:]
        await send_chunk(self._send, event)
        self._record.outcome = outcome_of(reply.status)
        await end_stream(self._send)

    async def _send_error(self, error: ApiError) -> None:
        extra: Mapping[str, str] = {names.REQUEST_ID: self._record.request_id}
        await send_api_error(self._send, from_here(error), headers=extra)

    async def _end_with_event(self, error: ApiError) -> None:
        if self._is_error_event_sent():
            event = b""
        else:
            event = data_event(from_here(error).body_bytes())
            if not self._tail.endswith(b"\n\n") and self._tail:
                event = b"\n\n" + event  # an event that was cut must not swallow ours
        try:
            async with asyncio.timeout(_LAST_EVENT_S):
                if event:
                    await send_chunk(self._send, event)
                await end_stream(self._send)
        except TimeoutError:
            return  # the client does not read; the server closes the connection

    def _is_error_event_sent(self) -> bool:
        """Whether the engine itself ended the stream with an error event, as far as the last bytes show."""
        return self._tail[self._tail.rfind(b"data:") :].removeprefix(b"data:").lstrip().startswith(b'{"error"')
