"""The loads of `gateway.py`: requests on a schedule, as many as go, and streams; one client for every gateway.

The client reads answers in the callback of the socket (see `lightship.transport`) and looks at as little of them as it
may: it shares its core with the upstream, so what it takes is what a gateway could not be given.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lightship.transport.connection import Connection, ResponseHead
from lightship.transport.errors import TransportError
from lightship.transport.origin import parse_origin
from lightship.transport.pool import OriginConnections

CONNECT_TIMEOUT_S = 20.0
# About 1 KB of a prompt, distinct from request to request as clients' prompts are.
_PROMPT = "Tell me the story of a lighthouse keeper who counts ships. " * 16


@dataclass
class Tally:
    """What came back. An error is anything but a complete 200."""

    latencies_s: list[float] = field(default_factory=list)
    num_complete: int = 0
    num_events: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        """Requests that gave no complete 200."""
        return sum(self.errors.values())

    def note_error(self, what: str) -> None:
        """Counts one."""
        self.errors[what] = self.errors.get(what, 0) + 1

    def quantile_ms(self, q: float) -> float:
        """A latency."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] * 1000 if ordered else math.nan


class Requests:
    """Requests to one gateway, ready to be written."""

    def __init__(self, base_url: str, *, api_key: str) -> None:
        self.origin = parse_origin(base_url)
        self._head = (
            f"POST {self.origin.base_path}/v1/chat/completions HTTP/1.1\r\nhost: {self.origin.authority}\r\n"
            f"authorization: Bearer {api_key}\r\ncontent-type: application/json\r\naccept: */*\r\ncontent-length: "
        )
        self._num_made = 0

    def whole(self) -> bytes:
        """A request for a whole answer."""
        self._num_made += 1
        prompt = f"{self._num_made} {_PROMPT}"
        return self._request(f'{{"model":"bench","messages":[{{"role":"user","content":"{prompt}"}}],"max_tokens":16}}')

    def stream(self, plan: str, num_events: int) -> bytes:
        """A request for a stream; `plan` is understood by the upstream."""
        self._num_made += 1
        return self._request(
            f'{{"model":"bench","messages":[{{"role":"system","content":"{self._num_made} {_PROMPT}"}},'
            f'{{"role":"user","content":"{plan}"}}],"max_tokens":{num_events},"stream":true,'
            '"stream_options":{"include_usage":true}}'
        )

    def _request(self, body: str) -> bytes:
        return f"{self._head}{len(body)}\r\n\r\n{body}".encode("ascii")


class _Answer:
    """Takes one answer; a `ResponseReceiver`."""

    __slots__ = ("_began_s", "_ended", "_min_events", "_num_newlines", "_status", "_tail", "_tally")

    def __init__(self, tally: Tally, ended: Callable[[], None], *, began_s: float, min_events: int) -> None:
        self._tally = tally
        self._ended = ended
        self._began_s = began_s
        self._min_events = min_events
        self._num_newlines = 0
        self._status = 0
        self._tail = b""

    def head_received(self, head: ResponseHead) -> None:
        self._status = head.status

    def body_received(self, chunk: bytes) -> None:
        if self._min_events:
            self._num_newlines += chunk.count(b"\n")  # two to an event, and none elsewhere: JSON escapes them
            self._tail = chunk if len(chunk) > 32 else (self._tail + chunk)[-32:]

    def response_ended(self, error: TransportError | None) -> None:
        tally = self._tally
        if error is not None:
            tally.note_error(f"{type(error).__name__}: {error}")
        elif self._status != 200:
            tally.note_error(f"HTTP {self._status}")
        elif self._min_events and self._num_newlines < 2 * self._min_events:
            tally.note_error(f"{self._num_newlines // 2} events of {self._min_events}")
        elif self._min_events and not self._tail.rstrip().endswith(b"data: [DONE]"):
            tally.note_error("no [DONE]")
        else:
            tally.num_complete += 1
            tally.num_events += self._num_newlines // 2
            tally.latencies_s.append(time.perf_counter() - self._began_s)
        self._ended()


class _User:
    """Sends its next request when the last one is answered, until `is_over` says so."""

    def __init__(
        self,
        connections: OriginConnections,
        tally: Tally,
        make: Callable[[], bytes],
        is_over: Callable[[], bool],
        min_events: int,
    ) -> None:
        self._connections = connections
        self._tally = tally
        self._make = make
        self._is_over = is_over
        self._min_events = min_events
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Until the end. A task is woken only to connect."""
        while not self._is_over():
            try:
                connection = await self._connections.connect(timeout_s=CONNECT_TIMEOUT_S)
            except TransportError as error:
                self._tally.note_error(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
                continue
            self._answered = self._loop.create_future()
            self._send(connection)
            await self._answered

    def _send(self, connection: Connection) -> None:
        answer = _Answer(self._tally, self._on_answer, began_s=time.perf_counter(), min_events=self._min_events)
        connection.request(self._make(), answer)

    def _on_answer(self) -> None:
        self._loop.call_soon(self._go_on)  # the connection is free when the callback of its last bytes is over

    def _go_on(self) -> None:
        connection = None if self._is_over() else self._connections.take_idle()
        if connection is None:
            self._answered.set_result(None)
        else:
            self._send(connection)


@dataclass(frozen=True)
class ClosedLoopResult:
    """What a closed loop found within its window."""

    concurrency: int
    requests_per_s: float
    events_per_s: float
    num_errors: int
    errors: dict[str, int]
    generator_cpu_share: float
    num_complete: int


async def closed_loop(
    requests: Requests,
    make: Callable[[], bytes],
    *,
    concurrency: int,
    warmup_s: float,
    seconds: float,
    min_events: int = 0,
) -> ClosedLoopResult:
    """Users that each have one request under way, all the time."""
    tally = Tally()
    end_s = math.inf
    async with OriginConnections(requests.origin, max_idle=concurrency) as connections, asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            user = _User(connections, tally, make, lambda: time.perf_counter() >= end_s, min_events)
            group.create_task(user.run())
        await asyncio.sleep(warmup_s)
        before = (tally.num_complete, tally.num_events, time.perf_counter(), time.process_time())
        await asyncio.sleep(seconds)
        after = (tally.num_complete, tally.num_events, time.perf_counter(), time.process_time())
        end_s = 0.0
    wall_s = after[2] - before[2]
    return ClosedLoopResult(
        concurrency=concurrency,
        requests_per_s=(after[0] - before[0]) / wall_s,
        events_per_s=(after[1] - before[1]) / wall_s,
        num_errors=tally.num_errors,
        errors=tally.errors,
        generator_cpu_share=(after[3] - before[3]) / wall_s,
        num_complete=tally.num_complete,
    )


async def fixed_rate(
    requests: Requests, make: Callable[[], bytes], *, rate: float, warmup_s: float, seconds: float
) -> Tally:
    """Requests on a schedule, whether or not earlier ones are answered; latencies count from the schedule."""
    warmup, tally = Tally(), Tally()
    num_under_way = 0
    idle = asyncio.Event()

    def ended() -> None:
        nonlocal num_under_way
        num_under_way -= 1
        if not num_under_way:
            idle.set()

    async with OriginConnections(requests.origin) as connections:
        began_s = time.perf_counter()
        for number in range(round(rate * (warmup_s + seconds))):
            due_s = began_s + number / rate
            request = make()
            # timers of the loop come in whole milliseconds; the rest is spent looking at the clock
            while (wait_s := due_s - time.perf_counter()) > 0:  # noqa: ASYNC110 # the clock tells nobody
                await asyncio.sleep(wait_s - 0.0015 if wait_s > 0.002 else 0)
            connection = connections.take_idle() or await connections.connect(timeout_s=CONNECT_TIMEOUT_S)
            num_under_way += 1
            idle.clear()
            counted = tally if number / rate >= warmup_s else warmup
            connection.request(request, _Answer(counted, ended, began_s=due_s, min_events=0))
        async with asyncio.timeout(60):
            while num_under_way:
                await idle.wait()
    return tally


async def many_streams(
    requests: Requests, *, num_streams: int, num_events: int, step_ms: int, ramp_s: float
) -> tuple[Tally, int]:
    """So many paced streams that overlap, and how many of them were open at a time."""
    tally = Tally()
    num_open = most_open = 0

    async def stream(index: int) -> None:
        nonlocal num_open, most_open
        await asyncio.sleep(index * ramp_s / num_streams)
        try:
            connection = await connections.connect(timeout_s=CONNECT_TIMEOUT_S)
        except TransportError as error:
            tally.note_error(f"{type(error).__name__}: {error}")
            return
        num_open += 1
        most_open = max(most_open, num_open)
        ended = asyncio.get_running_loop().create_future()
        answer = _Answer(tally, lambda: ended.set_result(None), began_s=time.perf_counter(), min_events=num_events)
        connection.request(requests.stream(f"paced {num_events} {step_ms}", num_events), answer)
        await ended
        num_open -= 1

    async with OriginConnections(requests.origin) as connections, asyncio.TaskGroup() as group:
        for index in range(num_streams):
            group.create_task(stream(index))
    return tally, most_open
