from __future__ import annotations

import asyncio
import logging

import pytest

from lightship.engines.remote import ProbeResult
from lightship.gateway.app import GatewayApp
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.gateway.runtime import build_app
from lightship.gateway.telemetry import GatewayTelemetry, RequestRecord
from lightship.ports.engine import EngineCall, HopTimeouts
from lightship.testing.asgi_client import JSON_HEADERS, AsgiClient
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, always, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

TIMEOUTS = HopTimeouts(connect_s=1, first_token_s=10, next_token_s=5, total_s=30)
GOOD = always(stream_reply("a"))


def gateway(script: Script = GOOD, *, max_in_flight: int = 100) -> tuple[GatewayApp, ReplicaPool, FakeEngine]:
    replica = ReplicaConfig(
        name="r0", base_url="http://x", model_name="m", variant_name="fp16", variant_digest="sha256:ab"
    )
    config = GatewayConfig(model_name="m", replicas=(replica,), timeouts=TIMEOUTS, max_in_flight=max_in_flight)
    fake = FakeEngine(script, name="r0", timeouts=TIMEOUTS)
    app, pool = build_app(config, [Replica(replica, fake)], clock=LoopClock(), telemetry=GatewayTelemetry())
    return app, pool, fake


def answer(client: AsgiClient, script: Script = GOOD) -> AsgiClient:
    async def run() -> None:
        app, pool, _ = gateway(script)
        await pool.probe_all()
        await client.run(app)

    run_in_virtual_time(run())
    return client


def test_app_stream_arrives_with_the_headers_of_the_gateway() -> None:
    client = answer(AsgiClient(headers=(*JSON_HEADERS, (b"x-request-id", b"mine-1"))))
    assert client.text == stream_reply("a").body
    headers = dict(client.reply_headers)
    assert float(headers.pop("x-overhead-ms")) >= 0
    assert headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "x-request-id": "mine-1",
        "x-served-variant": "sha256:ab",
        "x-degraded": "no",
        "x-quality-loss": "0.0000",
        "x-queue-ms": "0.000",
    }


@pytest.mark.parametrize("sent", [b"a\x00b", b"a\x1b[31m", b"a b", b"x" * 200, b"", b"caf\xe9", b'"}'])
def test_app_request_id_that_is_not_plain_is_replaced(sent: bytes) -> None:
    client = answer(AsgiClient(headers=(*JSON_HEADERS, (b"x-request-id", sent))))
    assert client.reply_headers["x-request-id"].startswith("req-")


def test_app_only_known_headers_go_to_the_replica() -> None:
    async def run() -> None:
        app, pool, fake = gateway()
        await pool.probe_all()
        sent = ((b"authorization", b"Bearer k"), (b"x-served-variant", b"lie"), (b"traceparent", b"00-1-2-01"))
        await AsgiClient(headers=(*JSON_HEADERS, *sent)).run(app)
        assert fake.calls[0].headers == {"traceparent": "00-1-2-01"}

    run_in_virtual_time(run())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("HEAD", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("POST", "/v1/chat/completions/", 404, "route_not_found"),
    ],
)
def test_app_wrong_address_is_an_openai_error(method: str, path: str, status: int, code: str) -> None:
    client = answer(AsgiClient(method=method, path=path))
    assert (client.status, client.error["code"], client.error["origin"]) == (status, code, "gateway")
    assert "x-request-id" in client.reply_headers


def test_app_model_that_does_not_exist_lists_those_that_do() -> None:
    client = answer(AsgiClient(body=b'{"model":"%s"}' % (b"z" * 100_000)))
    assert (client.status, client.error["code"]) == (404, "model_not_found")
    assert "Available: m, m@fp16." in client.error["message"]
    assert len(client.text) < 1000


def test_app_over_the_limit_of_requests_under_way_is_saturated() -> None:
    async def run() -> None:
        app, pool, _ = gateway(always(FakeReply(fault=Fault.HANG)), max_in_flight=1)
        await pool.probe_all()
        waiting, refused = AsgiClient(), AsgiClient()
        async with asyncio.TaskGroup() as group:
            group.create_task(waiting.run(app))
            await asyncio.sleep(1)
            await refused.run(app)
            waiting.gone.set()
        assert (refused.status, refused.reply_headers["x-reject-reason"]) == (503, "saturated")

    run_in_virtual_time(run())


def test_app_draining_refuses_new_requests_and_is_not_ready() -> None:
    async def run() -> None:
        app, pool, _ = gateway()
        await pool.probe_all()
        app.in_flight.start_draining()
        request, ready, live = AsgiClient(), *(AsgiClient(path=f"/health/{x}", method="GET") for x in ("ready", "live"))
        for client in (request, ready, live):
            await client.run(app)
        assert (request.status, request.reply_headers["x-reject-reason"]) == (503, "shutdown")
        assert int(request.reply_headers["retry-after"]) >= 1
        assert (ready.status, live.status) == (503, 200)

    run_in_virtual_time(run())


def test_app_total_limit_ends_a_stream_that_never_does() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        app, pool, _ = gateway(always(stream_reply("a", "b", next_gate=gate, first_gate=gate)))
        await pool.probe_all()
        client = AsgiClient()  # not a stream by its own word, so the whole time counts for the first byte
        await client.run(app)
        assert (client.status, client.error["code"]) == (504, "upstream_timeout")
        assert asyncio.get_running_loop().time() == pytest.approx(30)

    run_in_virtual_time(run())


def test_app_bug_is_a_500_that_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: EngineCall) -> FakeReply:
        raise ZeroDivisionError

    client = answer(AsgiClient(headers=(*JSON_HEADERS, (b"x-request-id", b"mine-2"))), broken)
    assert (client.status, client.error["code"]) == (500, "internal_error")
    assert "mine-2" in client.error["message"]
    assert "ZeroDivisionError" in caplog.text


def test_app_engines_own_error_event_is_not_followed_by_another() -> None:
    event = b'data: {"error":{"message":"out of memory, and a longer text about that","code":null}}\n\n'
    reply = FakeReply(chunks=(b'data: {"x":1}\n\n', event), headers={"content-type": "text/event-stream"})
    client = answer(AsgiClient(), always(reply))
    assert client.text == reply.body
    assert client.is_complete


def test_app_cut_event_is_not_passed_on() -> None:
    reply = FakeReply(
        chunks=(b'data: {"x":', b"1"), headers={"content-type": "text/event-stream"}, fault=Fault.CLOSE_AFTER_CHUNKS
    )
    client = answer(AsgiClient(), always(reply))
    (event,) = client.text.removesuffix(b"\n\n").split(b"\n\n")
    assert event.startswith(b'data: {"error":{')


def test_app_access_log_has_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lightship.gateway.access"):
        answer(AsgiClient(body=b'{"model":"m","prompt":"my secret"}'))
    (record,) = [record for record in caplog.records if record.name == "lightship.gateway.access"]
    assert '"outcome":"served","status":200,"replica":"r0"' in record.getMessage()
    assert "secret" not in caplog.text


def test_telemetry_fault_does_not_reach_the_request(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = GatewayTelemetry()
    record = RequestRecord("/v1/completions", "r", started_s=0.0, num_bytes=1)
    record.first_byte_s = "not a number"  # type: ignore[assignment] # the fault
    telemetry.record_request(record, ended_s=1.0)
    assert "a request was not counted" in caplog.text


def test_app_readiness_lower_rung_alone_is_ready() -> None:
    async def run() -> tuple[int, int]:
        rungs = [
            ReplicaConfig(name=f"r{rung}", base_url="http://x", model_name="m", variant_name=f"v{rung}", rung=rung)
            for rung in (0, 1)
        ]
        fakes = [FakeEngine(GOOD, name=one.name) for one in rungs]
        fakes[0].probe_result = fakes[1].probe_result = ProbeResult.UNREACHABLE
        config = GatewayConfig(model_name="m", replicas=tuple(rungs), timeouts=TIMEOUTS)
        replicas = [Replica(one, fake) for one, fake in zip(rungs, fakes, strict=True)]
        app, pool = build_app(config, replicas, clock=LoopClock(), telemetry=GatewayTelemetry())
        statuses = []
        for result in (ProbeResult.UNREACHABLE, ProbeResult.READY):
            fakes[1].probe_result = result
            await pool.probe_all()
            client = AsgiClient(method="GET", path="/health/ready")
            await client.run(app)
            statuses.append(client.status)
        return statuses[0], statuses[1]

    assert run_in_virtual_time(run()) == (503, 200)
