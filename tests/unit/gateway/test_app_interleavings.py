"""Whatever happens in whatever order: one outcome per request, and every counter back at zero."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.gateway.app import GatewayApp
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.routing.replica import Replica
from lightship.gateway.routing.retrying import RESERVE_RETRIES
from lightship.gateway.runtime import build_app
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.observability import names
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts, Outcome
from lightship.testing.asgi_client import AsgiClient
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, error_reply, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

TIMEOUTS = HopTimeouts(connect_s=1, first_token_s=10, next_token_s=5, total_s=30)
STAYS = 10_000
# Everything else happens on whole seconds: who is first decides the outcome, so nobody leaves at such a moment.
NEVER_A_TIE_S = 0.25


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


ATTEMPTS = st.builds(
    AttemptPlan,
    kind=st.sampled_from(
        ["good", "good", "whole", "400", "500", "503", "html", "hang", "close", "break", "stall", "no-done", "refuse"]
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
    flag = "true" if plan.is_streaming else "false"
    client.body = f'{{"model":"{plan.model}","stream":{flag}}}'.encode()
    client.is_body_sent = _opens_after(plan.body_after_s)
    client.gone = _opens_after(plan.leave_after_s)
    await client.run(app)


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
        clients = [AsgiClient() for _ in requests]
        async with pool.watching(), asyncio.TaskGroup() as group:
            for plan, client in zip(requests, clients, strict=True):
                group.create_task(_run_request(app, plan, client))

        assert app.in_flight.count == 0
        assert [state.num_in_flight for state in pool.states] == [0, 0, 0]
        assert [fake.num_open for fake in replicas.fakes.values()] == [0, 0, 0]
        assert _sum_of(telemetry, names.REQUESTS + "_total") == len(requests)
        assert _sum_of(telemetry, names.REQUEST_DURATION + "_count") == len(requests)
        assert replicas.num_attempts <= len(requests) + RESERVE_RETRIES
        expected = sorted(_expected_outcome(client) for client in clients)
        counted = {outcome: _sum_of(telemetry, names.REQUESTS + "_total", outcome=outcome) for outcome in Outcome}
        assert counted == {outcome: expected.count(outcome) for outcome in Outcome}

    run_in_virtual_time(run())


def _expected_outcome(client: AsgiClient) -> Outcome:
    """The outcome as the client saw it; nothing here knows how the gateway counts."""
    if client.is_complete:
        if client.status == 200:
            is_whole = client.reply_headers["content-type"] == "application/json" or client.text.endswith(
                b"data: [DONE]\n\n"
            )
            return Outcome.SERVED if is_whole else Outcome.FAILED
        return Outcome.REJECTED if client.status in {400, 404, 408, 503} else Outcome.FAILED
    return Outcome.CANCELLED if client.gone.is_set() else Outcome.FAILED
