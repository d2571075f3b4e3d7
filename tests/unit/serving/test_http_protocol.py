from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.unit.transport.wire import FakeTransport
from uvicorn.server import ServerState

from lightship.serving.http_protocol import HEAD_TIMEOUT_S, MAX_HEAD_BYTES, BoundedHttpProtocol
from lightship.testing.virtual_time import run_in_virtual_time

KEEP_ALIVE_S = 75
GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi"


class _Transport(FakeTransport):
    """Tells its protocol, a little later, that it is closed."""

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            assert isinstance(self.protocol, asyncio.Protocol)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1234), "sockname": ("192.0.2.2", 80)}.get(name, default)


class Client:
    """One connection to a server that runs an app."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(app, lifespan="off", timeout_keep_alive=KEEP_ALIVE_S, proxy_headers=False)
        config.load()
        self.state = ServerState()
        self.protocol = BoundedHttpProtocol(config, self.state, {}, asyncio.get_running_loop())
        self.transport = _Transport(self.protocol)
        self.protocol.connection_made(self.transport)

    async def send(self, *pieces: bytes) -> bytes:
        """What the server has answered when everything it can do is done."""
        for piece in pieces:
            if not self.transport.is_closed:
                self.protocol.data_received(piece)
        return await self.answer()

    async def answer(self) -> bytes:
        for _ in range(20):
            await asyncio.sleep(0)
        written, self.transport.written = self.transport.written, b""
        return written


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    content = f"{scope['method']} {scope['path']} ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


def run(app: ASGIApp, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        client = Client(app)
        await scenario(client)
        if not client.transport.is_closed:
            client.transport.close()
        await client.answer()
        assert client.state.connections == client.state.tasks == set()

    run_in_virtual_time(main())


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer with a length, one behind the other."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        length = int(headers[b"content-length"])
        found.append((int(lines[0].split()[1]), rest[:length]))
        raw = rest[length:]
    return found


def error_of(raw: bytes) -> tuple[int, str]:
    [(status, body)] = answers(raw)
    return status, json.loads(body)["error"]["code"]


def test_protocol_request_is_answered_wherever_reads_end() -> None:
    async def scenario(client: Client) -> None:
        for position in range(1, len(POST)):
            assert answers(await client.send(POST[:position], POST[position:])) == [(200, b"POST /a hi")]
        assert answers(await client.send(*(bytes([byte]) for byte in POST))) == [(200, b"POST /a hi")]
        assert client.state.total_requests == len(POST)

    run(echo, scenario)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/v1/models/a%20b?x=%31", "/v1/models/a b", b"x=%31"),
        (b"http://h/a", "/a", b""),
        (b"/a/../b", "/a/../b", b""),
        (b"/%2e%2e/a", "/../a", b""),
    ],
)
def test_protocol_address_is_given_as_asgi_wants_it(target: bytes, path: str, query: bytes) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async def scenario(client: Client) -> None:
        await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\nX-Name: v\r\n\r\n" % target)
        [scope] = seen
        assert (scope["path"], scope["query_string"]) == (path, query)
        assert scope["headers"] == [(b"host", b"h"), (b"x-name", b"v")]
        assert (scope["client"], scope["server"], scope["scheme"]) == (("192.0.2.1", 1234), ("192.0.2.2", 80), "http")

    run(app, scenario)


def test_protocol_pipelined_requests_are_answered_in_their_order() -> None:
    async def scenario(client: Client) -> None:
        raw = await client.send(POST.replace(b"hi", b"1x") + POST.replace(b"hi", b"2x") + POST.replace(b"hi", b"3x"))
        assert [body for _, body in answers(raw)] == [b"POST /a 1x", b"POST /a 2x", b"POST /a 3x"]
        assert answers(await client.send(GET)) == [(200, b"GET /a ")]

    run(echo, scenario)


SMUGGLING = {
    "length-and-chunked": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "two-lengths": b"content-length: 1\r\ncontent-length: 2\r\n\r\nhi",
    "length-in-a-list": b"content-length: 2, 2\r\n\r\nhi",
    "signed-length": b"content-length: +2\r\n\r\nhi",
    "spaced-length": b"content-length: 2 2\r\n\r\nhi",
    "huge-length": b"content-length: 99999999999999999999999\r\n\r\nhi",
    "coding-after-chunked": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding-before-chunked": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "obscured-chunked": b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "unknown-coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space-before-colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded-header": b"x: a\r\n transfer-encoding: chunked\r\n\r\n",
    "bare-carriage-return": b"x: a\rcontent-length: 2\r\n\r\nhi",
    "zero-byte": b"x: a\0\r\n\r\n",
    "second-host": b"host: other\r\n\r\n",
    "bad-chunk-size": b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "chunk-too-long": b"transfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLING.values(), ids=SMUGGLING)
def test_protocol_ambiguous_request_is_refused_and_what_follows_is_not_read(rest: bytes) -> None:
    async def scenario(client: Client) -> None:
        raw = await client.send(b"POST /a HTTP/1.1\r\nhost: h\r\n" + rest + GET)
        assert error_of(raw) == (400, "invalid_http")
        assert client.transport.is_closed

    run(echo, scenario)


@pytest.mark.parametrize(
    "raw",
    [
        b"no http at all\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: h\r\n\r\n",
    ],
    ids=["text", "no-host", "http2", "tls", "not-ascii", "no-address"],
)
def test_protocol_what_is_no_request_is_answered_with_an_error_object(raw: bytes) -> None:
    async def scenario(client: Client) -> None:
        assert error_of(await client.send(raw)) == (400, "invalid_http")
        assert client.transport.is_closed

    run(echo, scenario)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /a HTTP/1.1\r\nhost: h\r\nx: " + b"y" * MAX_HEAD_BYTES,
        b"GET /" + b"y" * MAX_HEAD_BYTES,
        b"GET /a HTTP/1.1\r\nhost: h\r\n" + b"x: y\r\n" * (MAX_HEAD_BYTES // 6),
        b"GET /a HTTP/1.1\r\nhost: h\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
    ids=["value", "address", "many", "complete"],
)
@pytest.mark.parametrize("read_bytes", [1000, 2**18])
def test_protocol_head_without_end_is_refused(raw: bytes, read_bytes: int) -> None:
    async def scenario(client: Client) -> None:
        pieces = [raw[position : position + read_bytes] for position in range(0, len(raw), read_bytes)]
        answered = await client.send(*pieces)
        assert error_of(answered) == (431, "headers_too_large")
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_large_body_behind_a_whole_request_is_no_large_head() -> None:
    async def scenario(client: Client) -> None:
        body = b"x" * (MAX_HEAD_BYTES + 1)
        request = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        raw = await client.send(request + GET[:10], GET[10:])
        assert [len(content) for _, content in answers(raw)] == [len(body) + 8, 7]

    run(echo, scenario)


def test_protocol_malformed_request_does_not_touch_the_answer_before_it() -> None:
    async def scenario(client: Client) -> None:
        answered = answers(await client.send(POST + b"rubbish\r\n\r\n"))
        assert answered[0] == (200, b"POST /a hi")
        assert answered[1][0] == 400
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_malformed_body_in_the_middle_of_an_answer_ends_it() -> None:
    ends: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (message := await receive())["type"] != "http.disconnect":
            pass
        ends.append(message["type"])

    async def scenario(client: Client) -> None:
        head = b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        assert (await client.send(head)).endswith(b"5\r\nbegun\r\n")
        assert await client.send(b"zz\r\n") == b""  # an error object in here would be taken for a part of the answer
        assert client.transport.is_closed
        assert ends == ["http.disconnect"]

    run(app, scenario)


def test_protocol_head_that_trickles_is_cut_in_time() -> None:
    async def scenario(client: Client) -> None:
        for byte in GET[:15]:
            client.protocol.data_received(bytes([byte]))
            await asyncio.sleep(1)
        assert not client.transport.is_closed
        await asyncio.sleep(HEAD_TIMEOUT_S - 15 + 0.1)
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_head_of_a_later_request_has_its_own_time() -> None:
    async def scenario(client: Client) -> None:
        await client.send(GET)
        await asyncio.sleep(50)
        await client.send(GET[:10])
        await asyncio.sleep(HEAD_TIMEOUT_S - 1)
        assert not client.transport.is_closed
        await asyncio.sleep(1.1)
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_idle_connection_is_closed_in_time_and_a_busy_one_is_not() -> None:
    async def scenario(client: Client) -> None:
        for _ in range(3):
            assert answers(await client.send(GET)) == [(200, b"GET /a ")]
            await asyncio.sleep(KEEP_ALIVE_S - 1)
        assert not client.transport.is_closed
        await asyncio.sleep(1.1)
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_slow_answer_outlives_every_idle_limit() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(10 * KEEP_ALIVE_S)
        await echo(scope, receive, send)

    async def scenario(client: Client) -> None:
        await client.send(GET)
        await asyncio.sleep(10 * KEEP_ALIVE_S + 1)
        assert answers(await client.answer()) == [(200, b"GET /a ")]

    run(app, scenario)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the body."""
    del scope, receive
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_protocol_early_answer_waits_a_little_for_the_rest_of_the_body() -> None:
    head = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n"

    async def comes(client: Client) -> None:
        assert answers(await client.send(head + b"12345")) == [(413, b"")]
        assert await client.send(b"67890") == b""
        await asyncio.sleep(10)
        assert answers(await client.send(GET)) == [(413, b"")]  # the connection is still of use

    async def never_comes(client: Client) -> None:
        await client.send(head + b"12345")
        await asyncio.sleep(5.1)
        assert client.transport.is_closed

    run(refuse, comes)
    run(refuse, never_comes)


def test_protocol_go_ahead_is_sent_when_the_body_is_wanted() -> None:
    head = b"POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"

    async def wanted(client: Client) -> None:
        assert await client.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert answers(await client.send(b"hi")) == [(200, b"POST /a hi")]

    async def unwanted(client: Client) -> None:
        assert answers(await client.send(head)) == [(413, b"")]

    run(echo, wanted)
    run(refuse, unwanted)


@pytest.mark.parametrize(
    "head",
    [b"GET /a HTTP/1.0\r\n", b"GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n"],
)
def test_protocol_last_request_of_a_connection_closes_it(head: bytes) -> None:
    async def scenario(client: Client) -> None:
        raw = await client.send(head + b"\r\n")
        assert b"connection: close\r\n" in raw
        assert answers(raw) == [(200, b"GET /a ")]
        assert client.transport.is_closed

    run(echo, scenario)


def test_protocol_head_request_has_the_headers_and_no_body() -> None:
    async def scenario(client: Client) -> None:
        raw = await client.send(b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n")
        assert raw.endswith(b"content-length: 8\r\n\r\n")
        assert answers(await client.send(GET)) == [(200, b"GET /a ")]

    run(echo, scenario)


def test_protocol_wish_for_another_protocol_is_passed_over() -> None:
    async def scenario(client: Client) -> None:
        wish = POST.replace(b"host: h", b"host: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c")
        raw = await client.send(wish + GET)
        assert answers(raw) == [(200, b"POST /a hi"), (200, b"GET /a ")]

    run(echo, scenario)


def test_protocol_streamed_answer_is_chunked_and_goes_out_piece_by_piece() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"last", "more_body": True})
        await send({"type": "http.response.body"})

    async def scenario(client: Client) -> None:
        head = b"HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n"
        assert await client.send(GET) == head + b"5\r\nfirst\r\n"
        gate.set()
        assert await client.answer() == b"4\r\nlast\r\n0\r\n\r\n"

    run(app, scenario)


def test_protocol_app_that_sends_waits_for_a_client_that_does_not_read() -> None:
    num_sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal num_sent
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            num_sent += 1
            await asyncio.sleep(1)

    async def scenario(client: Client) -> None:
        client.protocol.pause_writing()
        await client.send(GET)
        await asyncio.sleep(10)
        assert num_sent == 0
        client.protocol.resume_writing()
        await asyncio.sleep(10)
        assert num_sent == 10
        client.protocol.pause_writing()
        await asyncio.sleep(client.protocol.send_timeout_s + 0.1)
        assert client.transport.is_closed
        for task in client.state.tasks:
            task.cancel()

    run(app, scenario)


def test_protocol_failing_app_is_a_500_or_a_visibly_broken_answer() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if scope["path"] == "/held":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] != "/silent":
            raise ZeroDivisionError

    async def scenario(client: Client) -> None:
        for path in (b"/", b"/held", b"/silent"):
            raw = await client.send(b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n" % path)
            assert error_of(raw)[0] == 500
        raw = await client.send(b"GET /begun HTTP/1.1\r\nhost: h\r\n\r\n")
        assert raw.endswith(b"1\r\nx\r\n")
        assert client.transport.is_closed

    run(fails, scenario)


@pytest.mark.parametrize("value", [b"a\r\nx: b", b"a\nx: b", b"a\rb", b"a\0b"])
def test_protocol_header_that_would_begin_another_one_is_not_sent(value: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", value)]})
        await send({"type": "http.response.body", "body": b""})

    async def scenario(client: Client) -> None:
        assert error_of(await client.send(GET))[0] == 500

    run(app, scenario)


def test_protocol_answer_of_another_length_than_it_says_is_cut() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hell", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def scenario(client: Client) -> None:
        assert (await client.send(GET)).endswith(b"\r\n\r\nhell")
        assert client.transport.is_closed

    run(app, scenario)


def test_protocol_client_that_leaves_is_told_to_the_app() -> None:
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        messages.append(await receive())
        messages.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})  # goes nowhere, and does no harm

    async def scenario(client: Client) -> None:
        await client.send(POST)
        client.transport.close()
        await client.answer()
        assert messages == [
            {"type": "http.request", "body": b"hi", "more_body": False},
            {"type": "http.disconnect"},
        ]

    run(app, scenario)


def test_protocol_shutdown_closes_idle_connections_now_and_others_after_their_answer() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    async def idle(client: Client) -> None:
        gate.set()
        await client.send(GET)
        client.protocol.shutdown()
        assert client.transport.is_closed

    async def busy(client: Client) -> None:
        gate.clear()
        await client.send(GET)
        client.protocol.shutdown()
        assert not client.transport.is_closed
        gate.set()
        assert b"connection: close\r\n" in await client.answer()
        assert client.transport.is_closed

    run(app, idle)
    run(app, busy)
