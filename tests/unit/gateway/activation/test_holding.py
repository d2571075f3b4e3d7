"""Requests that are held: let go when the model is awake, refused when that takes too long, gone with their client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.activation.holding import HeldEngine, released_terms
from lightship.ports.engine import AttemptError, AttemptFailure, CallTerms, EngineCall
from lightship.ports.replica_control import ReplicaPhase, RungStatus
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, always, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import ApiError

SLEEPING = RungStatus(phase=ReplicaPhase.SLEEPING, start_remaining_s=2.0)
STARTING = RungStatus(phase=ReplicaPhase.STARTING, num_starting=1, start_remaining_s=1.5)
READY = RungStatus(phase=ReplicaPhase.READY, num_ready=1)


class Control:
    """A `ReplicaControl` whose statuses the test sets."""

    def __init__(self, status: RungStatus = SLEEPING) -> None:
        self.statuses = {("m", 0): status}
        self.up: set[tuple[str, int]] = set()
        self.woken: list[tuple[str, int]] = []

    def status(self, served_model: str, rung: int) -> RungStatus:
        return self.statuses.get((served_model, rung), RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False))

    def wake(self, served_model: str, rung: int) -> None:
        self.woken.append((served_model, rung))

    async def changed(self) -> None:
        await asyncio.Event().wait()

    def is_up(self, served_model: str, rung: int) -> bool:
        return (served_model, rung) in self.up


class Setup:
    """A layer over a fake engine."""

    def __init__(self, fake: FakeEngine | None = None, **config: Any) -> None:
        self.control = Control()
        self.fake = fake or FakeEngine(always(stream_reply("x")))
        self.held = HeldEngine(
            self.fake,
            ActivationConfig(**config),
            control=self.control,
            is_up=self.control.is_up,
            acceptable_rungs=lambda call: [call.rung],
            clock=LoopClock(),
        )
        self.log: list[tuple[str, float, str]] = []

    def wakes_up(self) -> None:
        """The rung takes requests from now on."""
        self.control.statuses["m", 0] = READY
        self.control.up.add(("m", 0))
        self.held.recheck()

    async def send(self, name: str = "a", **terms: Any) -> None:
        """One request to its end; `log` says when and how."""
        try:
            async with self.held.open(call(name, **terms)) as reply:
                async for _ in reply.chunks:
                    pass
                word = reply.headers.get("x-cold-start", "warm")
        except ApiError as error:
            word = error.headers["x-reject-reason"]
        except AttemptError as error:
            word = error.failure.value
        self.log.append((name, asyncio.get_running_loop().time(), word))


def call(name: str = "a", *, is_streaming: bool = True, **terms: Any) -> EngineCall:
    return EngineCall(
        "/v1/chat/completions",
        b'{"model":"m"}',
        name,
        "m",
        is_streaming=is_streaming,
        served_model="m",
        terms=CallTerms(**{"max_output_tokens": 5, **terms}),
    )


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_in_virtual_time(main())


def test_holding_awake_model_passes_at_once_and_wakes_nobody() -> None:
    async def main() -> None:
        one = Setup()
        one.wakes_up()
        await one.send()
        assert one.log == [("a", 0.0, "warm")]
        assert one.control.woken == []

    run(main)


def test_holding_sleeping_model_waits_until_it_is_up_and_says_cold_start() -> None:
    async def main() -> None:
        one = Setup()
        async with asyncio.TaskGroup() as group:
            group.create_task(one.send())
            await asyncio.sleep(1.5)
            assert one.fake.calls == []
            assert one.held.num_held("m", 0) == 1
            one.wakes_up()
        assert one.log == [("a", 1.5, "true")]
        assert one.control.woken == [("m", 0)]
        assert one.held.num_held("m", 0) == 0

    run(main)


def test_holding_fifty_at_once_wake_and_are_all_let_go_together() -> None:
    async def main() -> None:
        one = Setup()
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(one.send(str(number)))
            await asyncio.sleep(2.0)
            one.wakes_up()
        assert len(one.log) == 50
        assert {(at_s, word) for _, at_s, word in one.log} == {(2.0, "true")}

    run(main)


def test_holding_more_than_may_wait_refuses_the_newest_with_when_to_come_back() -> None:
    async def main() -> None:
        one = Setup(max_held=2)
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(one.send(name))
            await asyncio.sleep(0.1)
            with pytest.raises(ApiError) as refused:
                async with one.held.open(call("c")):
                    pass
            one.wakes_up()
        assert (refused.value.status, refused.value.headers["x-reject-reason"]) == (503, "queue-full")
        assert refused.value.headers["retry-after"] == "2"
        assert not refused.value.was_queued

    run(main)


def test_holding_classes_have_rooms_of_their_own() -> None:
    async def main() -> None:
        one = Setup(max_held=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(one.send("batch", priority="batch"))
            group.create_task(one.send("urgent", priority="urgent"))
            await asyncio.sleep(0.1)
            one.wakes_up()
        assert sorted(one.log) == [("batch", 0.1, "true"), ("urgent", 0.1, "true")]

    run(main)


@pytest.mark.parametrize(("is_streaming", "longest_s"), [(True, 300.0), (False, 55.0)])
def test_holding_for_too_long_ends_in_503_deadline(is_streaming: bool, longest_s: float) -> None:
    async def main() -> None:
        one = Setup()
        with pytest.raises(ApiError) as refused:
            async with one.held.open(call(is_streaming=is_streaming)):
                pass
        assert asyncio.get_running_loop().time() == pytest.approx(longest_s)
        assert refused.value.headers["x-reject-reason"] == "deadline"
        assert refused.value.was_queued
        assert one.held.num_expired == 1

    run(main)


def test_holding_client_s_own_deadline_ends_it_earlier() -> None:
    async def main() -> None:
        one = Setup()
        await one.send(deadline_s=3.0)
        assert one.log == [("a", 3.0, "deadline")]

    run(main)


def test_holding_client_that_leaves_is_forgotten() -> None:
    async def main() -> None:
        one = Setup()
        task = asyncio.create_task(one.send())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert one.held.num_held("m", 0) == 0
        one.wakes_up()
        assert one.fake.calls == []

    run(main)


def test_holding_start_that_becomes_hopeless_lets_go_to_be_refused_below() -> None:
    async def main() -> None:
        one = Setup(FakeEngine(always(FakeReply(status=503))))
        async with asyncio.TaskGroup() as group:
            group.create_task(one.send())
            await asyncio.sleep(4.0)
            one.control.statuses["m", 0] = RungStatus(phase=ReplicaPhase.FAILED, can_wake=False)
            one.held.recheck()
        assert one.log == [("a", 4.0, "bad_status")], "what the layer below answered"

    run(main)


def test_holding_engine_that_dies_before_its_answer_is_waited_for_once_more() -> None:
    async def main() -> None:
        def dies_with_its_first_call(sent: EngineCall) -> FakeReply:
            if len(one.fake.calls) > 1:
                return stream_reply("x")
            one.control.up.clear()
            one.control.statuses["m", 0] = STARTING
            return FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)

        one = Setup(FakeEngine(dies_with_its_first_call))
        one.wakes_up()
        async with asyncio.TaskGroup() as group:
            group.create_task(one.send())
            await asyncio.sleep(2.0)
            one.wakes_up()
        assert one.log == [("a", 2.0, "true")]

    run(main)


def test_holding_engine_that_fails_while_its_rung_is_up_is_not_waited_for() -> None:
    async def main() -> None:
        one = Setup(FakeEngine(always(FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE))))
        one.wakes_up()
        with pytest.raises(AttemptError) as failed:
            async with one.held.open(call()):
                pass
        assert failed.value.failure is AttemptFailure.CLOSED_EARLY
        assert len(one.fake.calls) == 1

    run(main)


def test_released_terms_wait_as_long_as_the_hold_lasted_at_most_and_promise_no_first_token() -> None:
    terms = released_terms(CallTerms(max_wait_s=0.4, ttft_s=0.4, deadline_s=99.0), 50.0)
    assert (terms.max_wait_s, terms.ttft_s, terms.deadline_s) == (50.0, float("inf"), 99.0)
