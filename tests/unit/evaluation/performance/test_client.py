"""The load client against a real loopback server that owns the clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.protocol import PerformanceProtocol, measure_performance
from lightship.evaluation.performance.records import ErrorKind, RequestRecord, Slo
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from tests.unit.evaluation.performance.conftest import SimulatedEngine

LIMITS = HopTimeouts(connect_s=5, first_token_s=30, next_token_s=30, total_s=60)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


class FakeClock:
    """Stands still until the server moves it; tells the server when the client has looked."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._looked = asyncio.Event()

    def monotonic_s(self) -> float:
        self._looked.set()
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    async def wait_for_reading(self) -> None:
        self._looked.clear()
        await self._looked.wait()


@dataclass(frozen=True)
class Send:
    """One write of the server, `after_s` on the fake clock."""

    after_s: float
    payload: bytes


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def text_event(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})


USAGE_AND_DONE = event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


class ScriptedServer:
    """Answers every completion by the script, in step with the client's clock; remembers the bodies."""

    def __init__(self, clock: FakeClock, script: Sequence[Send]) -> None:
        self._clock = clock
        self._script = script
        self.bodies: list[dict[str, object]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for step in self._script:
            self._clock.now_s += step.after_s
            await response.write(step.payload)
            await self._clock.wait_for_reading()
        return response


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Work = Callable[[HttpCompletions], Awaitable[None]]


def run_with_server(handler: Handler, work: Work) -> None:
    """Runs `work` against `handler` on a free loopback port."""

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            async with HttpCompletions(f"http://{host}:{port}/v1") as endpoint:
                await work(endpoint)
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 20))


def complete_one(handler: Handler, clock: FakeClock, limits: HopTimeouts = LIMITS) -> RequestRecord:
    """The record of a single request."""
    records: list[RequestRecord] = []

    async def work(endpoint: HttpCompletions) -> None:
        client = LoadClient(endpoint, "m", clock=clock, limits=limits, has_fixed_length=True)
        records.append(await client.complete("once upon", max_tokens=3))

    run_with_server(handler, work)
    return records[0]


def test_client_streamed_answer_gives_hand_computed_latencies() -> None:
    clock = FakeClock()
    server = ScriptedServer(
        clock,
        [
            Send(0.250, text_event("a")),
            Send(0.030, text_event("b")),
            Send(0.050, text_event("c")),
            Send(0.001, text_event("", "length")),
            Send(0.400, USAGE_AND_DONE),
        ],
    )
    record = complete_one(server.handle, clock)
    assert record.error is None
    assert record.ttft_ms == pytest.approx(250)
    assert record.tpot_ms == pytest.approx((30 + 50) / 2)
    assert record.token_times_s == pytest.approx((100.25, 100.28, 100.33))
    assert (record.num_prompt_tokens, record.num_output_tokens, record.num_cached_tokens) == (7, 3, 2)
    assert record.ended_s == pytest.approx(100.731)
    assert record.lag_s == 0


def test_client_request_body_asks_for_usage_and_fixed_length() -> None:
    clock = FakeClock()
    server = ScriptedServer(clock, [Send(0.1, text_event("a") + USAGE_AND_DONE)])
    complete_one(server.handle, clock)
    assert server.bodies == [
        {
            "model": "m",
            "prompt": "once upon",
            "max_tokens": 3,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
    ]


def test_client_event_split_over_chunks_counts_at_its_end() -> None:
    clock = FakeClock()
    whole = text_event("a")
    server = ScriptedServer(clock, [Send(0.1, whole[:9]), Send(0.2, whole[9:]), Send(0.3, USAGE_AND_DONE)])
    assert complete_one(server.handle, clock).ttft_ms == pytest.approx(300)


def test_client_connection_cut_mid_stream_is_truncated() -> None:
    clock = FakeClock()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(text_event("a"))
        await clock.wait_for_reading()
        assert request.transport is not None
        request.transport.abort()
        return response

    record = complete_one(cut, clock)
    assert record.error is ErrorKind.TRUNCATED
    assert len(record.token_times_s) == 1


def test_client_status_500_is_an_error_with_the_servers_words() -> None:
    async def fail(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "out of cheese"}}, status=500)

    record = complete_one(fail, FakeClock())
    assert record.error is ErrorKind.STATUS
    assert "HTTP 500" in record.error_detail
    assert "out of cheese" in record.error_detail
    assert record.ttft_ms is None


def test_client_silent_server_times_out() -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    limits = HopTimeouts(connect_s=5, first_token_s=0.01, next_token_s=5, total_s=5)
    assert complete_one(hang, FakeClock(), limits).error is ErrorKind.TIMEOUT


def test_client_nobody_listening_is_a_connect_error() -> None:
    async def main() -> RequestRecord:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with HttpCompletions(f"http://127.0.0.1:{port}") as endpoint:
            client = LoadClient(endpoint, "m", clock=FakeClock(), limits=LIMITS, has_fixed_length=True)
            return await client.complete("x", max_tokens=1)

    assert asyncio.run(main()).error is ErrorKind.CONNECT


def test_probe_endpoint_refusing_ignore_eos_falls_back() -> None:
    seen: list[bool] = []

    async def picky(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append("ignore_eos" in body)
        if "ignore_eos" in body:
            message = {"error": {"message": "Unknown parameter 'ignore_eos'.", "param": "ignore_eos"}}
            return web.json_response(message, status=400)
        return web.Response(body=text_event("a") + USAGE_AND_DONE)

    async def work(endpoint: HttpCompletions) -> None:
        traits = await probe_endpoint(endpoint, "m", prompt="x" * 28, clock=FakeClock(), limits=LIMITS)
        assert not traits.has_fixed_length
        assert traits.chars_per_token == pytest.approx(28 / 7)

    run_with_server(picky, work)
    assert seen == [True, False]


def test_probe_endpoint_failing_is_refused_with_the_servers_words() -> None:
    async def fail(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such model"}}, status=404)

    async def work(endpoint: HttpCompletions) -> None:
        with pytest.raises(MeasurementError, match="no such model"):
            await probe_endpoint(endpoint, "m", prompt="x", clock=FakeClock(), limits=LIMITS)

    run_with_server(fail, work)


TINY = PerformanceProtocol("tiny", 16, 3, (1, 4), duration_s=0.05, time_cap_s=10, max_requests=5000)
TEXT = " ".join(f"word{number}" for number in range(3000))


class InstantServer:
    """Answers at once with three tokens and a token for every four characters of prompt."""

    def __init__(self, *, cached_share: float = 0.0) -> None:
        self._cached_share = cached_share
        self.prompts: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        self.prompts.append(prompt)
        num_tokens = len(prompt) // 4
        cached = {"cached_tokens": round(num_tokens * self._cached_share)}
        usage = {"prompt_tokens": num_tokens, "completion_tokens": 3, "prompt_tokens_details": cached}
        events = [text_event("a"), text_event("b"), text_event("c", "length"), event({"choices": [], "usage": usage})]
        return web.Response(body=b"".join(events) + b"data: [DONE]\n\n")


def test_measure_performance_runs_every_concurrency_with_prompts_of_the_wanted_length() -> None:
    server = InstantServer()
    progress = RecordingProgress()

    async def work(endpoint: HttpCompletions) -> None:
        result = await measure_performance(
            endpoint.base_url, "m", TINY, Slo(1000, 1000), SystemClock(), texts=[TEXT], progress=progress
        )
        assert [load.concurrency for load in result.loads] == [1, 4]
        assert all(load.mean_prompt_tokens == 16 and load.mean_output_tokens == 3 for load in result.loads)
        assert all(load.errors == {} and load.attainment == 1 for load in result.loads)
        assert all(load.output_tokens_per_s.per_s > 0 for load in result.loads)

    run_with_server(server.handle, work)
    assert len(set(server.prompts)) == len(server.prompts)
    assert {len(prompt) for prompt in server.prompts[1:]} == {64}
    assert progress.done == [0, 1, 2]


def test_measure_performance_cached_prompts_are_refused() -> None:
    async def work(endpoint: HttpCompletions) -> None:
        with pytest.raises(MeasurementError, match="50% of the prompt tokens came from the prefix cache"):
            await measure_performance(endpoint.base_url, "m", TINY, Slo(1000, 1000), SystemClock(), texts=[TEXT])

    run_with_server(InstantServer(cached_share=0.5).handle, work)


class RecordingProgress:
    """Remembers how much was done."""

    def __init__(self) -> None:
        self.done: list[float] = []

    @contextmanager
    def task(self, title: str) -> Iterator[RecordingProgress]:
        yield self

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        self.done.append(done)


@dataclass(frozen=True)
class TimeCase:
    """An engine's pace, the limits, and how its answer of fifty tokens must end."""

    id: str
    prefill_s: float
    step_s: float
    limits: HopTimeouts
    error: ErrorKind | None
    ended_s: float
    cut_off_s: float | None = None


TIMES = [
    TimeCase("each token in time", 0.1, 0.9, HopTimeouts(5, 1, 1, 100), None, 0.1 + 49 * 0.9),
    TimeCase("first token too late", 1.5, 0.1, HopTimeouts(5, 1, 9, 100), ErrorKind.TIMEOUT, 1.0),
    TimeCase("a later token too late", 0.1, 1.1, HopTimeouts(5, 1, 1, 100), ErrorKind.TIMEOUT, 1.1),
    TimeCase("answer too long", 0.1, 0.9, HopTimeouts(5, 1, 1, 10), ErrorKind.TIMEOUT, 10.0),
    TimeCase("run ends", 0.1, 0.9, HopTimeouts(5, 1, 1, 100), ErrorKind.CUT_OFF, 20.0, cut_off_s=20.0),
    TimeCase("run ends after the limit", 0.1, 0.9, HopTimeouts(5, 1, 1, 10), ErrorKind.TIMEOUT, 10.0, cut_off_s=20.0),
]


@pytest.mark.parametrize("case", TIMES, ids=lambda case: case.id)
def test_client_time_limits_hold_to_the_moment(case: TimeCase, simulated_engine: type[SimulatedEngine]) -> None:
    async def main() -> RequestRecord:
        engine = simulated_engine(prefill_s=case.prefill_s, step_s=case.step_s)
        client = LoadClient(engine, "m", clock=LoopClock(), limits=case.limits, has_fixed_length=True)
        return await client.complete("x", max_tokens=50, cut_off_s=case.cut_off_s)

    record = run_in_virtual_time(main())
    assert record.error is case.error
    assert record.ended_s == pytest.approx(case.ended_s)
