from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from lightship.gateway.cache.flight import FlightBudget, Reader, same_failure
from lightship.gateway.cache.single_flight import Flights, Landing
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, StreamBrokenError
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, always, error_reply, stream_reply
from lightship.testing.virtual_time import run_in_virtual_time
from lightship.wire.errors import ApiError, overloaded

CALL = EngineCall(path="/v1/completions", body=b"{}", request_id="r", model="m", is_streaming=True)
KEY = "k"


@dataclass
class Field:
    """Flights over a scripted engine, and what landed."""

    engine: FakeEngine
    budget: FlightBudget = field(default_factory=lambda: FlightBudget(max_entry_bytes=1000, max_bytes=5000))
    landed: list[Landing] = field(default_factory=list)
    landing_gate: asyncio.Event | None = None

    def __post_init__(self) -> None:
        self.flights = Flights(self.engine, self.budget)

    async def land(self, landing: Landing) -> None:
        if self.landing_gate is not None:
            await self.landing_gate.wait()
        self.landed.append(landing)

    def board(self, key: str | None = KEY) -> Reader:
        return (key and self.flights.board_open(key)) or self.flights.start(key, CALL, self.land)

    async def read(self, reader: Reader | None = None) -> bytes:
        reader = reader or self.board()
        try:
            await reader.reply()
            return b"".join([chunk async for chunk in reader])
        finally:
            await self.flights.leave(reader)

    def assert_nothing_left(self) -> None:
        assert self.engine.num_open == 0
        assert self.flights.num_under_way == 0
        assert self.flights.board_open(KEY) is None
        assert self.budget.num_bytes == 0


def fly(field: Field, test: Callable[[Field], Awaitable[None]]) -> None:
    async def run() -> None:
        async with field.flights.running():
            await test(field)
            await settle()
            field.assert_nothing_left()

    run_in_virtual_time(run())


async def settle() -> None:
    """Lets everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def gated(*texts: str, fault: Fault = Fault.NONE) -> tuple[FakeReply, asyncio.Event, asyncio.Event]:
    first, later = asyncio.Event(), asyncio.Event()
    return stream_reply(*texts, fault=fault, first_gate=first, next_gate=later), first, later


def test_flight_hundred_at_once_make_one_call() -> None:
    reply, first, later = gated("a", "b")

    async def test(field: Field) -> None:
        readers = [asyncio.create_task(field.read()) for _ in range(100)]
        await settle()
        first.set()
        await settle()
        readers += [asyncio.create_task(field.read()) for _ in range(10)]
        await settle()
        later.set()
        assert set(await asyncio.gather(*readers)) == {reply.body}
        assert len(field.engine.calls) == 1
        assert [landing.body for landing in field.landed] == [reply.body]

    fly(Field(FakeEngine(always(reply))), test)


def test_flight_without_a_key_is_shared_with_nobody() -> None:
    async def test(field: Field) -> None:
        one, other = field.board(None), field.board(None)
        assert field.flights.board_open(KEY) is None
        await asyncio.gather(field.read(one), field.read(other))
        assert len(field.engine.calls) == 2

    fly(Field(FakeEngine(always(stream_reply("a")))), test)


def test_flight_chunks_come_as_they_are_made() -> None:
    reply, first, later = gated("a", "b")

    async def test(field: Field) -> None:
        first.set()
        readers = [field.board(), field.board()]
        assert [await anext(reader) for reader in readers] == [reply.chunks[0]] * 2
        later.set()
        assert [await anext(reader) for reader in readers] == [reply.chunks[1]] * 2
        for reader in readers:
            await field.flights.leave(reader)

    fly(Field(FakeEngine(always(reply))), test)


@pytest.mark.parametrize("is_begun", [False, True])
def test_flight_first_client_leaves_and_the_others_get_their_answer(is_begun: bool) -> None:
    reply, first, later = gated("a", "b")

    async def test(field: Field) -> None:
        leader, follower = asyncio.create_task(field.read()), asyncio.create_task(field.read())
        await settle()
        if is_begun:
            first.set()
            await settle()
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert field.engine.num_open == 1
        first.set()
        later.set()
        assert await follower == reply.body
        assert len(field.engine.calls) == 1
        assert len(field.landed) == 1

    fly(Field(FakeEngine(always(reply))), test)


@pytest.mark.parametrize("is_begun", [False, True])
def test_flight_last_client_leaves_and_the_call_is_over(is_begun: bool) -> None:
    reply, first, _ = gated("a", "b")

    async def test(field: Field) -> None:
        if is_begun:
            first.set()
        readers = [asyncio.create_task(field.read()) for _ in range(3)]
        await settle()
        for reader in readers:
            assert field.engine.num_open == 1
            reader.cancel()
            await asyncio.wait([reader])
        assert field.engine.num_open == 0
        assert field.engine.num_abandoned == 1
        assert field.landed == []

    fly(Field(FakeEngine(always(reply))), test)


def test_flight_left_before_it_began_makes_no_call() -> None:
    async def test(field: Field) -> None:
        await field.flights.leave(field.board())
        assert field.engine.calls == []

    fly(Field(FakeEngine(always(stream_reply("a")))), test)


def test_flight_whoever_comes_after_a_cancelled_one_starts_anew() -> None:
    reply, first, later = gated("a")

    async def test(field: Field) -> None:
        gone = asyncio.create_task(field.read())
        await settle()
        gone.cancel()
        next_one = asyncio.create_task(field.read())
        first.set()
        later.set()
        assert await next_one == reply.body
        assert len(field.engine.calls) == 2

    fly(Field(FakeEngine(always(reply))), test)


@pytest.mark.parametrize(
    "reply", [error_reply(503, "busy"), stream_reply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)], ids=["status", "closed"]
)
def test_flight_failure_before_the_first_byte_is_everyones_own(reply: FakeReply) -> None:
    async def test(field: Field) -> None:
        failures = await asyncio.gather(*(field.read() for _ in range(5)), return_exceptions=True)
        assert len(field.engine.calls) == 1
        assert len({id(failure) for failure in failures}) == 5
        for failure in failures:
            assert isinstance(failure, AttemptError)
            assert failure.replica == "fake"
        with pytest.raises(AttemptError):
            await field.read()
        assert len(field.engine.calls) == 2

    fly(Field(FakeEngine(always(reply))), test)


def test_flight_failure_after_the_first_byte_breaks_everyones_stream_after_what_came() -> None:
    async def test(field: Field) -> None:
        readers = [field.board() for _ in range(3)]
        for reader in readers:
            await reader.reply()
            assert await anext(reader) == stream_reply("a").chunks[0]
            with pytest.raises(StreamBrokenError):
                await anext(reader)
            await field.flights.leave(reader)
        assert field.landed == []

    fly(Field(FakeEngine(always(stream_reply("a", fault=Fault.CLOSE_AFTER_CHUNKS)))), test)


def test_flight_is_boarded_while_its_answer_is_being_stored() -> None:
    async def test(field: Field) -> None:
        field.landing_gate = asyncio.Event()
        field.flights.begin_look_up()
        body = await field.read()
        assert await field.read() == body
        assert len(field.engine.calls) == 1
        assert not field.flights.has_landed(KEY)
        field.landing_gate.set()
        await settle()
        assert field.flights.has_landed(KEY)
        field.flights.end_look_up()
        assert not field.flights.has_landed(KEY)

    fly(Field(FakeEngine(always(stream_reply("a")))), test)


def test_flight_fault_in_storing_is_nobodys_failure() -> None:
    async def test(field: Field) -> None:
        async def broken(landing: Landing) -> None:
            raise RuntimeError("a bug")

        reader = field.flights.start(KEY, CALL, broken)
        assert await field.read(reader) == stream_reply("a").body

    fly(Field(FakeEngine(always(stream_reply("a")))), test)


def large(count: int, num_bytes: int) -> FakeReply:
    return FakeReply(chunks=tuple(bytes([65 + number % 26]) * num_bytes for number in range(count)))


def test_flight_larger_than_its_bound_goes_on_at_its_readers_pace() -> None:
    reply = large(50, 100)

    async def test(field: Field) -> None:
        reader = field.board()
        await reader.reply()
        await settle()
        assert field.budget.num_bytes <= 1000
        assert field.flights.board_open(KEY) is None  # its beginning will be let go
        chunks = []
        async for chunk in reader:
            chunks.append(chunk)
            assert field.budget.num_bytes <= 1000
            await settle()
        await field.flights.leave(reader)
        assert tuple(chunks) == reply.chunks
        assert [landing.body for landing in field.landed] == [None]

    fly(Field(FakeEngine(always(reply))), test)


def test_flight_slow_reader_holds_nobody_up_and_is_cut_when_memory_ends() -> None:
    reply = large(50, 100)

    async def test(field: Field) -> None:
        slow, fast = field.board(), field.board()
        assert await anext(slow) == reply.chunks[0]
        assert b"".join([chunk async for chunk in fast]) == reply.body
        assert field.budget.num_bytes <= 1000
        with pytest.raises(StreamBrokenError, match="too slowly"):
            await anext(slow)
        assert fast.usage.is_reported == field.landed[0].reply.usage.is_reported  # who was cut does not pay
        await field.flights.leave(slow)
        await field.flights.leave(fast)

    fly(Field(FakeEngine(always(reply))), test)


def test_flight_reader_a_little_behind_is_not_cut() -> None:
    reply = large(50, 100)

    async def test(field: Field) -> None:
        behind, fast = field.board(), field.board()
        got = []
        async for chunk in fast:
            got.append(chunk)
            if len(got) > 5:
                assert await anext(behind) == reply.chunks[len(got) - 6]
        assert tuple(got) == reply.chunks
        assert [chunk async for chunk in behind] == list(reply.chunks[-5:])
        await field.flights.leave(behind)
        await field.flights.leave(fast)

    fly(Field(FakeEngine(always(reply))), test)


def test_flights_together_keep_to_their_memory() -> None:
    async def test(field: Field) -> None:
        field.budget.max_bytes = 3000
        readers = [field.board(f"k{number}") for number in range(10)]
        await settle()
        assert field.budget.num_bytes <= 3000 + 10 * 100  # a chunk each that is on its way
        for reader in readers:
            assert b"".join([chunk async for chunk in reader]) == large(9, 100).body
            await field.flights.leave(reader)

    fly(Field(FakeEngine(always(large(9, 100)))), test)


def test_flight_over_keeps_counting_while_it_is_read() -> None:
    async def test(field: Field) -> None:
        reader = field.board()
        await settle()
        assert field.flights.num_under_way == 0
        assert field.budget.num_bytes == 500
        await field.flights.leave(reader)
        assert field.budget.num_bytes == 0

    fly(Field(FakeEngine(always(large(5, 100)))), test)


def test_flights_shut_down_cancels_calls_under_way() -> None:
    async def run() -> None:
        field = Field(FakeEngine(always(FakeReply(fault=Fault.HANG))))
        async with field.flights.running():
            waiting = [asyncio.create_task(field.read()) for _ in range(2)]
            await settle()
        assert field.engine.num_open == 0
        for failure in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failure, ApiError)
            assert failure.headers["x-reject-reason"] == "shutdown"
        field.assert_nothing_left()
        with pytest.raises(RuntimeError, match="not running"):
            field.board()

    run_in_virtual_time(run())


def test_same_failure_can_be_changed_without_touching_the_other() -> None:
    one = overloaded("m", reason="saturated")
    other = same_failure(one)
    assert isinstance(other, ApiError)
    other.headers["x"] = "y"
    other.origin = "engine"
    assert "x" not in one.headers
    assert one.origin is None
    assert (other.status, other.message, str(other)) == (one.status, one.message, str(one))
    attempt = same_failure(AttemptError(AttemptFailure.CONNECT, "m", replica="r", status=5))
    assert isinstance(attempt, AttemptError)
    assert (attempt.failure, attempt.message, attempt.replica, attempt.status) == (AttemptFailure.CONNECT, "m", "r", 5)
