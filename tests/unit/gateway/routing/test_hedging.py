from __future__ import annotations

import asyncio

import pytest

from lightship.gateway.routing.balancing import BalancedEngine
from lightship.gateway.routing.config import Hedging, RoutingConfig
from lightship.gateway.routing.hedging import HedgedEngine, is_deterministic
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.retrying import RESERVE_RETRIES, HedgedAttemptError, RetryBudget, RetryingEngine
from lightship.ports.engine import AttemptError, EngineCall, EngineReply
from lightship.testing.fake_engine import FakeReply, Fault, Script, error_reply, stream_reply
from lightship.testing.replica_pools import assert_all_zero, call, fake_of, pool_of
from lightship.testing.virtual_time import run_in_virtual_time

ALL = RoutingConfig(hedging=Hedging.ALL, hedge_min_delay_s=0.5)
COLD = b'{"model":"m","temperature":0}'
WARM = b'{"model":"m","temperature":0.7}'


def after(delay_s: float, reply: Fault = Fault.NONE) -> FakeReply:
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(delay_s, gate.set)
    return stream_reply("a", "b", first_gate=gate, fault=reply)


def slow(call: EngineCall) -> FakeReply:
    del call
    return after(10)


def quick(call: EngineCall) -> FakeReply:
    del call
    return after(0.1)


async def read(engine: HedgedEngine | RetryingEngine, wanted: EngineCall) -> EngineReply:
    async with engine.open(wanted) as reply:
        async for _ in reply.chunks:
            pass
        return reply


def hedged(pool: ReplicaPool, *, budget: RetryBudget | None = None) -> HedgedEngine:
    """A layer that has seen fifty first bytes after a tenth of a second."""
    for _ in range(50):
        pool._recent_first_bytes(call(), "").add(0.1)  # what fifty requests would have left
    return HedgedEngine(BalancedEngine(pool), pool=pool, budget=budget or RetryBudget(0.1))


async def ready_pool(*scripts: Script, routing: RoutingConfig = ALL) -> ReplicaPool:
    pool = pool_of(*scripts, routing=routing)
    await pool.probe_all()
    return pool


@pytest.mark.parametrize(
    ("body", "expected"),
    [(COLD, True), (WARM, False), (b'{"model":"m"}', False), (b'{"temperature":"0"}', False), (b"[]", False)],
)
def test_deterministic_is_a_temperature_of_zero(body: bytes, expected: bool) -> None:
    assert is_deterministic(body) is expected


def test_hedged_late_first_byte_comes_from_another_replica_and_the_loser_is_cancelled() -> None:
    async def run() -> None:
        pool = await ready_pool(slow, quick)
        reply = await read(hedged(pool), call(COLD))
        assert (reply.replica, reply.num_attempts) == ("r1", 2)
        assert asyncio.get_running_loop().time() == pytest.approx(0.6)
        assert fake_of(pool, "r0").num_abandoned == 1
        assert pool.counts.hedges == {"won": 1}
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_hedged_first_attempt_may_still_win() -> None:
    async def run() -> None:
        pool = await ready_pool(lambda call: after(0.7), slow)
        reply = await read(hedged(pool), call(COLD))
        assert (reply.replica, reply.num_attempts) == ("r0", 2)
        assert fake_of(pool, "r1").num_abandoned == 1
        assert pool.counts.hedges == {"lost": 1}
        assert_all_zero(pool)

    run_in_virtual_time(run())


@pytest.mark.parametrize(
    ("routing", "body", "num_calls"),
    [
        pytest.param(RoutingConfig(), COLD, 0, id="off"),
        pytest.param(RoutingConfig(hedging=Hedging.DETERMINISTIC), COLD, 1, id="deterministic"),
        pytest.param(RoutingConfig(hedging=Hedging.DETERMINISTIC), WARM, 0, id="random"),
        pytest.param(ALL, WARM, 1, id="all"),
    ],
)
def test_hedged_only_what_may_be_asked_twice(routing: RoutingConfig, body: bytes, num_calls: int) -> None:
    async def run() -> None:
        pool = await ready_pool(slow, quick, routing=routing)
        await read(hedged(pool), call(body))
        assert len(fake_of(pool, "r1").calls) == num_calls

    run_in_virtual_time(run())


def test_hedged_nobody_else_spends_no_retry() -> None:
    async def run() -> None:
        budget = RetryBudget(0.1)
        pool = await ready_pool(slow)
        for _ in range(RESERVE_RETRIES + 2):
            assert (await read(hedged(pool, budget=budget), call(COLD))).num_attempts == 1
        assert budget.try_take()

    run_in_virtual_time(run())


def test_hedged_empty_budget_allows_none() -> None:
    async def run() -> None:
        pool = await ready_pool(slow, quick)
        reply = await read(hedged(pool, budget=RetryBudget(0)), call(COLD))
        assert (reply.replica, reply.num_attempts) == ("r0", 1)

    run_in_virtual_time(run())


def test_hedged_both_failed_names_both() -> None:
    async def run() -> None:
        pool = await ready_pool(
            lambda call: after(1, Fault.CLOSE_BEFORE_FIRST_BYTE), lambda call: after(2, Fault.CLOSE_BEFORE_FIRST_BYTE)
        )
        with pytest.raises(HedgedAttemptError) as caught:
            await read(hedged(pool), call(COLD))
        assert {caught.value.replica, caught.value.other_replica} == {"r0", "r1"}
        assert pool.counts.hedges == {"failed": 1}
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_hedged_both_failed_the_retry_goes_to_a_third() -> None:
    async def run() -> None:
        broken = lambda call: after(1, Fault.CLOSE_BEFORE_FIRST_BYTE)  # noqa: E731 # two lines of the same would hide it
        pool = await ready_pool(broken, broken, quick)
        budget = RetryBudget(0.1)
        engine = RetryingEngine(hedged(pool, budget=budget), max_attempts=3, budget=budget)
        reply = await read(engine, call(COLD))
        assert (reply.replica, reply.num_attempts) == ("r2", 3)
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_hedged_one_failed_the_other_answers() -> None:
    async def run() -> None:
        pool = await ready_pool(lambda call: after(0.7, Fault.CLOSE_BEFORE_FIRST_BYTE), lambda call: after(3))
        assert (await read(hedged(pool), call(COLD))).replica == "r1"
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_hedged_early_failure_is_left_to_the_retries() -> None:
    async def run() -> None:
        pool = await ready_pool(lambda call: error_reply(500), quick)
        with pytest.raises(AttemptError):
            await read(hedged(pool), call(COLD))
        assert fake_of(pool, "r1").calls == []

    run_in_virtual_time(run())


@pytest.mark.parametrize("leave_s", [0.3, 0.6, 5.0])
def test_hedged_client_that_leaves_releases_both(leave_s: float) -> None:
    async def run() -> None:
        pool = await ready_pool(slow, slow)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(leave_s):
                await read(hedged(pool), call(COLD))
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_hedged_both_first_bytes_at_once_one_answers_and_the_other_is_left() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        asyncio.get_running_loop().call_later(2, gate.set)
        script = lambda call: stream_reply("a", first_gate=gate)  # noqa: E731 # the same gate for both
        pool = await ready_pool(script, script)
        assert (await read(hedged(pool), call(COLD))).num_attempts == 2
        assert [fake_of(pool, name).num_open for name in ("r0", "r1")] == [0, 0]
        assert_all_zero(pool)

    run_in_virtual_time(run())
