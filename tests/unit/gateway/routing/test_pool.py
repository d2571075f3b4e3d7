from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace

import pytest

from lightship.engines.remote import ProbeResult
from lightship.gateway.routing.balancing import BalancedEngine
from lightship.gateway.routing.config import BreakerConfig, OutlierConfig, RoutingConfig
from lightship.gateway.routing.health import FAILED_CONNECTS, PROBES_WITHOUT_ANSWER
from lightship.gateway.routing.picking import ChoiceReason
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply, StreamBrokenError
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, always, error_reply, in_turn, stream_reply
from lightship.testing.replica_pools import assert_all_zero, call, fake_of, pool_of, replica, replica_config
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import overloaded

WHOLE = always(FakeReply())
STREAM = always(stream_reply("a", "b"))


def refuse(call: EngineCall) -> FakeReply:
    del call
    raise AttemptError(AttemptFailure.CONNECT, "refused", replica="r0")


def shed(call: EngineCall) -> FakeReply:
    del call
    busy = overloaded("full", reason="queue-full")
    raise AttemptError(AttemptFailure.BAD_STATUS, "503", replica="r0", status=503, api_error=busy)


async def read(engine: BalancedEngine, wanted: EngineCall, *, num_output_tokens: int = 0) -> EngineReply:
    async with engine.open(wanted) as reply:
        async for _ in reply.chunks:
            pass
        reply.usage.num_output_tokens = num_output_tokens
        return reply


async def fail(engine: BalancedEngine, wanted: EngineCall) -> AttemptError:
    with pytest.raises(AttemptError) as caught:
        await read(engine, wanted)
    return caught.value


def phase_of(pool: ReplicaPool, name: str) -> str:
    return pool[name].breaker.phase.value


def chat_body(*contents: str) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": "m", "messages": messages}).encode()


def test_pool_readiness_follows_the_probes() -> None:
    async def run() -> None:
        pool = pool_of(WHOLE, interval_s=5)
        fake_of(pool, "r0").probe_result = ProbeResult.UNREACHABLE
        seen = []
        async with pool.watching():
            seen.append(pool.has_ready())
            fake_of(pool, "r0").probe_result = ProbeResult.READY
            await asyncio.sleep(4.9)
            seen.append(pool.has_ready())
            await asyncio.sleep(0.2)
            seen.append(pool.has_ready())
        assert seen == [False, False, True]
        assert not pool.is_up("", 1)

    run_in_virtual_time(run())


def test_pool_health_checks_touch_no_counter() -> None:
    """Once broken elsewhere: a health check set the counts of requests under way to zero."""

    async def run() -> None:
        pool = pool_of(STREAM)
        async with pool.watching(), BalancedEngine(pool).open(call(num_prompt_tokens=4000)):
            before = (pool.states[0].num_in_flight, pool.states[0].last_start)
            for result in [ProbeResult.UNREACHABLE, ProbeResult.TIMED_OUT, ProbeResult.READY]:
                fake_of(pool, "r0").probe_result = result
                await asyncio.sleep(1)
            assert (pool.states[0].num_in_flight, pool.states[0].last_start) == before == (1, 1)
            assert pool.states[0].work_s > 0
        assert_all_zero(pool)

    run_in_virtual_time(run())


async def gave_up(pool: ReplicaPool, wanted: EngineCall) -> tuple[str, float] | None:
    """Who failed an attempt at the first replica, which falls silent at once, and when; None when it was waited for."""
    async with pool.watching():
        fake_of(pool, "r0").probe_result = ProbeResult.TIMED_OUT
        try:
            async with asyncio.timeout(30), BalancedEngine(pool).open(wanted):
                return None
        except AttemptError as error:
            return f"{error.replica} {error.failure}", asyncio.get_running_loop().time()
        except TimeoutError:
            return None
        finally:
            assert_all_zero(pool)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_balanced_replica_that_falls_silent_is_waited_for_no_longer(is_streaming: bool) -> None:
    async def run() -> None:
        pool = pool_of(always(stream_reply(fault=Fault.HANG)), STREAM)
        found = await gave_up(pool, call(is_streaming=is_streaming))
        assert found == ("r0 first_token_timeout", PROBES_WITHOUT_ANSWER)

    run_in_virtual_time(run())


def test_balanced_replica_that_falls_silent_is_waited_for_where_there_is_no_other() -> None:
    async def run() -> None:
        hang = always(stream_reply(fault=Fault.HANG))
        assert await gave_up(pool_of(hang), call()) is None
        assert await gave_up(pool_of(hang, STREAM), replace(call(), excluded=frozenset({"r1"}))) is None

    run_in_virtual_time(run())


def test_balanced_answer_that_has_begun_goes_on_while_its_replica_is_silent() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        pool = pool_of(always(stream_reply("a", "b", next_gate=gate)), STREAM)
        async with pool.watching():
            fake_of(pool, "r0").probe_result = ProbeResult.TIMED_OUT
            async with BalancedEngine(pool).open(call()) as reply:
                asyncio.get_running_loop().call_later(10, gate.set)
                chunks = [chunk async for chunk in reply.chunks]
            assert reply.replica == "r0"
            assert len(chunks) == 3

    run_in_virtual_time(run())


def test_balanced_spreads_requests_over_ready_replicas() -> None:
    async def run() -> list[str]:
        pool = pool_of(WHOLE, WHOLE, WHOLE)
        fake_of(pool, "r1").probe_result = ProbeResult.NOT_READY
        await pool.probe_all()
        engine = BalancedEngine(pool)
        async with engine.open(call()) as first, engine.open(call()) as second, engine.open(call()) as third:
            return [first.replica, second.replica, third.replica]

    assert run_in_virtual_time(run()) == ["r0", "r2", "r0"]


def test_balanced_counts_work_until_the_request_is_over() -> None:
    """4000 prompt tokens at 4000/s and 400 output tokens at 400/s: a second each."""

    async def run() -> None:
        gate = asyncio.Event()
        pool = pool_of(always(stream_reply("a", "b", first_gate=gate)))
        await pool.probe_all()
        for _ in range(20):  # enough answers of 400 tokens to be the route's usual length
            gate.set()
            await read(BalancedEngine(pool), call(), num_output_tokens=400)
        gate.clear()
        attempt = BalancedEngine(pool).open(call(num_prompt_tokens=4000, max_output_tokens=1000))
        async with asyncio.TaskGroup() as group:
            entering = group.create_task(attempt.__aenter__())
            await asyncio.sleep(1)
            assert pool.states[0].work_s == pytest.approx(2.0)
            gate.set()
        assert pool.states[0].work_s == pytest.approx(1.0)
        entering.result().usage.num_output_tokens = 300
        pool["r0"].ledger.refresh()
        assert pool.states[0].work_s == pytest.approx(0.25)
        await attempt.__aexit__(None, None, None)
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_balanced_a_requests_own_bound_limits_its_expected_output() -> None:
    async def run() -> None:
        pool = pool_of(WHOLE)
        await pool.probe_all()
        async with BalancedEngine(pool).open(call(max_output_tokens=40)):
            assert pool.states[0].work_s == pytest.approx(0.1)

    run_in_virtual_time(run())


def test_balanced_growing_conversation_stays_where_its_prefix_is() -> None:
    async def run() -> None:
        pool = pool_of(WHOLE, WHOLE, WHOLE)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        first, other = "once upon a time " * 100, "in another place " * 100
        places = [await read(engine, call(chat_body(text))) for text in (first, other)]
        assert [reply.replica for reply in places] == ["r0", "r1"]
        for _ in range(3):
            assert (await read(engine, call(chat_body(first, "and then?")))).replica == "r0"
            assert (await read(engine, call(chat_body(other, "and then?")))).replica == "r1"
        assert pool.counts.picks[ChoiceReason.PREFIX] == 6
        assert pool.counts.num_known_blocks > 0.7 * pool.counts.num_blocks

    run_in_virtual_time(run())


def test_balanced_known_prefix_takes_less_work() -> None:
    """A kilobyte of 1.25 is known: of 2500 prompt tokens a fifth must be worked on."""

    async def run() -> None:
        pool = pool_of(WHOLE, routing=RoutingConfig(prefill_tokens_per_s=1000, prefix_block_bytes=256))
        await pool.probe_all()
        engine = BalancedEngine(pool)
        body = json.dumps({"model": "m", "prompt": "x" * 1278}).encode()  # with its quotes five blocks
        known = json.dumps({"model": "m", "prompt": "x" * 1030}).encode()
        await read(engine, call(known, path="/v1/completions"))
        async with engine.open(call(body, path="/v1/completions", num_prompt_tokens=2500, max_output_tokens=1)):
            pass
        attempt = pool.place(call(body.replace(b'xx"', b'xy"'), path="/v1/completions", num_prompt_tokens=2500))
        assert attempt.num_uncached_tokens == pytest.approx(500)

    run_in_virtual_time(run())


def test_balanced_tenants_do_not_see_each_others_prefixes() -> None:
    async def run(routing: RoutingConfig) -> str:
        pool = pool_of(WHOLE, WHOLE, routing=routing)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        body = chat_body("the secret plan " * 100)
        assert (await read(engine, call(body, tenant="one"))).replica == "r0"
        return (await read(engine, call(body, tenant="two"))).replica

    assert run_in_virtual_time(run(RoutingConfig())) == "r1"
    assert run_in_virtual_time(run(RoutingConfig(shares_prefixes=True))) == "r0"


def test_balanced_session_stays_and_is_the_tenants_own() -> None:
    async def run() -> None:
        pool = pool_of(WHOLE, WHOLE)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        assert (await read(engine, call(tenant="one", session="s"))).replica == "r0"
        assert (await read(engine, call(tenant="two", session="s"))).replica == "r1"
        assert (await read(engine, call(tenant="two", session="s"))).replica == "r1"
        assert (await read(engine, call(tenant="one", session="s"))).replica == "r0"
        assert pool.sessions.rung_of(("one", "s")) == 0
        assert pool.sessions.rung_of(("three", "s")) is None

    run_in_virtual_time(run())


def test_balanced_lost_replica_is_forgotten_by_the_prefix_index() -> None:
    async def run() -> None:
        pool = pool_of(WHOLE, WHOLE)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        body = chat_body("long ago " * 100)
        assert (await read(engine, call(body))).replica == "r0"
        for result in (ProbeResult.UNREACHABLE, ProbeResult.READY):  # it died and came back empty
            fake_of(pool, "r0").probe_result = result
            await pool.probe_all()
        assert (await read(engine, call(body))).replica == "r1"

    run_in_virtual_time(run())


def test_balanced_replica_that_refuses_connections_is_left_out_until_a_probe_succeeds() -> None:
    async def run() -> None:
        pool = pool_of(refuse)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        for _ in range(FAILED_CONNECTS):
            assert (await fail(engine, call())).failure is AttemptFailure.CONNECT
        assert "none-ready" in (await fail(engine, call())).message
        await pool.probe_all()
        assert pool.has_ready()
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_balanced_dead_replica_that_looks_idle_gets_no_requests() -> None:
    """Once broken elsewhere: a replica that fails at once has nothing in flight, so everything went there."""

    async def run() -> None:
        pool = pool_of(
            always(error_reply(500)), STREAM, routing=RoutingConfig(breaker=BreakerConfig(failures_in_a_row=3))
        )
        await pool.probe_all()
        engine = BalancedEngine(pool)
        num_failed = 0
        async with engine.open(replace(call(), excluded=frozenset({"r0"}))):  # so that the dead one has less to do
            for _ in range(100):
                try:
                    await read(engine, call())
                except AttemptError:
                    num_failed += 1
        assert num_failed == 3
        assert phase_of(pool, "r0") == "open"

    run_in_virtual_time(run())


def test_balanced_breaker_probes_one_at_a_time_and_closes_after_two() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        good = stream_reply("a", first_gate=gate)
        bad = error_reply(500)
        pool = pool_of(in_turn(*[bad] * 5, good), STREAM)
        await pool.probe_all()
        engine = BalancedEngine(pool)
        first_only = frozenset({"r1"})
        for _ in range(5):
            await fail(engine, replace(call(), excluded=first_only))
        assert (await read(engine, call())).replica == "r1"
        await asyncio.sleep(1)  # the first pause
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(read(engine, call()))
            await asyncio.sleep(0)
            assert phase_of(pool, "r0") == "half-open"
            others = [await read(engine, call()) for _ in range(3)]
            gate.set()
        assert probe.result().replica == "r0"
        assert {reply.replica for reply in others} == {"r1"}
        assert (await read(engine, call())).replica == "r0"  # the longest idle, and the second probe
        assert phase_of(pool, "r0") == "closed"
        assert_all_zero(pool)

    run_in_virtual_time(run())


@pytest.mark.parametrize(
    ("script", "opens"),
    [
        pytest.param(always(error_reply(500)), True, id="5xx"),
        pytest.param(always(FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)), True, id="closed"),
        pytest.param(always(stream_reply("a", fault=Fault.CLOSE_AFTER_CHUNKS)), True, id="broken-stream"),
        pytest.param(always(error_reply(400)), False, id="4xx"),
        pytest.param(always(error_reply(429)), False, id="429"),
        pytest.param(shed, False, id="shed"),
    ],
)
def test_balanced_breaker_counts_what_is_the_replicas_fault(script: object, opens: bool) -> None:
    async def run() -> None:
        pool = pool_of(script)  # type: ignore[arg-type] # the table holds scripts only
        await pool.probe_all()
        for _ in range(8):
            with suppress(AttemptError, StreamBrokenError):
                await read(BalancedEngine(pool), call())
        assert (phase_of(pool, "r0") != "closed") is opens
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_balanced_clients_that_leave_do_not_open_the_breaker() -> None:
    async def run() -> None:
        pool = pool_of(always(FakeReply(fault=Fault.HANG)))
        await pool.probe_all()
        for _ in range(8):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await read(BalancedEngine(pool), call())
        assert phase_of(pool, "r0") == "closed"
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_balanced_full_replicas_say_saturated() -> None:
    async def run() -> None:
        pool = pool_of(STREAM, max_concurrency=1)
        await pool.probe_all()
        async with BalancedEngine(pool).open(call()):
            error = await fail(BalancedEngine(pool), call())
        assert error.failure is AttemptFailure.NO_REPLICA
        assert error.api_error is not None
        assert error.api_error.headers["x-reject-reason"] == "saturated"
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_pool_several_processes_share_a_replicas_concurrency() -> None:
    one = replica(STREAM, "r0", max_concurrency=8)
    ReplicaPool([one], clock=LoopClock(), interval_s=1, num_processes=3)
    assert one.state.max_in_flight == 2


def test_balanced_sends_the_replicas_own_model_name_and_trusts_the_configured_digest() -> None:
    async def run() -> None:
        reply = FakeReply(headers={"content-type": "text/plain", "x-served-variant": "lie", "x-degraded": "lie"})
        pool = pool_of(always(reply), model_name="org/other", variant_digest="sha256:ab")
        await pool.probe_all()
        async with BalancedEngine(pool).open(call()) as answer:
            assert answer.headers == {"content-type": "text/plain", "x-served-variant": "sha256:ab"}
        sent = fake_of(pool, "r0").calls[0]
        assert (sent.model, sent.body) == ("org/other", b'{"model":"org/other"}')

    run_in_virtual_time(run())


def test_pool_slow_replica_is_ejected_for_a_while() -> None:
    def after(delay_s: float) -> FakeReply:
        gate = asyncio.Event()
        asyncio.get_running_loop().call_later(delay_s, gate.set)
        return stream_reply("a", first_gate=gate)

    async def run() -> None:
        outliers = OutlierConfig(interval_s=10, min_attempts=10, ejection_s=30)
        scripts = [lambda call: after(1.0), lambda call: after(0.1), lambda call: after(0.1)]
        pool = pool_of(*scripts, routing=RoutingConfig(outliers=outliers))
        engine = BalancedEngine(pool)
        async with pool.watching():
            async with asyncio.TaskGroup() as group:
                for _ in range(45):
                    group.create_task(read(engine, call()))
            await asyncio.sleep(9.5)
            assert {(await read(engine, call())).replica for _ in range(12)} == {"r1", "r2"}
            assert pool.rung_load(0).num_usable == 2
            await asyncio.sleep(30)
            assert "r0" in {(await read(engine, call())).replica for _ in range(3)}
        assert_all_zero(pool)

    run_in_virtual_time(run())


class Told:
    """An engine's metrics, as a test wants them."""

    def __init__(self) -> None:
        self.num_waiting: int | None = 0

    async def read_metrics(self, *, timeout_s: float) -> bytes | None:
        del timeout_s
        return None if self.num_waiting is None else b"vllm:num_requests_waiting %d\n" % self.num_waiting


def pool_with_metrics(*told: Told) -> ReplicaPool:
    replicas = [
        Replica(replica_config(f"r{number}"), FakeEngine(STREAM, name=f"r{number}"), metrics=one)
        for number, one in enumerate(told)
    ]
    return ReplicaPool(replicas, clock=LoopClock(), interval_s=1, routing=RoutingConfig(metrics_max_age_s=3))


def test_pool_foreign_requests_count_as_work_until_their_figures_are_old() -> None:
    async def run() -> None:
        told = [Told(), Told()]
        pool = pool_with_metrics(*told)
        async with pool.watching():
            told[0].num_waiting = 10
            await asyncio.sleep(2.1)
            assert pool.states[0].work_s > pool.states[1].work_s == 0
            told[0].num_waiting = None
            await asyncio.sleep(4)
            assert pool.states[0].work_s == 0

    run_in_virtual_time(run())


def test_pool_all_metrics_stale_goes_on_with_own_accounting() -> None:
    """Once broken elsewhere: with every engine's metrics stale, requests were answered with 500."""

    async def run() -> None:
        told = [Told(), Told()]
        pool = pool_with_metrics(*told)
        async with pool.watching():
            await asyncio.sleep(2)
            told[0].num_waiting = told[1].num_waiting = None
            await asyncio.sleep(10)
            engine = BalancedEngine(pool)
            async with engine.open(call()) as one, engine.open(call()) as two:
                assert {one.replica, two.replica} == {"r0", "r1"}

    run_in_virtual_time(run())


def test_pool_apply_keeps_who_stays_and_lets_the_others_finish() -> None:
    async def run() -> None:
        pool = pool_of(STREAM, STREAM)
        engine = BalancedEngine(pool)
        async with pool.watching():
            before = pool["r0"]
            staying, leaving = engine.open(call()), engine.open(call())
            await staying.__aenter__()
            reply = await leaving.__aenter__()
            assert (staying.replica, leaving.replica) == ("r0", "r1")
            removed = pool["r1"]
            new = replica(STREAM, "r2")
            assert isinstance(new.engine, FakeEngine)
            new.engine.probe_result = ProbeResult.NOT_READY
            again = replica(STREAM, "r0", weight=2.0)
            await pool.apply([again, new], interval_s=1)

            assert pool["r0"] is before
            assert pool["r0"].engine is again.engine  # reached in the new way from now on
            assert (pool["r0"].state.num_in_flight, pool["r0"].state.weight) == (1, 2.0)
            assert {(await read(engine, call())).replica for _ in range(4)} == {"r0"}  # the new one is not ready
            new.engine.probe_result = ProbeResult.READY
            await asyncio.sleep(1.1)
            assert "r2" in {(await read(engine, call())).replica for _ in range(2)}
            assert [chunk async for chunk in reply.chunks][-1] == b"data: [DONE]\n\n"
            await leaving.__aexit__(None, None, None)
            await staying.__aexit__(None, None, None)
            assert (removed.state.num_in_flight, removed.state.device.work_us) == (0, 0)
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_pool_apply_moves_work_under_way_to_the_new_device() -> None:
    async def run() -> None:
        pool = pool_of(STREAM, STREAM, device="gpu0")
        await pool.probe_all()
        async with BalancedEngine(pool).open(call()) as reply:
            assert [state.work_s > 0 for state in pool.states] == [True, True]  # they share it
            changed = [replica(STREAM, "r0", device="gpu0"), replica(STREAM, "r1", device="gpu1")]
            await pool.apply(changed, interval_s=1)
            assert [state.work_s > 0 for state in pool.states] == [name == reply.replica for name in ("r0", "r1")]
        assert_all_zero(pool)

    run_in_virtual_time(run())


def test_pool_apply_another_address_is_another_replica() -> None:
    async def run() -> None:
        pool = pool_of(STREAM)
        await pool.probe_all()
        old = pool["r0"]
        async with BalancedEngine(pool).open(call()):
            await pool.apply([replica(STREAM, "r0", base_url="http://elsewhere")], interval_s=1)
            assert pool["r0"] is not old
            assert pool["r0"].state.num_in_flight == 0
        assert old.state.num_in_flight == 0
        assert_all_zero(pool)

    run_in_virtual_time(run())
