from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.unit.transport.wire import Wire

from lightship.testing.virtual_time import run_in_virtual_time
from lightship.transport.errors import ConnectionLostError, ResponseTimeoutError
from lightship.transport.response import HIGH_WATER_BYTES, StreamedResponse

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def run(scenario: Callable[[Wire, StreamedResponse], Awaitable[None]], *, ends_at_s: float = 10.0) -> None:
    async def main() -> None:
        wire = Wire()
        response = StreamedResponse(ends_at_s=ends_at_s)
        response.send(wire.connection, b"request")
        await scenario(wire, response)
        response.close()

    run_in_virtual_time(main())


def after(delay_s: float, wire: Wire, *pieces: bytes) -> None:
    asyncio.get_running_loop().call_later(delay_s, lambda: wire.feed(*pieces))


def test_response_pieces_are_read_as_they_come_and_joined_when_they_wait() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        after(1, wire, HEAD + chunk(b"a"))
        assert await response.read() == b"a"
        wire.feed(chunk(b"b"), chunk(b"c"))
        assert await response.read() == b"bc"
        after(1, wire, b"0\r\n\r\n")
        assert await response.read() == b""
        assert response.is_complete
        assert response.head is not None
        assert response.head.status == 200

    run(scenario)


def test_response_nothing_in_time_breaks_it_and_closes_the_connection() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ResponseTimeoutError):
            await response.read()
        assert loop.time() == pytest.approx(10.0, abs=0.01)
        assert wire.transport.is_closed

    run(scenario)


def test_response_stall_breaks_it_after_the_longest_wait_whatever_the_first_limit_was() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        loop = asyncio.get_running_loop()
        after(1, wire, HEAD + chunk(b"a"))
        await response.read()
        response.set_limits(wait_s=2.0, ends_at_s=100.0)
        for _ in range(3):  # each just in time
            after(1.9, wire, chunk(b"b"))
            assert await response.read() == b"b"
        began_s = loop.time()
        with pytest.raises(ResponseTimeoutError):
            await response.read()
        assert loop.time() - began_s == pytest.approx(2.0, abs=0.01)

    run(scenario)


def test_response_trickle_ends_at_its_total_limit() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        after(1, wire, HEAD + chunk(b"a"))
        await response.read()
        response.set_limits(wait_s=5.0, ends_at_s=20.0)
        for _ in range(4):
            after(4, wire, chunk(b"b"))
            assert await response.read() == b"b"
        with pytest.raises(ResponseTimeoutError):
            await response.read()
        assert asyncio.get_running_loop().time() == pytest.approx(20.0, abs=0.01)

    run(scenario)


def test_response_reader_that_takes_its_time_is_not_the_servers_stall() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        wire.feed(HEAD + chunk(b"a"))
        await response.read()
        response.set_limits(wait_s=1.0, ends_at_s=100.0)
        await asyncio.sleep(50)
        wire.feed(chunk(b"b"))
        assert await response.read() == b"b"

    run(scenario)


def test_response_what_came_before_a_break_is_given_first() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        wire.feed(HEAD + chunk(b"a"))
        wire.connection.connection_lost(None)
        assert await response.read() == b"a"
        with pytest.raises(ConnectionLostError):
            await response.read()
        assert not response.is_complete

    run(scenario)


def test_response_nobody_reads_so_the_server_has_to_wait() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        wire.feed(HEAD)
        num_bytes = 0
        while wire.transport.is_reading_now:
            wire.feed(chunk(b"x" * 1024))
            num_bytes += 1024
        assert num_bytes == HIGH_WATER_BYTES
        assert len(await response.read()) == num_bytes
        assert wire.transport.is_reading_now

    run(scenario)


def test_response_closed_early_closes_the_connection_complete_does_not() -> None:
    async def early(wire: Wire, response: StreamedResponse) -> None:
        wire.feed(HEAD + chunk(b"a"))
        response.close()
        assert wire.transport.is_closed
        assert wire.idle == []

    async def complete(wire: Wire, response: StreamedResponse) -> None:
        wire.feed(HEAD + chunk(b"a") + b"0\r\n\r\n")
        response.close()  # although nobody has read the piece
        assert not wire.transport.is_closed
        assert len(wire.idle) == 1

    run(early)
    run(complete)


def test_response_cancelled_reader_can_be_closed_at_once() -> None:
    async def scenario(wire: Wire, response: StreamedResponse) -> None:
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        response.close()
        assert wire.transport.is_closed

    run(scenario)


def test_response_has_no_timer_left_at_the_end() -> None:
    async def main() -> None:
        wire = Wire()
        response = StreamedResponse(ends_at_s=1e6)
        response.send(wire.connection, b"request")
        wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        assert await response.read() == b""
        response.close()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="everything waits"):  # a timer would have ended the wait
        run_in_virtual_time(main())
