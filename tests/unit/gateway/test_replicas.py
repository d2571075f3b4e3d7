from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from lightship.engines.remote import ProbeResult
from lightship.gateway.balancing import BalancedEngine
from lightship.gateway.config import ReplicaConfig
from lightship.gateway.replicas import (
    FAILED_CONNECTS,
    PROBES_WITHOUT_ANSWER,
    Health,
    Replica,
    ReplicaPool,
    health_after_failed_connect,
    health_after_probe,
)
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall
from lightship.testing.fake_engine import FakeEngine, FakeReply, Script, always
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

CALL = EngineCall(path="/v1/completions", body=b'{"model":"m"}', request_id="r", model="m", is_streaming=False)
READY = Health(is_ready=True)


def pool_of(*scripts: Script, interval_s: float = 1.0, model_name: str = "m", digest: str = "") -> ReplicaPool:
    replicas = [
        Replica(
            ReplicaConfig(
                name=f"r{number}",
                base_url="http://x",
                model_name=model_name,
                variant_name="fp16",
                variant_digest=digest,
            ),
            FakeEngine(script, name=f"r{number}"),
        )
        for number, script in enumerate(scripts)
    ]
    return ReplicaPool(replicas, clock=LoopClock(), interval_s=interval_s)


def fake_of(pool: ReplicaPool, name: str) -> FakeEngine:
    engine = pool[name].engine
    assert isinstance(engine, FakeEngine)
    return engine


@pytest.mark.parametrize("result", [ProbeResult.NOT_READY, ProbeResult.UNREACHABLE])
def test_health_a_clear_no_counts_at_once(result: ProbeResult) -> None:
    assert not health_after_probe(READY, result).is_ready
    assert health_after_probe(Health(), ProbeResult.READY).is_ready


def test_health_late_answers_count_only_in_a_row() -> None:
    health = READY
    for _ in range(PROBES_WITHOUT_ANSWER - 1):
        health = health_after_probe(health, ProbeResult.TIMED_OUT)
    assert health.is_ready
    assert not health_after_probe(health, ProbeResult.TIMED_OUT).is_ready
    recovered = health_after_probe(health, ProbeResult.READY)
    assert health_after_probe(recovered, ProbeResult.TIMED_OUT).is_ready


def test_health_late_answer_does_not_make_ready() -> None:
    assert not health_after_probe(Health(), ProbeResult.TIMED_OUT).is_ready


def test_health_failed_connects_count_in_a_row() -> None:
    health = READY
    for _ in range(FAILED_CONNECTS - 1):
        health = health_after_failed_connect(health)
    assert health.is_ready
    assert not health_after_failed_connect(health).is_ready


def test_pool_readiness_follows_the_probes() -> None:
    async def run() -> None:
        pool = pool_of(always(FakeReply()), interval_s=5)
        fake_of(pool, "r0").probe_result = ProbeResult.UNREACHABLE
        seen = []
        async with pool.watching():
            seen.append(pool.has_ready(0))
            fake_of(pool, "r0").probe_result = ProbeResult.READY
            await asyncio.sleep(4.9)
            seen.append(pool.has_ready(0))
            await asyncio.sleep(0.2)
            seen.append(pool.has_ready(0))
        assert seen == [False, False, True]
        assert not pool.has_ready(1)

    run_in_virtual_time(run())


def test_pool_attempt_is_counted_down_after_any_end() -> None:
    pool = pool_of(always(FakeReply()))
    replica = pool["r0"]
    with suppress(ZeroDivisionError), pool.attempt(replica):
        assert replica.state.num_in_flight == 1
        raise ZeroDivisionError
    assert replica.state.num_in_flight == 0


def test_balanced_spreads_requests_over_ready_replicas() -> None:
    async def run() -> list[str]:
        pool = pool_of(*[always(FakeReply())] * 3)
        fake_of(pool, "r1").probe_result = ProbeResult.NOT_READY
        await pool.probe_all()
        engine = BalancedEngine(pool)
        async with engine.open(CALL) as first, engine.open(CALL) as second, engine.open(CALL) as third:
            return [first.replica, second.replica, third.replica]

    assert run_in_virtual_time(run()) == ["r0", "r2", "r0"]


def test_balanced_replica_that_refuses_connections_is_left_out_until_a_probe_succeeds() -> None:
    async def run() -> None:
        def refuse(call: EngineCall) -> FakeReply:
            del call
            raise AttemptError(AttemptFailure.CONNECT, "refused", replica="r0")

        pool = pool_of(refuse)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        for _ in range(FAILED_CONNECTS):
            with pytest.raises(AttemptError, match="refused"):
                await engine.open(CALL).__aenter__()
        with pytest.raises(AttemptError, match="none-ready"):
            await engine.open(CALL).__aenter__()
        await pool.probe_all()
        assert pool.has_ready(0)
        assert pool.states[0].num_in_flight == 0

    run_in_virtual_time(run())


def test_balanced_sends_the_replicas_own_model_name_and_trusts_the_configured_digest() -> None:
    async def run() -> None:
        reply = FakeReply(headers={"content-type": "text/plain", "x-served-variant": "lie", "x-degraded": "lie"})
        pool = pool_of(always(reply), model_name="org/other", digest="sha256:ab")
        await pool.probe_all()
        async with BalancedEngine(pool).open(CALL) as answer:
            assert answer.headers == {"content-type": "text/plain", "x-served-variant": "sha256:ab"}
        call = fake_of(pool, "r0").calls[0]
        assert (call.model, call.body) == ("org/other", b'{"model":"org/other"}')

    run_in_virtual_time(run())
