from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from lightship.gateway.cache.caching import CachedEngine
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.cache.telemetry import CacheTelemetry
from lightship.ports.engine import (
    AttemptError,
    CallTerms,
    Degrade,
    EngineCall,
    EngineReply,
    StreamBrokenError,
    TokenUsage,
)
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, always, error_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import ApiError, overloaded

PATH = "/v1/chat/completions"
WHOLE = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)
EVENTS = tuple(
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    + rest
    + b"}]}\n\n"
    for rest in (b'"delta":{"role":"assistant","content":"hi"}', b'"delta":{},"finish_reason":"stop"')
)
STREAM = FakeReply(chunks=(*EVENTS, b"data: [DONE]\n\n"), headers={"content-type": "text/event-stream"})
ANSWER = FakeReply(chunks=(WHOLE,))


def call(
    *, stream: bool = False, usage: bool = False, rung: int = 0, model: str = "m", path: str = PATH, **changes: Any
) -> EngineCall:
    """A deterministic request; `changes` are its fields, or those of its terms."""
    terms = {name: changes.pop(name) for name in list(changes) if name in CallTerms.__struct_fields__}
    body: dict[str, Any] = {"model": model, "messages": [], "temperature": 0, **changes}
    body |= {"stream": True} if stream else {}
    body |= {"stream_options": {"include_usage": True}} if usage else {}
    return EngineCall(
        path=path,
        body=json.dumps({name: value for name, value in body.items() if value is not ...}).encode(),
        request_id="r",
        model=model,
        is_streaming=stream,
        rung=rung,
        terms=CallTerms(**terms),
    )


class Ladder:
    """An engine that says which variant of which rung answered, and counts tokens, as the layers below the cache do."""

    def __init__(self, inner: FakeEngine) -> None:
        self._inner = inner
        self.answers_on: int | None = None
        self.degraded = ""

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        rung = call.rung if self.answers_on is None else self.answers_on
        async with self._inner.open(call) as reply:
            usage = TokenUsage()
            headers = {
                "content-type": "application/json",
                **reply.headers,
                "x-served-variant": f"v{rung}",
                "x-quality-loss": f"0.{rung}",
            }
            yield replace(
                reply,
                headers=headers,
                rung=rung,
                degraded=self.degraded,
                usage=usage,
                chunks=self._counted(reply.chunks, usage),
            )

    async def _counted(self, chunks: AsyncIterator[bytes], usage: TokenUsage) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            usage.num_output_tokens += 1
            yield chunk
        usage.num_prompt_tokens, usage.num_output_tokens, usage.is_reported = 3, 1, True


@dataclass
class Answered:
    """What a client got."""

    body: bytes
    reply: EngineReply

    @property
    def cache(self) -> str:
        return self.reply.headers["x-cache"]


@dataclass
class Bench:
    """A cache over a scripted ladder."""

    script: Script
    config: CacheConfig | None = field(default_factory=CacheConfig)
    digests: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.engine = FakeEngine(self.script)
        self.ladder = Ladder(self.engine)
        self.registry = CollectorRegistry()
        self.store = MemoryResponseStore(max_bytes=2**20, clock=LoopClock())
        self.cache = CachedEngine(
            self.ladder,
            self.config,
            store=self.store,
            acceptable_digests=lambda call: [f"v{call.rung}"] if self.digests is None else self.digests,
            telemetry=CacheTelemetry(self.registry),
            clock=LoopClock(),
        )

    async def get(self, one: EngineCall) -> Answered:
        async with self.cache.open(one) as reply:
            answered = Answered(b"".join([chunk async for chunk in reply.chunks]), reply)
        await settle()  # until it is stored
        return answered

    def count(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"lightship_cache_{name}", labels)


def run(bench: Bench, test: Callable[[Bench], Awaitable[None]]) -> None:
    async def within() -> None:
        async with bench.cache.running():
            await test(bench)
            await settle()
            assert bench.engine.num_open == 0
            assert bench.cache.flights.num_under_way == 0
            assert bench.count("flights") == 0

    run_in_virtual_time(within())


async def settle() -> None:
    """Lets everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def scripted(one: EngineCall) -> FakeReply:
    return STREAM if one.is_streaming else ANSWER


@pytest.mark.parametrize("is_streaming", [False, True])
def test_cached_second_request_is_answered_without_the_engine(is_streaming: bool) -> None:
    async def test(bench: Bench) -> None:
        first = await bench.get(call(stream=is_streaming))
        await asyncio.sleep(7.9)
        second = await bench.get(call(stream=is_streaming, model="alias"))
        assert len(bench.engine.calls) == 1
        assert (first.cache, second.cache) == ("miss", "hit-exact")
        assert second.body == first.body == scripted(call(stream=is_streaming)).body
        assert second.reply.headers["age"] == "7"
        assert second.reply.headers["x-served-variant"] == "v0"
        assert second.reply.headers["content-type"] == first.reply.headers["content-type"]
        assert (second.reply.status, second.reply.degraded, second.reply.rung) == (200, "", 0)
        assert first.reply.usage == TokenUsage(num_prompt_tokens=3, num_output_tokens=1, is_reported=True)
        assert second.reply.usage == TokenUsage(is_reported=True)
        assert bench.count("requests_total", result="hit", reason="") == 1
        assert bench.count("requests_total", result="miss", reason="") == 1
        assert bench.count("answers_total", result="stored") == 1
        assert bench.count("entries") == 1

    run(Bench(scripted), test)


def test_cached_whole_answer_is_replayed_as_a_stream_and_the_other_way_round() -> None:
    async def test(bench: Bench) -> None:
        await bench.get(call())
        streamed = await bench.get(call(stream=True, usage=True))
        assert streamed.cache == "hit-exact"
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert b'"usage":{"prompt_tokens":3,"completion_tokens":1}' in streamed.body
        await bench.get(call(stream=True, seed=1))
        whole = await bench.get(call(seed=1))
        assert whole.cache == "hit-exact"
        assert json.loads(whole.body)["choices"][0]["message"]["content"] == "hi"
        assert whole.reply.headers["content-length"] == str(len(whole.body))
        assert len(bench.engine.calls) == 2

    run(Bench(scripted), test)


def test_cached_answer_without_an_exact_other_form_is_a_miss() -> None:
    odd = FakeReply(chunks=(WHOLE.replace(b'"content":"hi"', b'"content":"hi","audio":{"id":"a"}'),))

    async def test(bench: Bench) -> None:
        await bench.get(call())
        assert (await bench.get(call(stream=True))).cache == "miss"
        assert len(bench.engine.calls) == 2

    run(Bench(lambda one: STREAM if one.is_streaming else odd), test)


def test_cached_hundred_at_once_make_one_call_and_one_of_them_pays() -> None:
    gate = asyncio.Event()

    async def test(bench: Bench) -> None:
        clients = [asyncio.create_task(bench.get(call(stream=True))) for _ in range(100)]
        await asyncio.sleep(5)
        gate.set()
        answers = await asyncio.gather(*clients)
        assert len(bench.engine.calls) == 1
        assert {answer.body for answer in answers} == {STREAM.body}
        assert [answer.cache for answer in answers] == ["miss"] + ["hit-exact"] * 99
        assert sum(answer.reply.usage.num_output_tokens for answer in answers) == 1
        assert all(answer.reply.usage.is_reported for answer in answers)
        assert answers[1].reply.headers["age"] == "0"
        assert (answers[1].reply.upstream_s, answers[1].reply.queue_s) == (5, 0)
        assert bench.count("requests_total", result="shared", reason="") == 99

    run(Bench(always(replace(STREAM, first_gate=gate))), test)


def test_cached_payer_who_leaves_hands_the_bill_over() -> None:
    gate = asyncio.Event()

    async def test(bench: Bench) -> None:
        payer_open, follower = bench.cache.open(call(stream=True)), asyncio.create_task(bench.get(call(stream=True)))
        payer = await payer_open.__aenter__()
        await anext(payer.chunks)
        await settle()
        await payer_open.__aexit__(None, None, None)
        gate.set()
        answer = await follower
        assert payer.usage == TokenUsage(is_reported=True)
        assert answer.reply.usage == TokenUsage(num_prompt_tokens=3, num_output_tokens=1, is_reported=True)
        assert answer.body == STREAM.body
        assert (await bench.get(call(stream=True))).cache == "hit-exact"

    run(Bench(always(replace(STREAM, next_gate=gate))), test)


def test_cached_client_alone_who_leaves_pays_for_what_came_and_nothing_is_stored() -> None:
    gate = asyncio.Event()

    async def test(bench: Bench) -> None:
        async with bench.cache.open(call(stream=True)) as reply:
            await anext(reply.chunks)
        assert reply.usage == TokenUsage(num_output_tokens=1, is_reported=False)
        assert bench.engine.num_open == 0
        assert bench.count("entries") == 0

    run(Bench(always(replace(STREAM, next_gate=gate))), test)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (call(temperature=...), "not-deterministic"),
        (call(temperature=1, seed=3), "not-deterministic"),
        (call(n=2), "several-choices"),
        (call(path="/v1/embeddings"), "path"),
        (call(reads_cache=False, stores_in_cache=False), "cache-control"),
        (replace(call(), body=b'{"temperature":0,"a":1,"a":2}'), "ambiguous"),
    ],
)
def test_cached_request_that_is_not_for_the_cache_is_passed_on(one: EngineCall, reason: str) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            answer = await bench.get(one)
            assert (answer.body, answer.cache) == (WHOLE, "bypass")
            assert answer.reply.usage.num_output_tokens == 1
        assert bench.engine.calls == [one, one]
        assert bench.count("requests_total", result="bypass", reason=reason) == 2

    run(Bench(always(ANSWER)), test)


def test_cached_tenants_never_meet() -> None:
    async def test(bench: Bench) -> None:
        for tenant in ("a", "b", "", "a"):
            await bench.get(call(tenant=tenant))
        assert [one.terms.tenant for one in bench.engine.calls] == ["a", "b", ""]

    run(Bench(scripted), test)


def test_cached_tenants_do_not_share_flights() -> None:
    async def test(bench: Bench) -> None:
        await asyncio.gather(*(bench.get(call(tenant=tenant)) for tenant in ("a", "b", "a")))
        assert sorted(one.terms.tenant for one in bench.engine.calls) == ["a", "b"]

    run(Bench(scripted), test)


@pytest.mark.parametrize(
    "other",
    [
        {"degrade": Degrade.NEVER},
        {"min_quality": 0.9},
        {"priority": "batch"},
        {"trimmed_output_tokens": 8},
        {"may_leave": False},
        {"rung": 1},
        {"stream": True},
    ],
    ids=str,
)
def test_cached_flights_are_shared_by_requests_on_the_same_terms_only(other: dict[str, Any]) -> None:
    gate = asyncio.Event()

    def held(one: EngineCall) -> FakeReply:
        return replace(scripted(one), first_gate=gate)

    async def test(bench: Bench) -> None:
        clients = [asyncio.create_task(bench.get(one)) for one in (call(), call(**other), call(**other))]
        await settle()
        gate.set()
        await asyncio.gather(*clients)
        assert len(bench.engine.calls) == 2

    run(Bench(held), test)


def test_cached_no_cache_is_answered_anew_and_renews_what_is_stored() -> None:
    async def test(bench: Bench) -> None:
        await bench.get(call())
        await asyncio.sleep(100)
        assert (await bench.get(call(reads_cache=False))).cache == "miss"
        assert (await bench.get(call())).reply.headers["age"] == "0"
        assert len(bench.engine.calls) == 2

    run(Bench(scripted), test)


def test_cached_no_store_reads_and_stores_nothing() -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.get(call(stores_in_cache=False))).cache == "miss"
        assert bench.count("entries") == 0
        await bench.get(call())
        assert (await bench.get(call(stores_in_cache=False))).cache == "hit-exact"
        assert len(bench.engine.calls) == 2

    run(Bench(scripted), test)


def test_cached_answer_is_given_until_its_time_or_the_clients_is_over() -> None:
    async def test(bench: Bench) -> None:
        await bench.get(call())
        await asyncio.sleep(30)
        assert (await bench.get(call(max_cached_age_s=31))).cache == "hit-exact"
        assert (await bench.get(call(max_cached_age_s=30))).cache == "miss"
        await asyncio.sleep(59)
        assert (await bench.get(call())).cache == "hit-exact"
        await asyncio.sleep(1)
        assert (await bench.get(call())).cache == "miss"
        bench.cache.apply(CacheConfig(ttl_s=10))
        await asyncio.sleep(9)
        assert (await bench.get(call())).cache == "hit-exact"
        await asyncio.sleep(1)
        assert (await bench.get(call())).cache == "miss"

    run(Bench(scripted, config=CacheConfig(ttl_s=60)), test)


def test_cached_lower_rung_answers_where_it_may_and_says_so() -> None:
    async def test(bench: Bench) -> None:
        bench.ladder.answers_on, bench.ladder.degraded = 2, "load"
        first = await bench.get(call())
        assert (first.reply.rung, first.reply.degraded) == (2, "load")
        assert (await bench.get(call())).cache == "miss"
        bench.digests = ["v0", "v1", "v2"]
        hit = await bench.get(call())
        assert (hit.cache, hit.reply.rung, hit.reply.degraded) == ("hit-exact", 2, "rung=2; reason=cache")
        assert hit.reply.headers["x-served-variant"] == "v2"
        assert hit.reply.headers["x-quality-loss"] == "0.2"
        bench.digests = ["v2"]  # the digest of the one that is asked for is not known
        assert (await bench.get(call())).reply.degraded == "rung=2; reason=cache"
        bench.digests = None
        asked = await bench.get(call(rung=2))
        assert (asked.cache, asked.reply.rung, asked.reply.degraded) == ("hit-exact", 2, "")
        bench.ladder.answers_on = 0
        await bench.get(call())
        bench.digests = ["v0", "v1", "v2"]
        assert (await bench.get(call())).reply.headers["x-served-variant"] == "v0"

    run(Bench(scripted), test)


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (error_reply(400), "status"),
        (FakeReply(chunks=(WHOLE[:-1],)), "not-finished"),
        (FakeReply(chunks=(WHOLE.replace(b'"stop"', b"null"),)), "not-finished"),
        (FakeReply(chunks=(WHOLE,), headers={"content-type": "text/plain"}), "content-type"),
        (FakeReply(chunks=(b" " * 5000 + WHOLE,)), "too-large"),
    ],
)
def test_cached_bad_answers_are_passed_on_and_not_stored(reply: FakeReply, result: str) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            answer = await bench.get(call())
            assert (answer.body, answer.cache, answer.reply.status) == (reply.body, "miss", reply.status)
        assert len(bench.engine.calls) == 2
        assert bench.count("answers_total", result=result) == 2
        assert bench.count("entries") == 0

    run(Bench(always(reply), config=CacheConfig(max_entry_bytes=4000)), test)


@pytest.mark.parametrize("fault", [Fault.CLOSE_AFTER_CHUNKS, Fault.STALL_AFTER_CHUNKS])
def test_cached_broken_stream_is_not_stored(fault: Fault) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(StreamBrokenError):
            await bench.get(call(stream=True))
        assert bench.count("entries") == 0

    run(Bench(always(replace(STREAM, fault=fault))), test)


def test_cached_failure_before_the_first_byte_is_everyones() -> None:
    async def test(bench: Bench) -> None:
        failures = await asyncio.gather(*(bench.get(call()) for _ in range(3)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [AttemptError] * 3
        assert len(bench.engine.calls) == 1

    run(Bench(always(error_reply(503))), test)


class Impatient:
    """An engine with a queue: a call whose deadline passes in it is refused, any other is answered after `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.calls: list[EngineCall] = []

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        self.calls.append(call)
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(min(self.wait_s, call.terms.deadline_s - now_s))
        if now_s + self.wait_s > call.terms.deadline_s:
            raise overloaded("too late", reason="deadline")
        async with FakeEngine(always(ANSWER)).open(call) as reply:
            yield replace(reply, headers={**reply.headers, "x-served-variant": "v0"})


def test_cached_deadline_of_one_is_not_the_others() -> None:
    async def test(bench: Bench) -> None:
        bench.cache.flights._inner = engine = Impatient(10)
        calls = [call(deadline_s=2), call(deadline_s=4), call(deadline_s=30), call()]
        results = await asyncio.gather(*(bench.get(one) for one in calls), return_exceptions=True)
        for refused in results[:2]:
            assert isinstance(refused, ApiError)
            assert refused.headers["x-reject-reason"] == "deadline"
        assert asyncio.get_running_loop().time() <= 2 + 4 + 10
        for answered in results[2:]:
            assert isinstance(answered, Answered)
            assert answered.body == WHOLE
        assert len(engine.calls) <= 3

    run(Bench(scripted), test)


def test_cached_follower_waits_no_longer_than_its_own_deadline() -> None:
    gate = asyncio.Event()

    async def test(bench: Bench) -> None:
        patient = asyncio.create_task(bench.get(call()))
        await settle()
        with pytest.raises(ApiError) as caught:
            await bench.get(call(deadline_s=3))
        assert caught.value.headers["x-reject-reason"] == "deadline"
        assert asyncio.get_running_loop().time() == 3
        gate.set()
        assert (await patient).body == WHOLE
        assert len(bench.engine.calls) == 1

    run(Bench(always(replace(ANSWER, first_gate=gate))), test)


def test_cached_answer_stored_during_a_look_up_is_found() -> None:
    """A look-up takes time in a shared store: one that began before the answer was stored must not miss it."""

    async def test(bench: Bench) -> None:
        held = asyncio.Event()
        get = bench.store.get

        async def slow_get(key: str) -> bytes | None:
            value = await get(key)
            if not held.is_set():
                await held.wait()
            return value

        bench.store.get = slow_get  # type: ignore[method-assign]
        late = asyncio.create_task(bench.get(call()))
        await settle()
        bench.store.get = get  # type: ignore[method-assign]
        await bench.get(call())
        bench.store.get = slow_get  # type: ignore[method-assign]
        held.set()
        assert (await late).cache == "hit-exact"
        assert len(bench.engine.calls) == 1

    run(Bench(scripted), test)


def test_cached_damaged_value_is_a_miss_and_is_replaced() -> None:
    async def test(bench: Bench) -> None:
        await bench.get(call())
        (key,) = bench.store._entries
        for value in (b"", b"\xff" * 100, b"LSA1"):
            await bench.store.put(key, value, ttl_s=60)
            assert (await bench.get(call())).cache == "miss"
            assert (await bench.get(call())).cache == "hit-exact"

    run(Bench(scripted), test)


def test_cached_turned_off_and_on_again_keeps_what_it_has() -> None:
    async def test(bench: Bench) -> None:
        await bench.get(call())
        bench.cache.apply(None)
        assert (await bench.get(call())).cache == "bypass"
        assert bench.count("requests_total", result="bypass", reason="off") == 1
        bench.cache.apply(CacheConfig())
        assert (await bench.get(call())).cache == "hit-exact"
        bench.cache.apply(CacheConfig(max_bytes=100, max_entry_bytes=100))
        assert (await bench.get(call())).cache == "miss"

    run(Bench(scripted), test)


def test_cached_long_stream_is_replayed_in_pieces() -> None:
    event = EVENTS[0].replace(b"hi", b"hi" * 500)
    long = FakeReply(chunks=(event * 200, EVENTS[1], b"data: [DONE]\n\n"), headers=STREAM.headers)

    async def test(bench: Bench) -> None:
        await bench.get(call(stream=True))
        async with bench.cache.open(call(stream=True)) as reply:
            pieces = [chunk async for chunk in reply.chunks]
        assert b"".join(pieces) == long.body
        assert len(pieces) > 2
        assert max(map(len, pieces)) <= 2**16

    run(Bench(always(long)), test)


def test_cached_variant_that_is_not_named_is_not_stored() -> None:
    async def test(bench: Bench) -> None:
        bench.cache.flights._inner = bench.engine
        assert (await bench.get(call())).cache == "miss"
        assert bench.count("answers_total", result="no-variant") == 1

    run(Bench(scripted), test)


def test_cached_answer_that_may_have_been_trimmed_is_not_stored() -> None:
    at_length = FakeReply(chunks=(WHOLE.replace(b'"stop"', b'"length"'),))

    async def test(bench: Bench) -> None:
        await bench.get(call(trimmed_output_tokens=8, max_output_tokens=100))
        assert bench.count("answers_total", result="trimmed") == 1
        await bench.get(call(trimmed_output_tokens=8, max_output_tokens=8))
        assert bench.count("answers_total", result="stored") == 1

    run(Bench(always(at_length)), test)
