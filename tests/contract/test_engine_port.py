"""What every `Engine` promises, held against the in-memory fake and the HTTP leaf alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from lightship.engines.remote import RemoteEngine, upstream_session
from lightship.gateway.api.first_token import FirstTokenEngine
from lightship.gateway.api.responding import ResponsesEngine
from lightship.ports.clock import SystemClock
from lightship.ports.engine import (
    AttemptError,
    AttemptFailure,
    Engine,
    EngineCall,
    HopTimeouts,
    StreamBrokenError,
)
from lightship.testing.fake_engine import (
    UNLIMITED,
    FakeEngine,
    FakeReply,
    Fault,
    Script,
    always,
    error_reply,
    stream_reply,
)
from lightship.testing.fake_upstream import FakeUpstream

PROMPT = HopTimeouts(connect_s=60, first_token_s=0.02, next_token_s=0.02, total_s=0.05)
STREAMING_CALL = EngineCall(
    path="/v1/chat/completions",
    body=b'{"model":"m", "stream":true,"x":1e5}',
    request_id="req-1",
    model="m",
    is_streaming=True,
    headers={"traceparent": "00-a-b-01"},
)
WHOLE_CALL = EngineCall(
    path="/v1/completions", body=b'{"model":"m"}', request_id="req-2", model="m", is_streaming=False
)


@dataclass
class Bench:
    """An engine under test, and the far end's view of it."""

    engine: Engine
    received_bodies: Callable[[], list[tuple[str, bytes, str]]]
    wait_until_abandoned: Callable[[], Awaitable[None]]
    num_open: Callable[[], int]


@asynccontextmanager
async def fake_bench(script: Script, timeouts: HopTimeouts) -> AsyncIterator[Bench]:
    engine = FakeEngine(script, name="r1", timeouts=timeouts)

    async def wait_until_abandoned() -> None:
        assert engine.num_abandoned == 1

    yield Bench(
        engine,
        lambda: [(call.path, call.body, call.request_id) for call in engine.calls],
        wait_until_abandoned,
        lambda: engine.num_open,
    )


@asynccontextmanager
async def remote_bench(script: Script, timeouts: HopTimeouts) -> AsyncIterator[Bench]:
    upstream = FakeUpstream(script)
    async with upstream.serving(), upstream_session() as session:
        yield Bench(
            RemoteEngine(name="r1", base_url=upstream.base_url + "/v1/", session=session, timeouts=timeouts),
            lambda: [(r.path, r.body, r.headers["x-request-id"]) for r in upstream.requests],
            lambda: upstream.wait_for_abandoned(1),
            lambda: upstream.num_open,
        )


@asynccontextmanager
async def replica_bench(script: Script, timeouts: HopTimeouts) -> AsyncIterator[Bench]:
    """The HTTP leaf as a gateway uses it: with a commit point at the first token, and `/v1/responses`."""
    async with remote_bench(script, timeouts) as bench:
        assert isinstance(bench.engine, RemoteEngine)
        committed = FirstTokenEngine(bench.engine, first_token_s=timeouts.first_token_s)
        engine = ResponsesEngine(committed, clock=SystemClock(), first_token_s=timeouts.first_token_s)
        yield replace(bench, engine=engine)


BenchFactory = Callable[[Script, HopTimeouts], AbstractAsyncContextManager[Bench]]


@pytest.fixture(params=[fake_bench, remote_bench, replica_bench], ids=["fake", "remote", "replica"])
def bench_factory(request: pytest.FixtureRequest) -> BenchFactory:
    factory: BenchFactory = request.param
    return factory


def run_with(
    factory: BenchFactory,
    reply: FakeReply,
    scenario: Callable[[Bench], Awaitable[None]],
    timeouts: HopTimeouts = UNLIMITED,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), factory(always(reply), timeouts) as bench:
            await scenario(bench)

    asyncio.run(run())


async def failure_of(bench: Bench, call: EngineCall) -> AttemptError:
    with pytest.raises(AttemptError) as caught:
        async with bench.engine.open(call):
            pytest.fail("the call was opened")
    assert caught.value.replica == "r1"
    return caught.value


@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "length"])
def test_engine_whole_answer_arrives_byte_for_byte(bench_factory: BenchFactory, is_chunked: bool) -> None:
    reply = FakeReply(chunks=(b'{"a":', b" 1.50}\n"), is_chunked=is_chunked)

    async def scenario(bench: Bench) -> None:
        async with bench.engine.open(WHOLE_CALL) as answer:
            received = b"".join([chunk async for chunk in answer.chunks])
        assert (answer.status, answer.headers["content-type"], answer.replica) == (200, "application/json", "r1")
        assert "transfer-encoding" not in answer.headers
        assert received == b'{"a": 1.50}\n'

    run_with(bench_factory, reply, scenario)


def test_engine_call_reaches_the_far_end_unchanged(bench_factory: BenchFactory) -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.engine.open(STREAMING_CALL) as answer:
            async for _ in answer.chunks:
                pass
        assert bench.received_bodies() == [
            ("/v1/chat/completions", b'{"model":"m", "stream":true,"x":1e5}', "req-1"),
        ]

    run_with(bench_factory, stream_reply("a"), scenario)


def test_engine_stream_yields_each_chunk_before_the_next_is_made(bench_factory: BenchFactory) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        reply = stream_reply("a", "b", next_gate=gate)
        async with (
            asyncio.timeout(20),
            bench_factory(always(reply), UNLIMITED) as bench,
            bench.engine.open(STREAMING_CALL) as answer,
        ):
            chunks = aiter(answer.chunks)
            assert await anext(chunks) == reply.chunks[0]
            gate.set()
            assert b"".join([chunk async for chunk in chunks]) == b"".join(reply.chunks[1:])

    asyncio.run(run())


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_engine_server_error_fails_the_attempt_with_its_error_object(bench_factory: BenchFactory, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        error = await failure_of(bench, WHOLE_CALL)
        assert (error.failure, error.status) == (AttemptFailure.BAD_STATUS, status)
        assert error.api_error is not None
        assert (error.api_error.status, error.api_error.message) == (status, "no memory")

    run_with(bench_factory, error_reply(status, "no memory"), scenario)


def test_engine_server_error_without_error_object_has_none(bench_factory: BenchFactory) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await failure_of(bench, WHOLE_CALL)).api_error is None

    run_with(bench_factory, FakeReply(chunks=(b"<html>",), status=502), scenario)


@pytest.mark.parametrize("status", [400, 404, 429, 501])
def test_engine_other_errors_are_answers(bench_factory: BenchFactory, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.engine.open(WHOLE_CALL) as answer:
            body = b"".join([chunk async for chunk in answer.chunks])
        assert (answer.status, body) == (status, error_reply(status).body)

    run_with(bench_factory, error_reply(status), scenario)


def test_engine_closed_before_first_byte_fails_the_attempt(bench_factory: BenchFactory) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await failure_of(bench, STREAMING_CALL)).failure is AttemptFailure.CLOSED_EARLY
        assert bench.num_open() == 0

    run_with(bench_factory, FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE), scenario)


@pytest.mark.parametrize("call", [STREAMING_CALL, WHOLE_CALL], ids=["stream", "whole"])
def test_engine_hang_fails_the_attempt_in_time_and_releases_the_far_end(
    bench_factory: BenchFactory, call: EngineCall
) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await failure_of(bench, call)).failure is AttemptFailure.FIRST_TOKEN_TIMEOUT
        await bench.wait_until_abandoned()
        assert bench.num_open() == 0

    run_with(bench_factory, FakeReply(fault=Fault.HANG), scenario, PROMPT)


@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "length"])
def test_engine_break_after_the_first_byte_breaks_the_stream(bench_factory: BenchFactory, is_chunked: bool) -> None:
    reply = FakeReply(chunks=(b"abc",), fault=Fault.CLOSE_AFTER_CHUNKS, is_chunked=is_chunked)

    async def scenario(bench: Bench) -> None:
        received: list[bytes] = []
        with pytest.raises(StreamBrokenError):
            await _read(bench.engine, received)
        assert received == [b"abc"]

    run_with(bench_factory, reply, scenario)


def test_engine_stall_after_the_first_byte_breaks_the_stream_in_time(bench_factory: BenchFactory) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(StreamBrokenError):
            await _read(bench.engine, [])
        await bench.wait_until_abandoned()

    run_with(bench_factory, stream_reply("a", fault=Fault.STALL_AFTER_CHUNKS), scenario, PROMPT)


@pytest.mark.parametrize("num_read", [0, 1])
def test_engine_context_left_early_stops_the_far_end(bench_factory: BenchFactory, num_read: int) -> None:
    async def run() -> None:
        reply = stream_reply("a", "b", next_gate=asyncio.Event())
        async with asyncio.timeout(20), bench_factory(always(reply), UNLIMITED) as bench:
            async with bench.engine.open(STREAMING_CALL) as answer:
                chunks = aiter(answer.chunks)
                for _ in range(num_read):
                    await anext(chunks)
            await bench.wait_until_abandoned()
            assert bench.num_open() == 0

    asyncio.run(run())


def test_engine_cancelled_before_the_first_byte_stops_the_far_end(bench_factory: BenchFactory) -> None:
    async def run() -> None:
        is_called = asyncio.Event()

        def hang(call: EngineCall) -> FakeReply:
            del call
            is_called.set()
            return FakeReply(fault=Fault.HANG)

        async with asyncio.timeout(20), bench_factory(hang, UNLIMITED) as bench:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(_open_and_read(bench.engine))
                await is_called.wait()
                waiting.cancel()
            await bench.wait_until_abandoned()
            assert bench.num_open() == 0

    asyncio.run(run())


async def _read(engine: Engine, received: list[bytes]) -> None:
    async with engine.open(STREAMING_CALL) as answer:
        async for chunk in answer.chunks:
            received.append(chunk)


async def _open_and_read(engine: Engine) -> None:
    async with engine.open(WHOLE_CALL):
        pytest.fail("the call was opened")
