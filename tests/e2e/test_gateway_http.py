"""The gateway on a real socket in front of real (fake) HTTP servers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import pytest
import uvloop

from lightship.gateway.app import GatewayApp
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.runtime import running_gateway
from lightship.ports.engine import HopTimeouts
from lightship.serving.http_protocol import MAX_HEAD_BYTES
from lightship.testing.asgi_server import serving_app
from lightship.testing.fake_engine import FakeReply, Fault, Script, always, error_reply, in_turn, stream_reply
from lightship.testing.fake_upstream import FakeUpstream

CHAT = "/v1/chat/completions"
STREAM_BODY = b'{"model":"m","stream":true}'
WHOLE_BODY = b'{"model": "m"}'
PATIENT = HopTimeouts(connect_s=5, first_token_s=20, next_token_s=20, total_s=20)
HASTY = HopTimeouts(connect_s=5, first_token_s=0.05, next_token_s=0.05, total_s=0.1)


@dataclass
class Running:
    """A gateway, its upstreams, and a client session at it."""

    url: str
    app: GatewayApp
    upstreams: list[FakeUpstream]
    session: aiohttp.ClientSession

    async def post(self, body: bytes = WHOLE_BODY, path: str = CHAT) -> tuple[aiohttp.ClientResponse, bytes]:
        headers = {"content-type": "application/json"}
        async with self.session.post(self.url + path, data=body, headers=headers) as response:
            return response, await response.read()

    async def count(self, line_start: str) -> float:
        """A sum over metrics, once every request is over: the last byte comes before the end."""
        assert await self.app.in_flight.wait_until_idle(timeout_s=10)
        async with self.session.get(self.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    async def wait_until_idle(self) -> None:
        assert await self.count("lightship_requests_in_flight{") == 0


@asynccontextmanager
async def running(
    *scripts: Script, timeouts: HopTimeouts = PATIENT, model_name: str = "m", is_ladder: bool = False
) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(20))
        upstreams = [await stack.enter_async_context(FakeUpstream(script).serving()) for script in scripts]
        replicas = tuple(
            ReplicaConfig(
                name=f"r{number}",
                base_url=upstream.base_url,
                model_name=model_name,
                variant_name=f"v{number if is_ladder else 0}",
                variant_digest=f"sha256:{number if is_ladder else 0}",
                rung=number if is_ladder else 0,
            )
            for number, upstream in enumerate(upstreams)
        )
        config = GatewayConfig(
            model_name="m", replicas=replicas, timeouts=timeouts, body_limit_bytes=2**21, health_interval_s=3600
        )
        app = await stack.enter_async_context(running_gateway(config))
        url = await stack.enter_async_context(serving_app(app))
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        yield Running(url, app, upstreams, session)


def check(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    uvloop.run(run())


def test_gateway_stream_is_byte_for_byte_and_not_held_back() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        reply = stream_reply("a", "ü", next_gate=gate)
        async with running(always(reply)) as gateway:
            headers = {"content-type": "application/json; charset=utf-8"}
            async with gateway.session.post(gateway.url + CHAT, data=STREAM_BODY, headers=headers) as response:
                assert await response.content.readexactly(len(reply.chunks[0])) == reply.chunks[0]
                gate.set()
                assert await response.read() == b"".join(reply.chunks[1:])
            assert response.headers["x-served-variant"] == "sha256:0"
            assert await gateway.count('lightship_requests_total{model="m",outcome="served"') == 1
            assert await gateway.count('lightship_attempts_total{replica="r0",result="complete"}') == 1

    check(scenario)


def test_gateway_request_body_reaches_the_replica_unchanged_even_in_pieces() -> None:
    async def scenario() -> None:
        async with running(always(FakeReply())) as gateway:

            async def pieces() -> AsyncIterator[bytes]:
                for piece in (b'{"mo', b'del" :\n"m", "x":1.0e5, "y":"\\u00fc', b'", "x":1}'):
                    yield piece

            headers = {"content-type": "application/json"}
            async with gateway.session.post(gateway.url + CHAT, data=pieces(), headers=headers) as response:
                assert response.status == 200
            large = b'{"model":"m","x":"' + b"y" * (2**21 - 20) + b'"}'
            async with gateway.session.post(gateway.url + CHAT, data=io.BytesIO(large), headers=headers) as response:
                assert response.status == 200
            assert [request.body for request in gateway.upstreams[0].requests] == [
                b'{"model" :\n"m", "x":1.0e5, "y":"\\u00fc", "x":1}',
                large,
            ]

    check(scenario)


def test_gateway_addressed_rung_gets_its_own_model_name() -> None:
    async def scenario() -> None:
        async with running(always(FakeReply()), always(FakeReply()), model_name="org/other", is_ladder=True) as gateway:
            response, _ = await gateway.post(b'{ "model" : "m@v1", "a":[1] }')
            assert response.headers["x-degraded"] == "rung=1; reason=explicit"
            assert response.headers["x-served-variant"] == "sha256:1"
            assert [len(upstream.requests) for upstream in gateway.upstreams] == [0, 1]
            assert gateway.upstreams[1].requests[0].body == b'{ "model" : "org/other", "a":[1] }'
            async with gateway.session.get(gateway.url + "/v1/models") as models:
                assert [card["id"] for card in (await models.json())["data"]] == ["m", "m@v0", "m@v1"]

    check(scenario)


def test_gateway_clients_mistake_is_answered_by_the_engine_byte_for_byte() -> None:
    async def scenario() -> None:
        reply = error_reply(400, "n is too large")
        async with running(always(reply), always(reply)) as gateway:
            response, body = await gateway.post()
            assert (response.status, body) == (400, reply.body)
            assert sum(len(upstream.requests) for upstream in gateway.upstreams) == 1
            assert await gateway.count('lightship_requests_total{model="m",outcome="rejected"') == 1

    check(scenario)


FAULTS = {
    "500": error_reply(500),
    "503": error_reply(503),
    "close": FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE),
    "hang": FakeReply(fault=Fault.HANG),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_gateway_failed_attempt_is_repeated_at_another_replica(fault: str) -> None:
    async def scenario() -> None:
        timeouts = replace(PATIENT, first_token_s=0.1)
        async with running(always(FAULTS[fault]), always(stream_reply("a")), timeouts=timeouts) as gateway:
            response, body = await gateway.post(STREAM_BODY)
            assert (response.status, body) == (200, stream_reply("a").body)
            assert [len(upstream.requests) for upstream in gateway.upstreams] == [1, 1]

    check(scenario)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (error_reply(503, "queue full"), 503, "scripted"),
        (FakeReply(status=502, chunks=(b"<html>",)), 502, "upstream_error"),
        (FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE), 502, "upstream_error"),
        (FakeReply(fault=Fault.HANG), 504, "upstream_timeout"),
        (FakeReply(chunks=()), 502, "upstream_error"),
        (FakeReply(status=302, headers={"location": "http://elsewhere"}), 502, "upstream_error"),
    ],
    ids=["503", "html", "close", "hang", "empty", "redirect"],
)
def test_gateway_all_attempts_failed_is_one_openai_error(reply: FakeReply, status: int, code: str) -> None:
    async def scenario() -> None:
        async with running(always(reply), always(reply), timeouts=HASTY) as gateway:
            response, body = await gateway.post(STREAM_BODY)
            assert (response.status, json.loads(body)["error"]["code"]) == (status, code)
            await gateway.wait_until_idle()

    check(scenario)


def test_gateway_replica_that_dies_is_left_out_after_failed_connects() -> None:
    async def scenario() -> None:
        upstream = FakeUpstream(always(FakeReply()))
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            server = await stack.enter_async_context(AsyncExitStack())
            await server.enter_async_context(upstream.serving())
            replica = ReplicaConfig(name="r0", base_url=upstream.base_url, model_name="m", variant_name="v0")
            config = GatewayConfig(model_name="m", replicas=(replica,), timeouts=PATIENT, health_interval_s=3600)
            app = await stack.enter_async_context(running_gateway(config))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            gateway = Running(await stack.enter_async_context(serving_app(app)), app, [upstream], session)
            statuses = [(await gateway.post())[0].status]
            await server.aclose()
            statuses += [(await gateway.post())[0].status for _ in range(3)]
            async with session.get(gateway.url + "/health/ready") as ready:
                statuses.append(ready.status)
        assert statuses == [200, 502, 502, 503, 503]

    check(scenario)


def test_gateway_stream_that_breaks_ends_with_an_error_event_and_no_done() -> None:
    async def scenario() -> None:
        reply = stream_reply("a", fault=Fault.CLOSE_AFTER_CHUNKS)
        async with running(always(reply), always(stream_reply("never"))) as gateway:
            response, body = await gateway.post(STREAM_BODY)
            first, event = body.removesuffix(b"\n\n").split(b"\n\n")
            assert (response.status, first + b"\n\n") == (200, reply.body)
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
            assert sum(len(upstream.requests) for upstream in gateway.upstreams) == 1
            assert await gateway.count('lightship_requests_total{model="m",outcome="failed"') == 1

    check(scenario)


@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "length"])
def test_gateway_whole_answer_that_breaks_is_visibly_not_whole(is_chunked: bool) -> None:
    async def scenario() -> None:
        reply = FakeReply(chunks=(b'{"choices":',), fault=Fault.CLOSE_AFTER_CHUNKS, is_chunked=is_chunked)
        async with running(always(reply)) as gateway:
            with pytest.raises(aiohttp.ClientPayloadError):
                await gateway.post()
            assert await gateway.count('lightship_requests_total{model="m",outcome="failed"') == 1

    check(scenario)


@pytest.mark.parametrize("has_begun", [False, True])
def test_gateway_client_that_leaves_stops_the_replica(has_begun: bool) -> None:
    async def scenario() -> None:
        never = asyncio.Event()
        reply = stream_reply("a", "b", next_gate=never) if has_begun else stream_reply("a", first_gate=never)
        async with running(always(reply)) as gateway:
            host, port = gateway.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (CHAT.encode(), len(STREAM_BODY), STREAM_BODY)
            )
            upstream = gateway.upstreams[0]
            await upstream.wait_for_requests(1)
            if has_begun:
                await reader.readuntil(b"data: ")
            writer.close()
            await upstream.wait_for_abandoned(1)
            assert await gateway.count('lightship_requests_total{model="m",outcome="cancelled"') == 1
            await gateway.wait_until_idle()

    check(scenario)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"model":"m","x":"\xff"}', "application/json", 400, "invalid_json"),
        (b'{"model":"m","x":' + b"[" * 10**6 + b"]" * 10**6 + b"}", "application/json", 400, "invalid_json"),
        (b'{"model":"m"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"model":"m","x":"' + b"y" * 2**21 + b'"}', "application/json", 413, "payload_too_large"),
        (b'{"model":"no"}', "application/json", 404, "model_not_found"),
    ],
    ids=["json", "utf8", "nested", "type", "large", "model"],
)
def test_gateway_bad_request_never_reaches_a_replica(body: bytes, content_type: str, status: int, code: str) -> None:
    async def scenario() -> None:
        async with running(always(FakeReply())) as gateway:
            headers = {"content-type": content_type}
            async with gateway.session.post(gateway.url + CHAT, data=io.BytesIO(body), headers=headers) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (status, code)
            assert gateway.upstreams[0].requests == []

    check(scenario)


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n", 431, "headers_too_large"),
        (b"no http at all\r\n\r\n", 400, "invalid_http"),
    ],
    ids=["large", "malformed"],
)
def test_gateway_bad_head_is_an_openai_error(request_bytes: bytes, status: int, code: str) -> None:
    async def scenario() -> None:
        async with running(always(FakeReply())) as gateway:
            host, port = gateway.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request_bytes)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert json.loads(body)["error"]["code"] == code

    check(scenario)


def test_gateway_head_request_has_no_body() -> None:
    async def scenario() -> None:
        async with running(always(FakeReply())) as gateway:
            async with gateway.session.head(gateway.url + "/v1/models") as response:
                assert (response.status, await response.read()) == (200, b"")
            async with gateway.session.head(gateway.url + CHAT) as response:
                assert (response.status, response.headers["allow"]) == (405, "POST")

    check(scenario)


def test_gateway_connections_to_a_replica_are_used_again() -> None:
    async def scenario() -> None:
        async with running(in_turn(FakeReply(), stream_reply("a"), error_reply(400), FakeReply())) as gateway:
            for _ in range(4):
                await gateway.post()
            assert gateway.upstreams[0].num_connections == 1

    check(scenario)
