"""The layer that lets requests in: waits, refusals, leaving clients, and what the reply says about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from lightship.gateway.dispatch.admitting import AdmittedEngine
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, LadderPolicy, PriorityClass, RungFacts
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.ports.engine import AttemptError, AttemptFailure, CallTerms, Degrade, EngineCall
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, always, in_turn, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import ApiError

RUNGS = (
    RungFacts(variant_name="fp16", concurrency=1, goodput_requests_per_s=1),
    RungFacts(
        variant_name="int4",
        quality_loss=0.013,
        quality_loss_low=0.01,
        quality_loss_high=0.016,
        concurrency=1,
        goodput_requests_per_s=2,
    ),
)
CONFIG = DispatchConfig(
    ladders={"m": LadderConfig(rungs=RUNGS, ttft_s=4.0, policy=LadderPolicy(down_dwell_s=0.0, mix_load_share=0.01))}
)
TWO_PLACES = msgspec.structs.replace(
    CONFIG,
    ladders={
        "m": msgspec.structs.replace(
            CONFIG.ladders["m"], rungs=tuple(msgspec.structs.replace(rung, concurrency=2) for rung in RUNGS)
        )
    },
)


def call(name: str = "a", **terms: Any) -> EngineCall:
    given = {"num_prompt_tokens": 10, "max_output_tokens": 50, "max_wait_s": 4.0, **terms}
    body = b'{"model":"m","max_tokens":50}'
    path = "/v1/chat/completions"
    return EngineCall(path, body, name, "m", is_streaming=True, served_model="m", terms=CallTerms(**given))


def layer(fake: FakeEngine, config: DispatchConfig = CONFIG) -> AdmittedEngine:
    one = Dispatcher(config, is_up=lambda model, rung: True)
    return AdmittedEngine(fake, one, clock=LoopClock(), jitter=lambda: 0.5)


async def served(one: AdmittedEngine, sent: EngineCall, log: list[tuple[str, float, str]]) -> None:
    try:
        async with one.open(sent) as reply:
            async for _ in reply.chunks:
                pass
            log.append((sent.request_id, asyncio.get_running_loop().time(), reply.degraded))
    except ApiError as error:
        log.append((sent.request_id, asyncio.get_running_loop().time(), error.headers["x-reject-reason"]))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_in_virtual_time(main())


def test_admitting_request_that_waits_for_long_gets_the_rung_below_and_says_so() -> None:
    gate, never = asyncio.Event(), asyncio.Event()
    replies = in_turn(stream_reply("x", next_gate=gate), stream_reply("x", next_gate=never), stream_reply("y"))
    fake = FakeEngine(replies)

    async def main() -> None:
        one = layer(fake, TWO_PLACES)
        held = [asyncio.create_task(served(one, call(name), [])) for name in "ab"]
        await asyncio.sleep(0)
        async with one.open(call("c")) as reply:
            assert 1.0 < reply.queue_s < 1.2  # a quarter of the promise, and until the next look
            assert reply.rung == 1
            assert reply.degraded == "rung=1; reason=load"
            assert reply.headers["x-quality-loss"] == "0.0130 (0.0100..0.0160)"
        gate.set()
        held[1].cancel()
        await asyncio.wait(held)
        assert (one.dispatcher.num_in_flight, one.dispatcher.num_waiting) == (0, 0)

    run(main)
    assert [each.rung for each in fake.calls] == [0, 0, 1]


def test_admitting_deadline_passes_is_evicted_with_a_reason() -> None:
    fake = FakeEngine(always(FakeReply(fault=Fault.HANG)))

    async def main() -> None:
        one = layer(fake)
        hanging = asyncio.create_task(served(one, call("a"), []))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            async with one.open(call("b", max_wait_s=1.0)):
                pass
        assert caught.value.status == 503
        assert caught.value.was_queued
        assert caught.value.headers["x-reject-reason"] == "deadline"
        assert int(caught.value.headers["retry-after"]) >= 1
        hanging.cancel()
        await asyncio.wait([hanging])
        assert (one.dispatcher.num_in_flight, one.dispatcher.num_waiting) == (0, 0)

    run(main)


def test_admitting_client_leaves_the_queue_lets_the_next_in() -> None:
    gate = asyncio.Event()
    fake = FakeEngine(in_turn(stream_reply("x", next_gate=gate), stream_reply("y")))
    log: list[tuple[str, float, str]] = []

    async def main() -> None:
        one = layer(fake)
        async with asyncio.TaskGroup() as group:
            group.create_task(served(one, call("a"), log))
            await asyncio.sleep(0)
            leaving = group.create_task(served(one, call("b"), log))
            group.create_task(served(one, call("c"), log))
            await asyncio.sleep(1.0)
            leaving.cancel()
            await asyncio.sleep(0)
            assert one.dispatcher.num_waiting == 1
            gate.set()
        assert one.dispatcher.num_in_flight == 0

    run(main)
    assert [name for name, _, _ in log] == ["a", "c"]


def test_admitting_client_leaves_in_the_moment_it_is_let_in_holds_nothing() -> None:
    fake = FakeEngine(in_turn(stream_reply("x"), stream_reply("y")))

    async def main() -> None:
        one = layer(fake)
        first = await one.start(call("a"))
        waiting = asyncio.create_task(one.start(call("b")))
        await asyncio.sleep(0)
        one.finish(first, None)  # lets b in ...
        waiting.cancel()  # ... and b's client leaves before b's task has run
        await asyncio.wait([waiting])
        assert (one.dispatcher.num_in_flight, one.dispatcher.num_waiting) == (0, 0)

    run(main)


def test_admitting_failed_attempt_gives_its_place_back() -> None:
    fake = FakeEngine(always(FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)))

    async def main() -> None:
        one = layer(fake)
        with pytest.raises(AttemptError) as caught:
            async with one.open(call()):
                pass
        assert caught.value.failure is AttemptFailure.CLOSED_EARLY
        assert one.dispatcher.num_in_flight == 0

    run(main)


BROKEN = FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)


def test_admitting_rung_that_fails_before_its_first_byte_leaves_the_answer_to_the_rung_below() -> None:
    fake, log = FakeEngine(in_turn(BROKEN, stream_reply("x"))), list[tuple[str, float, str]]()

    async def main() -> None:
        one = layer(fake)
        await served(one, call(), log)
        assert one.dispatcher.num_in_flight == 0
        arrived = one.dispatcher.ladders["m"].places[0].num_started, one.dispatcher.ladders["m"].places[1].num_started
        assert arrived == (1, 1)

    run(main)
    assert [sent.rung for sent in fake.calls] == [0, 1]
    assert [words for _, _, words in log] == ["rung=1; reason=unavailable"]


@pytest.mark.parametrize("terms", [{"degrade": Degrade.NEVER}, {"min_quality": 0.99}])
def test_admitting_failed_request_that_takes_nothing_less_is_told_its_failure(terms: dict[str, Any]) -> None:
    fake = FakeEngine(in_turn(BROKEN, stream_reply("x")))

    async def main() -> None:
        one = layer(fake)
        with pytest.raises(AttemptError):
            await served(one, call(**terms), [])
        assert one.dispatcher.num_in_flight == 0

    run(main)
    assert len(fake.calls) == 1


def test_admitting_every_rung_fails_tries_each_once_and_tells_the_first_failure() -> None:
    fake = FakeEngine(in_turn(BROKEN, BROKEN, stream_reply("x")))

    async def main() -> None:
        one = layer(fake)
        with pytest.raises(AttemptError) as caught:
            await served(one, call(), [])
        assert caught.value.failure is AttemptFailure.CLOSED_EARLY
        assert (one.dispatcher.num_in_flight, one.dispatcher.num_waiting) == (0, 0)

    run(main)
    assert [sent.rung for sent in fake.calls] == [0, 1]


def test_admitting_what_generates_nothing_takes_no_place() -> None:
    fake = FakeEngine(always(FakeReply()))

    async def main() -> None:
        one = layer(fake)
        async with one.open(call(max_output_tokens=0)):
            assert one.dispatcher.num_in_flight == 0

    run(main)


def test_admitting_trimmed_request_asks_for_fewer_tokens() -> None:
    ladder = LadderConfig(rungs=RUNGS[:1], ttft_s=4.0, policy=LadderPolicy(down_dwell_s=0.0))
    config = DispatchConfig(ladders={"m": ladder}, priorities={"b": PriorityClass(trimmed_output_tokens=5)})
    gate = asyncio.Event()
    fake = FakeEngine(in_turn(stream_reply("x", next_gate=gate), stream_reply("y")))
    log: list[tuple[str, float, str]] = []

    async def main() -> None:
        one = layer(fake, config)
        async with asyncio.TaskGroup() as group:
            group.create_task(served(one, call("a"), log))
            await asyncio.sleep(0)
            group.create_task(served(one, call("b", trimmed_output_tokens=5), log))
            await asyncio.sleep(2.0)
            gate.set()

    run(main)
    assert json.loads(fake.calls[1].body)["max_tokens"] == 5
    assert log[1][2] == "max_tokens=trimmed"
