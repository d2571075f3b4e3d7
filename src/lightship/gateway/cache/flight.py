"""One engine call under way and the clients who read its answer together. See `single_flight` for the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass

from lightship.ports.engine import EngineReply, StreamBrokenError, TokenUsage
from lightship.wire.errors import ApiError


@dataclass(slots=True)
class FlightBudget:
    """Memory for the chunks of all flights; `num_bytes` of it are taken."""

    max_entry_bytes: int
    max_bytes: int
    num_bytes: int = 0

    def has_room(self, num_held: int, num_more: int) -> bool:
        """Whether a flight that holds `num_held` bytes may hold `num_more` besides."""
        return num_held + num_more <= self.max_entry_bytes and self.num_bytes + num_more <= self.max_bytes


class Flight:
    """The chunks of one reply, from the first to the last.

    `key` is what others board under, or None. `has_begun` says that its task runs. `reply` is there from the first byte
    on. `failure` is what the engine below raised. A flight that `is_full` keeps only what some reader has not read yet.

    Concurrency: one task fills it (`begin`, `append`, `end`); every reader belongs to a task of its own.
    """

    def __init__(self, budget: FlightBudget, key: Hashable | None = None) -> None:
        self.key = key
        self.reply: EngineReply | None = None
        self.failure: Exception | None = None
        self.has_begun = False
        self.is_over = False
        self.is_full = False
        self._budget = budget
        self._readers: list[Reader] = []
        self._chunks: list[bytes] = []
        self._first = 0
        self._num_bytes = 0
        self._room: asyncio.Future[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anyone is on board."""
        return bool(self._readers)

    def board(self) -> Reader:
        """A reader from the first chunk on; the first one pays. Nobody may board a full flight."""
        reader = Reader(self, is_payer=not self._readers and not self.is_over)
        self._readers.append(reader)
        return reader

    def begin(self, reply: EngineReply) -> None:
        """Effects: readers who wait for the first byte get the reply."""
        self.reply = reply
        self._wake_readers()

    async def append(self, chunk: bytes) -> None:
        """Effects: readers get one more chunk. Once the flight is full this waits for the fastest of them."""
        if not self.is_full and not self._budget.has_room(self._num_bytes, len(chunk)):
            self.is_full = True
        if self.is_full:
            await self._make_room(len(chunk))
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)
        self._budget.num_bytes += len(chunk)
        self._wake_readers()

    def end(self, failure: Exception | None = None) -> None:
        """Effects: readers come to the end, or to the failure."""
        self.failure = failure
        self.is_over = True
        self._release_if_left()
        self._wake_readers()

    def body(self) -> bytes | None:
        """All chunks together; None where some may have been let go."""
        return None if self.is_full else b"".join(self._chunks)

    def chunk_at(self, position: int) -> bytes | None:
        """The chunk with this number, or None when it has not come yet."""
        place = position - self._first
        return self._chunks[place] if place < len(self._chunks) else None

    def note_read(self) -> None:
        """Effects: of a full flight, what everyone has read is let go, and the call may go on."""
        if self.is_full:
            self._let_go_of_read()
            if self._room is not None and not self._room.done() and self._is_fastest_at_end():
                self._room.set_result(None)

    def leave(self, reader: Reader) -> None:
        """Effects: the reader is off; where it paid, the next one does, unless all has come."""
        if reader not in self._readers:
            return  # it was cut
        self._readers.remove(reader)
        reader.hand_over_to(self._readers[0] if self._readers and not self.is_over else None)
        self.note_read()
        self._release_if_left()

    async def _make_room(self, num_more: int) -> None:
        self._let_go_of_read()
        while not self._is_fastest_at_end():
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None
        # What is kept now waits for laggards only; the fastest reader has read it all, so one always remains.
        while self._chunks and not self._budget.has_room(self._num_bytes, num_more):
            slowest = min(reader.position for reader in self._readers)
            for reader in [reader for reader in self._readers if reader.position == slowest]:
                self._readers.remove(reader)
                reader.hand_over_to(self._readers[0])
                reader.cut()
            self._let_go_of_read()

    def _let_go_of_read(self) -> None:
        slowest = min((reader.position for reader in self._readers), default=self._first)
        if slowest > self._first:
            freed = sum(map(len, self._chunks[: slowest - self._first]))
            del self._chunks[: slowest - self._first]
            self._first = slowest
            self._num_bytes -= freed
            self._budget.num_bytes -= freed

    def _is_fastest_at_end(self) -> bool:
        end = self._first + len(self._chunks)
        return any(reader.position >= end for reader in self._readers)

    def _release_if_left(self) -> None:
        if self.is_over and not self._readers:
            self._budget.num_bytes -= self._num_bytes
            self._num_bytes = 0

    def _wake_readers(self) -> None:
        for reader in self._readers:
            reader.wake()


class Reader:
    """One client on board: an iterator over the reply's chunks. Whoever boarded has to `leave`, whatever happens.

    `usage` is what this client has to pay for. Like any reply's it is complete at the end of the chunks; of one who
    leaves before it is so after `leave`.
    """

    __slots__ = ("_is_cut", "_is_payer", "_waiter", "flight", "is_first", "position", "usage")

    def __init__(self, flight: Flight, *, is_payer: bool) -> None:
        self.flight = flight
        self.is_first = is_payer
        self.usage = TokenUsage(is_reported=not is_payer)
        self.position = 0
        self._is_payer = is_payer
        self._is_cut = False
        self._waiter: asyncio.Future[None] | None = None

    async def reply(self) -> EngineReply:
        """The flight's reply, once its first byte is there; its chunks are read through this object.

        Raises: what the engine below raised.
        """
        flight = self.flight
        while flight.reply is None:
            if flight.failure is not None:
                raise same_failure(flight.failure)
            await self._wait()
        return flight.reply

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        flight = self.flight
        while True:
            if self._is_cut:
                raise StreamBrokenError("the client reads too slowly for an answer that is shared with others")
            chunk = flight.chunk_at(self.position)
            if chunk is not None:
                self.position += 1
                flight.note_read()
                return chunk
            if flight.is_over:
                self._settle()
                if flight.failure is not None:
                    raise same_failure(flight.failure)
                raise StopAsyncIteration
            await self._wait()

    def wake(self) -> None:
        """Effects: it looks at the flight again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cut(self) -> None:
        """Effects: its stream breaks."""
        self._is_cut = True
        self.wake()

    def hand_over_to(self, other: Reader | None) -> None:
        """Effects: where this one pays, the other does from now on; without another it pays for what has come."""
        if other is None:
            self._settle()
        elif self._is_payer:
            self._is_payer, other._is_payer = False, True
            self.usage.is_reported, other.usage.is_reported = True, False

    def _settle(self) -> None:
        if self._is_payer and self.flight.reply is not None:
            counted = self.flight.reply.usage
            self.usage.num_prompt_tokens = counted.num_prompt_tokens
            self.usage.num_cached_tokens = counted.num_cached_tokens
            self.usage.num_output_tokens = counted.num_output_tokens
            self.usage.is_reported = counted.is_reported

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def same_failure(failure: Exception) -> Exception:
    """The failure once more, as an object that one client may change and raise without touching another's."""
    again = type(failure).__new__(type(failure), *failure.args)
    again.args = failure.args
    again.__dict__.update(failure.__dict__)
    if isinstance(again, ApiError):
        again.headers = dict(again.headers)
    again.__cause__ = failure
    return again
