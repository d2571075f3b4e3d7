"""A gateway whose model sleeps, as its clients see it: held, kept alive, answered, refused."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.gateway.activation.test_holding import SLEEPING, Control

from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.app import GatewayApp
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.gateway.runtime import build_app
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.ports.engine import HopTimeouts
from lightship.ports.replica_control import ReplicaPhase, RungStatus
from lightship.testing.asgi_client import AsgiClient
from lightship.testing.fake_engine import FakeEngine, FakeReply, Script, always, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

TIMEOUTS = HopTimeouts(connect_s=1, first_token_s=60, next_token_s=5, total_s=600)
COMMENT = b": starting\n\n"
STREAM = b'{"model":"m","stream":true}'
WHOLE = b'{"model":"m"}'


class Gateway:
    """A gateway in front of one fake engine, whose model sleeps at first."""

    def __init__(self, script: Script | None = None, **activation: float) -> None:
        config = ReplicaConfig(name="r0", base_url="http://x", model_name="m", variant_name="fp16")
        gateway = GatewayConfig(
            model_name="m",
            replicas=(config,),
            timeouts=TIMEOUTS,
            activation=ActivationConfig(**{"keep_alive_s": 10.0, **activation}),  # type: ignore[arg-type]
        )
        self.control = Control(SLEEPING)
        fake = FakeEngine(script or always(stream_reply("a")), name="r0", timeouts=TIMEOUTS)
        built: tuple[GatewayApp, ReplicaPool] = build_app(
            gateway,
            [Replica(config, fake)],
            clock=LoopClock(),
            telemetry=GatewayTelemetry(),
            control=self.control,
        )
        self.app, self.pool = built

    async def answer(self, client: AsgiClient, *, awake_at_s: float | None) -> AsgiClient:
        """The client's request, during which the model wakes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run(self.app))
            if awake_at_s is not None:
                await asyncio.sleep(awake_at_s)
                self.control.statuses["m", 0] = RungStatus(phase=ReplicaPhase.READY, num_ready=1)
                self.pool.note_phase("r0", ReplicaPhase.READY)
        return client


def answered(body: bytes, *, awake_at_s: float | None, script: Script | None = None, **activation: float) -> AsgiClient:
    async def run() -> AsgiClient:
        return await Gateway(script, **activation).answer(AsgiClient(body=body), awake_at_s=awake_at_s)

    return run_in_virtual_time(run())


def test_app_model_that_wakes_soon_answers_as_ever_but_for_one_header() -> None:
    client = answered(STREAM, awake_at_s=2.0)
    assert client.status == 200
    assert client.text == stream_reply("a").body
    assert client.reply_headers["x-cold-start"] == "true"
    assert client.reply_headers["x-queue-ms"] == "2000.000"
    assert "x-served-variant" in client.reply_headers


def test_app_stream_held_for_long_is_kept_alive_by_comments() -> None:
    client = answered(STREAM, awake_at_s=35.0)
    assert client.status == 200
    assert client.reply_headers["content-type"].startswith("text/event-stream")
    assert client.reply_headers["x-cold-start"] == "true"
    assert "x-request-id" in client.reply_headers
    assert client.text == 3 * COMMENT + stream_reply("a").body  # after 10, 20 and 30 s


def test_app_whole_answer_held_for_long_gets_no_comments() -> None:
    client = answered(WHOLE, awake_at_s=35.0, script=always(FakeReply()))
    assert client.status == 200
    assert client.text == FakeReply().body


def test_app_stream_that_was_kept_alive_in_vain_ends_with_an_error_event() -> None:
    client = answered(STREAM, awake_at_s=None, hold_s=15.0)
    assert client.status == 200, "the status had gone out with the first comment"
    assert client.text.startswith(COMMENT + b'data: {"error":')
    assert b"did not wake in time" in client.text
    assert b"[DONE]" not in client.text


def test_app_model_that_does_not_wake_before_the_first_comment_is_a_503() -> None:
    client = answered(STREAM, awake_at_s=None, hold_s=5.0)
    assert (client.status, client.reply_headers["x-reject-reason"]) == (503, "deadline")
    assert int(client.reply_headers["retry-after"]) >= 1


def test_app_engine_s_refusal_after_comments_is_the_stream_s_only_event() -> None:
    refusal = FakeReply(
        chunks=(b'{"error":{"message":"no such\nthing","code":"bad"}}',),
        status=400,
        headers={"content-type": "application/json"},
    )
    client = answered(STREAM, awake_at_s=15.0, script=always(refusal))
    assert client.status == 200
    assert client.text.startswith(COMMENT + b"data: ")
    assert client.text.count(b"\n\n") == 2, "one comment, one event"
    assert b'"code":"bad"' in client.text


@pytest.mark.parametrize(
    ("status", "expected"), [(SLEEPING, 200), (RungStatus(phase=ReplicaPhase.FAILED, can_wake=False), 503)]
)
def test_app_readiness_sleeping_is_ready_and_hopeless_is_not(status: RungStatus, expected: int) -> None:
    async def run() -> AsgiClient:
        gateway = Gateway()
        gateway.control.statuses["m", 0] = status
        client = AsgiClient(method="GET", path="/health/ready")
        await client.run(gateway.app)
        return client

    assert run_in_virtual_time(run()).status == expected


def test_app_unknown_model_is_404_however_many_sleep() -> None:
    client = answered(b'{"model":"other"}', awake_at_s=None)
    assert client.status == 404
