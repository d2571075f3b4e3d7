from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from lightship.gateway.routing.retrying import RESERVE_RETRIES, RetryBudget, RetryingEngine
from lightship.ports.engine import (
    AttemptError,
    AttemptFailure,
    CallTerms,
    EngineCall,
    EngineReply,
    HopTimeouts,
    StreamBrokenError,
)
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, always, error_reply, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import overloaded

CALL = EngineCall(path="/v1/completions", body=b"{}", request_id="r", model="m", is_streaming=True)


class FirstNotExcluded:
    """The smallest balancing: the first engine that was not tried."""

    def __init__(self, *scripts: Script) -> None:
        self.engines = [FakeEngine(script, name=f"r{number}") for number, script in enumerate(scripts)]
        self.tried: list[str] = []

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        engine = next((engine for engine in self.engines if engine.name not in call.excluded), None)
        if engine is None:
            raise AttemptError(AttemptFailure.NO_REPLICA, "none left")
        self.tried.append(engine.name)
        async with engine.open(call) as reply:
            yield reply


GOOD = always(stream_reply("a"))
BUSY = always(error_reply(503, "busy"))
GONE = always(stream_reply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE))
BREAKS = always(stream_reply("a", fault=Fault.CLOSE_AFTER_CHUNKS))


def read_through(inner: FirstNotExcluded, *, max_attempts: int = 3, budget: RetryBudget | None = None) -> EngineReply:
    async def run() -> EngineReply:
        engine = RetryingEngine(inner, max_attempts=max_attempts, budget=budget or RetryBudget(0.1))
        async with engine.open(CALL) as reply:
            async for _ in reply.chunks:
                pass
            return reply

    return run_in_virtual_time(run())


def test_retrying_first_reply_is_not_repeated() -> None:
    inner = FirstNotExcluded(GOOD, GOOD)
    assert read_through(inner).num_attempts == 1
    assert inner.tried == ["r0"]


def test_retrying_failed_attempts_go_to_replicas_not_tried_yet() -> None:
    inner = FirstNotExcluded(BUSY, GONE, GOOD)
    reply = read_through(inner)
    assert (reply.replica, reply.num_attempts) == ("r2", 3)
    assert inner.tried == ["r0", "r1", "r2"]
    assert [engine.num_open for engine in inner.engines] == [0, 0, 0]


def test_retrying_most_attempts_are_kept() -> None:
    inner = FirstNotExcluded(BUSY, BUSY, GOOD)
    with pytest.raises(AttemptError):
        read_through(inner, max_attempts=2)
    assert inner.tried == ["r0", "r1"]


def test_retrying_all_failed_raises_the_last_replicas_own_error() -> None:
    with pytest.raises(AttemptError) as caught:
        read_through(FirstNotExcluded(always(error_reply(500, "first")), BUSY, GONE))
    assert caught.value.api_error is not None
    assert caught.value.api_error.message == "busy"


def test_retrying_nobody_left_raises_the_failure_and_spends_no_retry() -> None:
    budget = RetryBudget(0.1)
    for _ in range(RESERVE_RETRIES + 5):
        with pytest.raises(AttemptError) as caught:
            read_through(FirstNotExcluded(GONE), budget=budget)
        assert caught.value.failure is AttemptFailure.CLOSED_EARLY
    assert budget.try_take()


def test_retrying_no_replica_at_all_says_so() -> None:
    with pytest.raises(AttemptError) as caught:
        read_through(FirstNotExcluded())
    assert caught.value.failure is AttemptFailure.NO_REPLICA


def test_retrying_never_after_the_first_byte() -> None:
    inner = FirstNotExcluded(BREAKS, GOOD)
    with pytest.raises(StreamBrokenError):
        read_through(inner)
    assert inner.tried == ["r0"]


def test_retrying_share_of_zero_allows_none() -> None:
    inner = FirstNotExcluded(GONE, GOOD)
    with pytest.raises(AttemptError):
        read_through(inner, budget=RetryBudget(0))
    assert inner.tried == ["r0"]


@pytest.mark.parametrize("clock", [None, LoopClock()])
@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_retry_budget_long_outage_keeps_retries_to_the_share(share: float, clock: LoopClock | None) -> None:
    async def run() -> int:
        budget = RetryBudget(share, clock=clock)
        num_retries = 0
        for _ in range(1000):
            budget.note_request()
            num_retries += sum(budget.try_take() for _ in range(2))
            await asyncio.sleep(0.1)
        return num_retries

    assert share * 1000 <= run_in_virtual_time(run()) <= RESERVE_RETRIES + share * 1000


@pytest.mark.parametrize(("quiet_s", "num_retries"), [(0, 21), (3, 21), (30, RESERVE_RETRIES)])
def test_retry_budget_many_failures_at_once_use_what_was_paid_in_lately(quiet_s: int, num_retries: int) -> None:
    async def run() -> int:
        budget = RetryBudget(0.5, clock=LoopClock())
        for _ in range(41):
            budget.note_request()
            await asyncio.sleep(0.1)
        await asyncio.sleep(quiet_s)
        budget.note_request()
        return sum(budget.try_take() for _ in range(100))

    assert run_in_virtual_time(run()) == num_retries


def refuses(reason: str) -> Script:
    def script(call: EngineCall) -> FakeReply:
        del call
        refusal = overloaded("not now", reason=reason)
        raise AttemptError(AttemptFailure.BAD_STATUS, "503", replica="", status=503, api_error=refusal)

    return script


shed = refuses("queue-full")


class NamesReplicas(FirstNotExcluded):
    """Also says in its errors which replica it was, as `BalancedEngine` does."""

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        try:
            async with super().open(call) as reply:
                yield reply
        except AttemptError as error:
            if error.failure is not AttemptFailure.NO_REPLICA:
                error.replica = self.tried[-1]
            raise


def test_retrying_replica_that_is_full_is_believed_the_second_time() -> None:
    inner = NamesReplicas(shed, shed, GOOD)
    with pytest.raises(AttemptError) as caught:
        read_through(inner)
    assert inner.tried == ["r0", "r1"]
    assert caught.value.api_error is not None
    assert caught.value.api_error.headers["x-reject-reason"] == "queue-full"
    inner = NamesReplicas(shed, GONE, GOOD)
    assert read_through(inner).replica == "r2"


@pytest.mark.parametrize("reason", ["shutdown", "starting"])
def test_retrying_replica_that_stops_or_starts_says_nothing_about_the_others(reason: str) -> None:
    stops = refuses(reason)
    assert read_through(NamesReplicas(stops, stops, GOOD)).replica == "r2"


def test_retrying_no_attempt_begins_after_the_deadline() -> None:
    async def run() -> list[str]:
        slow = stream_reply(fault=Fault.HANG)
        inner = FirstNotExcluded(always(slow), GOOD)
        inner.engines[0] = FakeEngine(always(slow), name="r0", timeouts=HopTimeouts(1, 5, 1, 10))
        engine = RetryingEngine(inner, max_attempts=3, budget=RetryBudget(0.1), clock=LoopClock())
        late = replace(CALL, terms=CallTerms(deadline_s=4.0))
        with pytest.raises(AttemptError):
            async with engine.open(late):
                pass
        return inner.tried

    assert run_in_virtual_time(run()) == ["r0"]


def test_retry_budget_another_share_keeps_what_is_left() -> None:
    budget = RetryBudget(0.1)
    for _ in range(RESERVE_RETRIES - 1):
        assert budget.try_take()
    budget.apply(0.5)
    assert budget.try_take()
    assert not budget.try_take()
    budget.apply(0.0)
    budget.note_request()
    assert not budget.try_take()


def test_retrying_cancelled_call_releases_the_replica() -> None:
    async def run() -> None:
        inner = FirstNotExcluded(always(stream_reply("a", fault=Fault.STALL_AFTER_CHUNKS)))
        engine = RetryingEngine(inner, max_attempts=3, budget=RetryBudget(0.1))

        async def read() -> None:
            async with engine.open(CALL) as reply:
                async for _ in reply.chunks:
                    reading.cancel()

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
        assert inner.engines[0].num_open == 0

    run_in_virtual_time(run())
