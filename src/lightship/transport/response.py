"""An answer as one waiting task reads it: its pieces as they come, within time limits, never more than a bound of them.

WAITING --head, first piece--> STREAMING --end--> COMPLETE
any --lost, too late--> BROKEN          any --close()--> the connection is closed, unless COMPLETE
"""

from __future__ import annotations

import asyncio
import math

from lightship.transport.connection import Connection, ResponseHead
from lightship.transport.errors import ResponseTimeoutError, TransportError

# Bytes that wait for a reader before the server has to wait, and at which it may go on.
HIGH_WATER_BYTES = 64 * 2**10
LOW_WATER_BYTES = 16 * 2**10
# Event loops count time in steps of up to a millisecond, so a timer may fire that much early.
_TIMER_SLACK_S = 0.001


class StreamedResponse:
    """A `ResponseReceiver` whose body is read by one task.

    One timer serves all limits of an answer: it is not moved at each piece, but looks, when it fires, whether anything
    is due, and waits on.

    Args:
        ends_at_s: The event loop's time at which the answer must have ended.

    Concurrency: one reader.
    """

    __slots__ = (
        "_connection",
        "_due_s",
        "_ends_at_s",
        "_error",
        "_is_ended",
        "_loop",
        "_num_bytes",
        "_pieces",
        "_timer",
        "_wait_s",
        "_waiter",
        "_waiting_since_s",
        "head",
    )

    def __init__(self, *, ends_at_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since_s = 0.0
        self._error: TransportError | None = None
        self._is_ended = False
        self._wait_s = math.inf
        self._ends_at_s = self._due_s = ends_at_s
        self._timer = self._loop.call_at(ends_at_s, self._check_limits)
        self.head: ResponseHead | None = None

    def send(self, connection: Connection, request: bytes) -> None:
        """Effects: sends the request; the answer comes here."""
        self._connection = connection
        connection.request(request, self)

    def set_limits(self, *, wait_s: float, ends_at_s: float) -> None:
        """From now on: the longest wait for the next piece, and the event loop's time at which all must have ended."""
        self._wait_s, self._ends_at_s = wait_s, ends_at_s
        if self._is_ended:
            return
        due_s = min(ends_at_s, self._loop.time() + wait_s)
        if due_s < self._due_s:
            self._timer.cancel()
            self._due_s = due_s
            self._timer = self._loop.call_at(due_s, self._check_limits)

    async def wait(self) -> None:
        """Returns when a piece of the body is there, or the end.

        Raises: TransportError: the answer broke off, or nothing came in time. What came before that is given first.
        """
        if not self._pieces and not self._is_ended:
            assert self._waiter is None, "one reader at a time"
            self._waiter = self._loop.create_future()
            self._waiting_since_s = self._loop.time()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None and not self._pieces:
            raise self._error

    async def read(self) -> bytes:
        """What has come since the last call, waiting for something if need be; empty at the end.

        Raises: TransportError: as `wait` does.
        """
        if not self._pieces:
            await self.wait()
        return self.read_nowait()

    def read_nowait(self) -> bytes:
        """What has come since the last call; empty when nothing has."""
        pieces = self._pieces
        if not pieces:
            return b""
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._num_bytes > LOW_WATER_BYTES and self._connection is not None:
            self._connection.resume_reading()
        self._num_bytes = 0
        return chunk

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has come, read or not."""
        return self._is_ended and self._error is None

    def close(self) -> None:
        """Effects: closes the connection at once unless the answer is complete, when it is kept for the next one."""
        self._timer.cancel()
        if not self._is_ended:
            self._is_ended = True
            if self._connection is not None:
                self._connection.drop()

    # See `ResponseReceiver`

    def head_received(self, head: ResponseHead) -> None:
        """Status and headers are there."""
        self.head = head

    def body_received(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(chunk)
        self._num_bytes += len(chunk)
        if self._num_bytes >= HIGH_WATER_BYTES and self._connection is not None:
            self._connection.pause_reading()
        self._wake()

    def response_ended(self, error: TransportError | None) -> None:
        """The end, good or bad."""
        self._is_ended = True
        self._error = error
        self._timer.cancel()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_limits(self) -> None:
        now_s = self._loop.time()
        is_waiting = self._waiter is not None and not self._waiter.done()
        due_s = min(self._ends_at_s, (self._waiting_since_s if is_waiting else now_s) + self._wait_s)
        if now_s >= due_s - _TIMER_SLACK_S:
            connection = self._connection
            self.response_ended(ResponseTimeoutError("nothing came in time"))
            if connection is not None:
                connection.drop()
            return
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._check_limits)
