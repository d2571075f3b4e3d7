"""Whatever replicas, clients and the operator do in whatever order: nothing stays counted, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum

from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.engines.remote import ProbeResult
from lightship.gateway.routing.balancing import BalancedEngine
from lightship.gateway.routing.config import BreakerConfig, Hedging, OutlierConfig, RoutingConfig
from lightship.gateway.routing.hedging import HedgedEngine
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.gateway.routing.retrying import RESERVE_RETRIES, RetryBudget, RetryingEngine
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts, StreamBrokenError
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, always, error_reply, stream_reply
from lightship.testing.replica_pools import assert_all_zero, call, replica_config
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import overloaded

TIMEOUTS = HopTimeouts(connect_s=1, first_token_s=10, next_token_s=5, total_s=30)
MAX_ATTEMPTS = 3
SHARE = 1.0
ROUTING = RoutingConfig(
    hedging=Hedging.ALL,
    hedge_min_delay_s=0.5,
    breaker=BreakerConfig(failures_in_a_row=2, first_pause_s=1, longest_pause_s=4),
    outliers=OutlierConfig(interval_s=2, min_attempts=2, ejection_s=5),
)
# Replicas act on whole seconds and hedges on halves: nobody leaves at such a moment.
NEVER_A_TIE_S = 0.25
STAYS_S = 10_000.0
FAULTS = {
    "hang": Fault.HANG,
    "close": Fault.CLOSE_BEFORE_FIRST_BYTE,
    "break": Fault.CLOSE_AFTER_CHUNKS,
    "stall": Fault.STALL_AFTER_CHUNKS,
}


class End(StrEnum):
    """How one request ended, as its client saw it."""

    SERVED = "served"
    REFUSED = "refused"
    BROKEN = "broken"
    LEFT = "left"
    LOST = "lost"


@dataclass(frozen=True)
class AttemptPlan:
    """What a replica does with one attempt."""

    kind: str
    first_s: int
    next_s: int


@dataclass(frozen=True)
class RequestPlan:
    """When a client comes and leaves, and what it asks."""

    start_s: int
    leave_after_s: float
    session: str
    rung: int


@dataclass(frozen=True)
class OperatorPlan:
    """When the operator changes what, and which replica the probes find how."""

    at_s: int
    change: str
    name: str


def attempts(*kinds: str) -> st.SearchStrategy[list[AttemptPlan]]:
    plan = st.builds(
        AttemptPlan,
        kind=st.sampled_from(kinds),
        first_s=st.sampled_from([0, 1, 4, 11]),
        next_s=st.sampled_from([0, 1, 6]),
    )
    return st.lists(plan, min_size=1, max_size=5)


def requests(*, rungs: list[int]) -> st.SearchStrategy[list[RequestPlan]]:
    plan = st.builds(
        RequestPlan,
        start_s=st.integers(0, 6),
        leave_after_s=st.sampled_from([STAYS_S, STAYS_S, STAYS_S, 0, 1, 2, 4, 11]).map(NEVER_A_TIE_S.__add__),
        session=st.sampled_from(["", "s"]),
        rung=st.sampled_from(rungs),
    )
    return st.lists(plan, min_size=1, max_size=6)


CHANGES = st.lists(
    st.builds(
        OperatorPlan,
        at_s=st.integers(0, 12),
        change=st.sampled_from(["remove", "remove", "move", "down", "slow-probe", "up"]),
        name=st.sampled_from(["a", "b"]),
    ),
    max_size=4,
)


class World:
    """Replicas `a` and `b` that play one list of attempts, `good` and the lower rung's `low`, and what happened."""

    def __init__(self, plans: list[AttemptPlan], good: Script) -> None:
        self.num_attempts = 0
        self.seen: list[End] = []
        self.mixed: list[bytes] = []
        self._plans = plans
        self._num_played = 0
        self._scripts: dict[str, Script] = {"a": self._play, "b": self._play, "good": good, "low": self._play}
        self.replicas: list[Replica] = [self._make(name) for name in self._scripts]
        self.all_replicas = list(self.replicas)
        self.pool = ReplicaPool(
            self.replicas, clock=LoopClock(), interval_s=1, routing=ROUTING, draw=lambda: 0.5, secret=b"test"
        )
        for _ in range(50):
            self.pool._recent_first_bytes(call(), "").add(0.5)  # what fifty requests would have left
        budget = RetryBudget(SHARE)
        engine = HedgedEngine(BalancedEngine(self.pool), pool=self.pool, budget=budget)
        self.engine = RetryingEngine(engine, max_attempts=MAX_ATTEMPTS, budget=budget, clock=LoopClock())

    def _make(self, name: str, address: str = "http://x") -> Replica:
        def script(call: EngineCall) -> FakeReply:
            self.num_attempts += 1
            reply = self._scripts[name](call)
            return replace(reply, chunks=tuple(chunk.replace(b"?", name.encode()) for chunk in reply.chunks))

        config = replica_config(name, base_url=address, rung=1 if name == "low" else 0, device="gpu")
        return Replica(config, FakeEngine(script, name=name, timeouts=TIMEOUTS))

    def _play(self, call: EngineCall) -> FakeReply:
        del call
        plan = self._plans[self._num_played % len(self._plans)]
        self._num_played += 1
        if plan.kind == "refuse":
            raise AttemptError(AttemptFailure.CONNECT, "refused")
        if plan.kind == "shed":
            busy = overloaded("full", reason="queue-full")
            raise AttemptError(AttemptFailure.BAD_STATUS, "503", status=503, api_error=busy)
        if plan.kind.isdigit():
            return error_reply(int(plan.kind))
        first_gate, next_gate = opens_after(plan.first_s), opens_after(plan.first_s + plan.next_s)
        fault = FAULTS.get(plan.kind, Fault.NONE)
        return stream_reply("?", "?", "?", fault=fault, first_gate=first_gate, next_gate=next_gate)

    async def request(self, plan: RequestPlan) -> None:
        await asyncio.sleep(plan.start_s)
        received: list[bytes] = []
        is_begun = False
        try:
            async with asyncio.timeout(plan.leave_after_s):
                async with self.engine.open(call(session=plan.session, rung=plan.rung, num_prompt_tokens=700)) as reply:
                    is_begun = True
                    assert reply.rung == plan.rung
                    async for chunk in reply.chunks:
                        received.append(chunk)
                self.seen.append(End.SERVED if reply.status == 200 else End.REFUSED)
        except AttemptError:
            self.seen.append(End.LOST)
        except StreamBrokenError:
            assert is_begun
            self.seen.append(End.BROKEN)
        except TimeoutError:
            self.seen.append(End.LEFT)
        texts = b"".join(received)
        if sum(b'"%s"' % name.encode() in texts for name in self._scripts) > 1:
            self.mixed.append(texts)

    async def operate(self, plan: OperatorPlan) -> None:
        await asyncio.sleep(plan.at_s)
        engines = [one.engine for one in self.replicas if one.config.name == plan.name]
        match plan.change:
            case "remove":
                self.replicas = [one for one in self.replicas if one.config.name != plan.name]
            case "move":
                others = [one for one in self.replicas if one.config.name != plan.name]
                self.replicas = [*others, self._make(plan.name, f"http://moved-at-{plan.at_s}")]
                self.all_replicas.append(self.replicas[-1])
        if plan.change in {"remove", "move"}:
            await self.pool.apply(self.replicas, interval_s=1)
            return
        results = {"down": ProbeResult.UNREACHABLE, "slow-probe": ProbeResult.TIMED_OUT, "up": ProbeResult.READY}
        for engine in engines:
            assert isinstance(engine, FakeEngine)
            engine.probe_result = results[plan.change]

    async def run(self, plans: list[RequestPlan], changes: list[OperatorPlan]) -> None:
        async with self.pool.watching(), asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(self.request(plan))
            for change in changes:
                group.create_task(self.operate(change))
        assert_all_zero(self.pool)
        for one in self.all_replicas:  # those that were removed too
            assert (one.state.num_in_flight, one.state.device.work_us, one.ledger.work_us) == (0, 0, 0)
            assert not one.breaker.has_probe
            assert isinstance(one.engine, FakeEngine)
            assert one.engine.num_open == 0
        assert len(self.seen) == len(plans)
        assert self.mixed == []
        assert self.num_attempts <= len(plans) + RESERVE_RETRIES + SHARE * len(plans)
        assert self.num_attempts <= MAX_ATTEMPTS * len(plans)


def opens_after(delay_s: float) -> asyncio.Event:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(delay_s, event.set)
    return event


BAD_KINDS = ("500", "503", "hang", "close", "break", "stall", "refuse")


@settings(max_examples=150, deadline=None)
@given(plans=attempts("good", "good", "400", "shed", *BAD_KINDS), wanted=requests(rungs=[0, 0, 1]), changes=CHANGES)
def test_routing_any_interleaving_leaves_nothing_counted(
    plans: list[AttemptPlan], wanted: list[RequestPlan], changes: list[OperatorPlan]
) -> None:
    async def run() -> None:
        await World(plans, always(stream_reply("?", fault=Fault.CLOSE_AFTER_CHUNKS))).run(wanted, changes)

    run_in_virtual_time(run())


@settings(max_examples=150, deadline=None)
@given(plans=attempts("good", *BAD_KINDS), wanted=requests(rungs=[0]), changes=CHANGES)
def test_routing_loses_no_request_while_a_healthy_replica_exists(
    plans: list[AttemptPlan], wanted: list[RequestPlan], changes: list[OperatorPlan]
) -> None:
    async def run() -> None:
        world = World(plans, always(stream_reply("?", "?")))
        await world.run(wanted, changes)
        assert End.LOST not in world.seen

    run_in_virtual_time(run())
