"""Whatever happens in whatever order: nothing is left over, nobody gets another's answer, every call is paid once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from lightship.gateway.cache.answer import StoredAnswer, answer_of
from lightship.gateway.cache.caching import CachedEngine
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.cache.replay import replayed
from lightship.gateway.cache.telemetry import CacheTelemetry
from lightship.ports.engine import (
    AttemptError,
    CallTerms,
    EngineCall,
    EngineReply,
    StreamBrokenError,
    TokenUsage,
)
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, error_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

PATH = "/v1/chat/completions"
NUM_OUTPUT_TOKENS = 7


class Metered:
    """Names the variant and counts tokens, as the layers below the cache do; remembers who paid for which call."""

    def __init__(self, inner: FakeEngine) -> None:
        self._inner = inner
        self.num_complete = 0

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        async with self._inner.open(call) as reply:
            usage = TokenUsage()
            headers = {**reply.headers, "x-served-variant": "v"}
            yield replace(reply, headers=headers, usage=usage, chunks=self._counted(reply.chunks, usage))

    async def _counted(self, chunks: AsyncIterator[bytes], usage: TokenUsage) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        usage.num_output_tokens, usage.is_reported = NUM_OUTPUT_TOKENS, True
        self.num_complete += 1


def stream_for(call: EngineCall) -> tuple[bytes, ...]:
    """An answer that says who asked what, so that a wrong one would be seen."""
    said = json.dumps([call.terms.tenant, json.loads(call.body)["prompt"]])
    delta = {"index": 0, "delta": {"content": said}}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [b"data: %s\n\n" % json.dumps({"id": "i", "choices": [choice]}).encode() for choice in (delta, end)]
    return (*events, b"data: [DONE]\n\n")


class Fate(Enum):
    """How an engine call ends."""

    GOOD = "good"
    BUSY = "busy"
    BREAKS = "breaks"
    STALLS = "stalls"


@dataclass
class Client:
    """One request under way."""

    call: EngineCall
    task: asyncio.Task[tuple[bytes, TokenUsage]]


class World:
    """A cache over an engine whose calls go on only when they are told to."""

    def __init__(self, fates: list[Fate], config: CacheConfig) -> None:
        self._fates = fates
        self.gates: list[asyncio.Event] = []
        self.engine = FakeEngine(self._script)
        self.metered = Metered(self.engine)
        self.cache = CachedEngine(
            self.metered,
            config,
            store=MemoryResponseStore(max_bytes=2**20, clock=LoopClock()),
            acceptable_digests=lambda call: ["v"],
            telemetry=CacheTelemetry(CollectorRegistry()),
            clock=LoopClock(),
        )
        self.clients: list[Client] = []

    def _script(self, call: EngineCall) -> FakeReply:
        fate = self._fates[len(self.engine.calls) % len(self._fates)]
        first, later = asyncio.Event(), asyncio.Event()
        self.gates += [first, later]
        good = FakeReply(
            chunks=stream_for(call),
            headers={"content-type": "text/event-stream"},
            first_gate=first,
            next_gate=later,
        )
        if fate is Fate.BUSY:
            return replace(error_reply(503), first_gate=first)
        if fate is Fate.BREAKS:
            return replace(good, fault=Fault.CLOSE_AFTER_CHUNKS)
        return replace(good, fault=Fault.STALL_AFTER_CHUNKS) if fate is Fate.STALLS else good

    def start(self, tenant: str, prompt: str, *, reads: bool, stores: bool) -> None:
        call = EngineCall(
            path=PATH,
            body=json.dumps({"prompt": prompt, "temperature": 0, "stream": True}).encode(),
            request_id="r",
            model="m",
            is_streaming=True,
            terms=CallTerms(tenant=tenant, reads_cache=reads, stores_in_cache=stores),
        )
        self.clients.append(Client(call, asyncio.create_task(self._get(call))))

    async def _get(self, call: EngineCall) -> tuple[bytes, TokenUsage]:
        async with self.cache.open(call) as reply:
            body = b"".join([chunk async for chunk in reply.chunks])
        return body, reply.usage

    async def finish(self) -> None:
        """Everything that can end does; what stalls is left by its clients."""
        for _ in range(20):
            for gate in self.gates:
                gate.set()
            await settle()


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("start"),
            st.sampled_from("ab"),
            st.sampled_from("xy"),
            st.sampled_from([(True, True)] * 4 + [(False, True), (True, False)]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("open"), st.integers(0, 20)),
        st.tuples(st.just("run"), st.integers(1, 12)),
        st.tuples(st.just("off"), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    fates=st.lists(st.sampled_from(Fate), min_size=1, max_size=4),
    max_entry_bytes=st.sampled_from([10, 60, 2**20]),
)
def test_cache_any_interleaving_leaves_nothing_and_mixes_nothing_up(
    steps: list[tuple[Any, ...]], fates: list[Fate], max_entry_bytes: int
) -> None:
    async def run() -> None:
        config = CacheConfig(max_entry_bytes=max_entry_bytes)
        world = World(fates, config)
        async with world.cache.running():
            for step in steps:
                await act(world, step, config)
            await world.finish()
            for client in world.clients:
                if not client.task.done():
                    client.task.cancel()  # its engine stalls
            results = await asyncio.gather(*(client.task for client in world.clients), return_exceptions=True)
            await settle()
            check_answers(world, results)
            assert world.engine.num_open == 0
            assert world.cache.flights.num_under_way == 0
            assert world.cache.flights._open == {}
            assert world.cache._budget.num_bytes == 0

    run_in_virtual_time(run())


async def act(world: World, step: tuple[Any, ...], config: CacheConfig) -> None:
    match step:
        case "start", tenant, prompt, (reads, stores):
            world.start(tenant, prompt, reads=reads, stores=stores)
        case "cancel", number if world.clients:
            world.clients[number % len(world.clients)].task.cancel()
        case "open", number if world.gates:
            world.gates[number % len(world.gates)].set()
        case "run", turns:
            await settle(turns)
        case "off", is_off:
            world.cache.apply(None if is_off else config)


def check_answers(world: World, results: list[Any]) -> None:
    num_paid = 0
    for client, result in zip(world.clients, results, strict=True):
        if isinstance(result, BaseException):
            assert isinstance(result, asyncio.CancelledError | AttemptError | StreamBrokenError), result
        else:
            body, usage = result
            assert body == b"".join(stream_for(client.call))
            assert usage.is_reported
            num_paid += usage.num_output_tokens
    assert num_paid <= NUM_OUTPUT_TOKENS * world.metered.num_complete
    if not any(isinstance(result, BaseException) for result in results):
        assert num_paid == NUM_OUTPUT_TOKENS * world.metered.num_complete


EVENTS = [
    b'data: {"id":"i","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    b": ping\n\n",
    b'data: {"id":"i","choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}],"usage":null}\n\n',
    b'event: message\ndata: {"id":"i","choices":[{"index":0,"delta":{"content":"b"}}]}\n\n',
]
END = b'data: {"id":"i","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
USAGE = b'data: {"id":"i","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'


@settings(deadline=None)
@given(
    middle=st.lists(st.sampled_from(EVENTS), max_size=12),
    has_usage=st.booleans(),
    cuts=st.lists(st.integers(0, 2000), max_size=10),
)
def test_cache_stream_cut_anyhow_is_replayed_as_it_was(middle: list[bytes], has_usage: bool, cuts: list[int]) -> None:
    body = b"".join([*middle, END, USAGE if has_usage else b"", b"data: [DONE]\n\n"])
    places = [0, *sorted(cut % len(body) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(places)]
    answer = answer_of(
        b"".join(chunks),
        status=200,
        headers={"content-type": "text/event-stream", "x-served-variant": "v"},
        usage=TokenUsage(is_reported=True),
        rung=0,
        trimmed_output_tokens=None,
        now_unix_s=0,
    )
    assert isinstance(answer, StoredAnswer)
    assert replayed(answer, path=PATH, is_streaming=True, wants_usage=has_usage) == ("text/event-stream", body)


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.text(max_size=3), st.dictionaries(st.sampled_from("pqr"), st.sampled_from([0, 1, "", "a"]), max_size=2)
        ),
        min_size=2,
        max_size=8,
    )
)
def test_cache_no_tenant_ever_gets_anothers_answer(asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Every answer says who asked what; all requests are sent twice, together and one after the other."""

    async def run() -> None:
        world = World([Fate.GOOD], CacheConfig())
        async with world.cache.running():
            for _ in range(2):
                for tenant, fields in asked:
                    world.start(tenant, json.dumps(fields, sort_keys=True), reads=True, stores=True)
                await world.finish()
            for client in world.clients:
                body, _ = await client.task
                assert body == b"".join(stream_for(client.call))
            assert len(world.engine.calls) == len(
                {(tenant, json.dumps(fields, sort_keys=True)) for tenant, fields in asked}
            )

    run_in_virtual_time(run())
