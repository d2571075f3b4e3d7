"""Whatever happens in whatever order: one outcome per request, and every counter back at zero."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.gateway.api.first_token import FirstTokenEngine
from lightship.gateway.app import GatewayApp
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.catalog import ModelCatalog
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, PriorityClass, RungFacts
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.gateway.routing.retrying import RESERVE_RETRIES
from lightship.gateway.runtime import build_app
from lightship.gateway.stack import Stack, build_stack
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.gateway.tenants.authentication import Authenticator, KeyTable
from lightship.gateway.tenants.config import DEFAULT, LimitConfig, PriceConfig, TenantsConfig
from lightship.gateway.tenants.keys import KeyRecord, digest_of, new_key
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.observability import names
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts, Outcome
from lightship.testing.asgi_client import JSON_HEADERS, AsgiClient
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, error_reply, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

TIMEOUTS = HopTimeouts(connect_s=1, first_token_s=10, next_token_s=5, total_s=30)
STAYS = 10_000
# Everything else happens on whole seconds: who is first decides the outcome, so nobody leaves at such a moment.
NEVER_A_TIE_S = 0.25

# A stream that is complete, says what it took, and is therefore kept by a cache.
STORABLE = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n',
    b"data: [DONE]\n\n",
)
KEYS = {tenant: new_key(lambda size, tenant=tenant: tenant.encode() * size) for tenant in ("a", "b")}  # type: ignore[misc]


@dataclass(frozen=True)
class AttemptPlan:
    """What a replica does with one attempt, and how many seconds it takes before and within the body."""

    kind: str
    first_s: int
    next_s: int


@dataclass(frozen=True)
class RequestPlan:
    """When a client comes, sends its body, and leaves; seconds."""

    start_s: int
    body_after_s: int
    leave_after_s: float
    is_streaming: bool
    model: str


@dataclass(frozen=True)
class FullPlan:
    """A request to a gateway with everything on: whose it is, which of two prompts, and how long it may wait."""

    request: RequestPlan
    tenant: str
    prompt: int
    priority: str
    deadline_ms: int


ATTEMPTS = st.builds(
    AttemptPlan,
    kind=st.sampled_from(
        [
            "good",
            "good",
            "storable",
            "whole",
            "400",
            "500",
            "503",
            "html",
            "hang",
            "close",
            "break",
            "stall",
            "no-done",
            "refuse",
        ]
    ),
    first_s=st.sampled_from([0, 1, 4, 11]),
    next_s=st.sampled_from([0, 1, 6]),
)
REQUESTS = st.builds(
    RequestPlan,
    start_s=st.integers(0, 3),
    body_after_s=st.sampled_from([0, 0, 1, 9]),
    leave_after_s=st.sampled_from([STAYS, STAYS, 0, 1, 2, 4, 5, 11, 20]).map(lambda seconds: seconds + NEVER_A_TIE_S),
    is_streaming=st.booleans(),
    model=st.sampled_from(["m", "m", "m", "m@int4", "unknown"]),
)

FULL = st.builds(
    FullPlan,
    request=REQUESTS,
    tenant=st.sampled_from(["a", "a", "b", ""]),
    prompt=st.sampled_from([0, 0, 0, 1]),
    priority=st.sampled_from(["default", "default", "batch"]),
    deadline_ms=st.sampled_from([60_000, 60_000, 60_000, 2_500]),
)


NUM_RUNGS = 2


class Replicas:
    """Replicas in memory that play one list of attempts among them."""

    def __init__(self, plans: list[AttemptPlan]) -> None:
        self.num_attempts = 0
        self._plans = plans
        self.fakes = {name: FakeEngine(self._play, name=name, timeouts=TIMEOUTS) for name in ("a", "b", "low")}
        self.configs = [
            ReplicaConfig(name="a", base_url="http://x", model_name="m", variant_name="fp16"),
            ReplicaConfig(name="b", base_url="http://x", model_name="m", variant_name="fp16"),
            ReplicaConfig(name="low", base_url="http://x", model_name="m", variant_name="int4", rung=1),
        ]

    def _play(self, call: EngineCall) -> FakeReply:
        plan = self._plans[self.num_attempts % len(self._plans)]
        self.num_attempts += 1
        first_gate, next_gate = _opens_after(plan.first_s), _opens_after(plan.first_s + plan.next_s)
        match plan.kind:
            case "refuse":
                raise AttemptError(AttemptFailure.CONNECT, "refused", replica=_tried(call))
            case "whole":
                return FakeReply(first_gate=first_gate)
            case "storable":
                return FakeReply(
                    STORABLE, headers={"content-type": "text/event-stream"}, first_gate=first_gate, next_gate=next_gate
                )
            case "400" | "500" | "503":
                return error_reply(int(plan.kind))
            case "html":
                return FakeReply(status=502, chunks=(b"<html>",), first_gate=first_gate)
            case "no-done":
                return FakeReply(
                    (b'data: {"x":1}\n\n',), headers={"content-type": "text/event-stream"}, first_gate=first_gate
                )
        faults = {
            "good": Fault.NONE,
            "hang": Fault.HANG,
            "close": Fault.CLOSE_BEFORE_FIRST_BYTE,
            "break": Fault.CLOSE_AFTER_CHUNKS,
            "stall": Fault.STALL_AFTER_CHUNKS,
        }
        return stream_reply("a", "b", fault=faults[plan.kind], first_gate=first_gate, next_gate=next_gate)


def _tried(call: EngineCall) -> str:
    return "low" if call.rung else ("b" if "a" in call.excluded else "a")


def _opens_after(delay_s: float) -> asyncio.Event:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(delay_s, event.set)
    return event


def _sum_of(telemetry: GatewayTelemetry, name: str, **labels: str) -> float:
    samples = (sample for metric in telemetry.registry.collect() for sample in metric.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


async def _run_request(app: GatewayApp, plan: RequestPlan, client: AsgiClient) -> None:
    await asyncio.sleep(plan.start_s)
    client.is_body_sent = _opens_after(plan.body_after_s)
    client.gone = _opens_after(plan.leave_after_s)
    await client.run(app)


def _body(plan: RequestPlan, more: str = "") -> bytes:
    flag = "true" if plan.is_streaming else "false"
    return f'{{"model":"{plan.model}","stream":{flag}{more}}}'.encode()


@settings(max_examples=150, deadline=None)
@given(plans=st.lists(ATTEMPTS, min_size=1, max_size=6), requests=st.lists(REQUESTS, min_size=1, max_size=6))
def test_gateway_any_interleaving_ends_in_one_outcome_each_and_zero_counters(
    plans: list[AttemptPlan], requests: list[RequestPlan]
) -> None:
    async def run() -> None:
        replicas = Replicas(plans)
        config = GatewayConfig(
            model_name="m", replicas=tuple(replicas.configs), timeouts=TIMEOUTS, body_timeout_s=8, max_attempts=3
        )
        telemetry = GatewayTelemetry()
        app, pool = build_app(
            config,
            [Replica(replica, replicas.fakes[replica.name]) for replica in replicas.configs],
            clock=LoopClock(),
            telemetry=telemetry,
        )
        clients = [AsgiClient(body=_body(plan)) for plan in requests]
        async with pool.watching(), asyncio.TaskGroup() as group:
            for plan, client in zip(requests, clients, strict=True):
                group.create_task(_run_request(app, plan, client))

        assert app.in_flight.count == 0
        assert [state.num_in_flight for state in pool.states] == [0, 0, 0]
        assert [fake.num_open for fake in replicas.fakes.values()] == [0, 0, 0]
        assert _sum_of(telemetry, names.REQUESTS + "_total") == len(requests)
        assert _sum_of(telemetry, names.REQUEST_DURATION + "_count") == len(requests)
        # each rung once, and retries within their budget
        assert replicas.num_attempts <= NUM_RUNGS * len(requests) + RESERVE_RETRIES
        _check_outcomes(telemetry, clients)

    run_in_virtual_time(run())


def _expected_outcome(client: AsgiClient) -> Outcome:
    """The outcome as the client saw it; nothing here knows how the gateway counts."""
    if client.is_complete:
        if client.status == 200:
            is_whole = client.reply_headers["content-type"] == "application/json" or client.text.endswith(
                b"data: [DONE]\n\n"
            )
            return Outcome.SERVED if is_whole else Outcome.FAILED
        return Outcome.REJECTED if client.status in {400, 404, 408, 429, 503} else Outcome.FAILED
    return Outcome.CANCELLED if client.gone.is_set() else Outcome.FAILED


FULL_CONFIG = GatewayConfig(
    model_name="m",
    replicas=tuple(Replicas([]).configs),
    timeouts=TIMEOUTS,
    body_timeout_s=8,
    max_attempts=3,
    dispatch=DispatchConfig(
        ladders={
            "m": LadderConfig(
                rungs=(
                    RungFacts(variant_name="fp16", concurrency=1, goodput_requests_per_s=1),
                    RungFacts(variant_name="int4", concurrency=2, goodput_requests_per_s=2, quality_loss=0.02),
                ),
                ttft_s=5,
            )
        },
        priorities={"batch": PriorityClass(importance=-1, max_wait_s=3, trimmed_output_tokens=4)},
        max_queued=2,
    ),
    tenants=TenantsConfig(
        limits={
            "a": LimitConfig(concurrent_requests=3, tokens_per_min=500),
            "b": LimitConfig(daily_tokens=60, monthly_usd=1.0),
            DEFAULT: LimitConfig(requests_per_min=2),
        },
        prices={DEFAULT: PriceConfig(usd_per_1m_output_tokens=10.0)},
    ),
    cache=CacheConfig(),
)


@dataclass
class FullGateway:
    """A gateway with all layers on, and what its accounting is read from."""

    app: GatewayApp
    stack: Stack
    pool: ReplicaPool
    ledger: Ledger
    telemetry: GatewayTelemetry


@asynccontextmanager
async def _full_gateway(replicas: Replicas) -> AsyncIterator[FullGateway]:
    clock, telemetry = LoopClock(), GatewayTelemetry()
    pool = ReplicaPool(
        [
            Replica(one, FirstTokenEngine(replicas.fakes[one.name], first_token_s=TIMEOUTS.first_token_s))
            for one in replicas.configs
        ],
        clock=clock,
        interval_s=1,
        served_model="m",
    )
    ledger = Ledger(MemoryStore(clock), clock, holder="test")
    store = MemoryResponseStore(max_bytes=2**20, clock=clock)
    stack = build_stack(pool, FULL_CONFIG, telemetry=telemetry, clock=clock, ledger=ledger, responses=store)
    authenticator = Authenticator(are_keys_required=False, unix_s=clock.unix_s, on_failure=telemetry.record_key_failure)
    authenticator.table = KeyTable(
        KeyRecord(prefix=tenant * 8, digest=digest_of(key), tenant=tenant) for tenant, key in KEYS.items()
    )
    app = GatewayApp(
        FULL_CONFIG,
        engine=stack.top,
        catalog=ModelCatalog("m", FULL_CONFIG.replicas, created_unix_s=0),
        pool=pool,
        telemetry=telemetry,
        authenticator=authenticator,
        clock=clock,
    )
    assert stack.cached is not None
    async with stack.cached.running(), pool.watching():
        yield FullGateway(app, stack, pool, ledger, telemetry)


def _full_client(plan: FullPlan) -> AsgiClient:
    message = f',"temperature":0,"max_tokens":16,"messages":[{{"role":"user","content":"{plan.prompt}"}}]'
    headers = [
        *JSON_HEADERS,
        (b"x-priority", plan.priority.encode()),
        (b"x-deadline-ms", str(plan.deadline_ms).encode()),
        (b"x-session-id", b"s"),
    ]
    if plan.tenant:
        headers.append((b"authorization", b"Bearer " + KEYS[plan.tenant].encode()))
    return AsgiClient(body=_body(plan.request, message), headers=tuple(headers))


@settings(max_examples=150, deadline=None)
@given(plans=st.lists(ATTEMPTS, min_size=1, max_size=6), requests=st.lists(FULL, min_size=1, max_size=8))
def test_gateway_with_everything_on_any_interleaving_leaves_all_accounting_at_zero(
    plans: list[AttemptPlan], requests: list[FullPlan]
) -> None:
    async def run() -> None:
        replicas = Replicas(plans)
        clients = [_full_client(plan) for plan in requests]
        async with _full_gateway(replicas) as gateway:
            async with asyncio.TaskGroup() as group:
                for number, (plan, client) in enumerate(zip(requests, clients, strict=True)):
                    # who leaves frees a place, and another one starts at that moment: never at one when that one leaves
                    leave_after_s = plan.request.leave_after_s + number / 1000
                    request = replace(plan.request, leave_after_s=leave_after_s)
                    group.create_task(_run_request(gateway.app, request, client))
            await asyncio.sleep(1)  # an answer is stored after its last client has it

            assert gateway.app.in_flight.count == 0
            assert gateway.ledger.num_reserved == 0
            assert gateway.stack.cached is not None
            assert gateway.stack.cached.flights.num_under_way == 0
            dispatcher = gateway.stack.admitted.dispatcher
            assert (dispatcher.num_in_flight, dispatcher.num_waiting, dispatcher.next_wake_s()) == (0, 0, None)
            assert [(one.used, one.tokens_ahead) for one in dispatcher.devices.values()] == [(0, 0)]
            assert [place.num_in_flight for place in dispatcher.ladders["m"].places] == [0, 0]
            assert [(state.num_in_flight, state.work_s) for state in gateway.pool.states] == [(0, 0)] * 3
            assert [fake.num_open for fake in replicas.fakes.values()] == [0, 0, 0]
            assert replicas.num_attempts <= NUM_RUNGS * len(requests) + RESERVE_RETRIES
            _check_outcomes(gateway.telemetry, clients)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_virtual_time(run())


def _check_outcomes(telemetry: GatewayTelemetry, clients: list[AsgiClient]) -> None:
    """One outcome each, and of the kind that clients saw; from outside an eviction is a refusal."""
    counted = {outcome: _sum_of(telemetry, names.REQUESTS + "_total", outcome=outcome) for outcome in Outcome}
    expected = [_expected_outcome(client) for client in clients]
    assert sum(counted.values()) == len(clients)
    assert counted[Outcome.SERVED] + counted[Outcome.DEGRADED] == expected.count(Outcome.SERVED)
    assert counted[Outcome.REJECTED] + counted[Outcome.EVICTED] == expected.count(Outcome.REJECTED)
    assert counted[Outcome.CANCELLED] == expected.count(Outcome.CANCELLED)
    assert counted[Outcome.FAILED] == expected.count(Outcome.FAILED)
