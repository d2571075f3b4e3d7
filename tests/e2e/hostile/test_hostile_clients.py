"""What clients do that no client should, over bare sockets, to a real gateway process.

After each case every counter is back at zero and the next client is served.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.server_config import ServerConfig
from lightship.ports.engine import HopTimeouts

pytestmark = pytest.mark.slow

MODEL = "good"
BODY_LIMIT_BYTES = 2**20
BODY_TIMEOUT_S = 1.0
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BODY = json.dumps({"model": MODEL, "prompt": "Once", "max_tokens": 2}).encode()
STREAM_BODY = json.dumps(
    {"model": MODEL, "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True}
).encode()
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# More than one request's worth, far less than what an attack could make it take.
MEMORY_SLACK_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def running(simulated_url: str, tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway before one simulated worker, with short limits."""
    replica = ReplicaConfig(name="r0", base_url=simulated_url, model_name=MODEL, variant_name="v")
    config = GatewayConfig(
        model_name=MODEL,
        replicas=(replica,),
        port=0,
        timeouts=HopTimeouts(connect_s=5, first_token_s=10, next_token_s=10, total_s=20),
        body_limit_bytes=BODY_LIMIT_BYTES,
        body_timeout_s=BODY_TIMEOUT_S,
        drain_timeout_s=5,
        server=ServerConfig(send_timeout_s=1.0),
    )
    with tools.gateway(config, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Any) -> Iterator[Any]:
    """The gateway; unharmed after each test, in counters and in memory."""
    running.assert_unharmed()
    before_bytes = running.memory_bytes()
    running.reset_peak()
    yield running
    running.assert_unharmed()
    assert running.memory_bytes("VmHWM") - before_bytes < MEMORY_SLACK_BYTES


def request(*lines: str, body: bytes = BODY, start: str = f"POST {TEXT} HTTP/1.1", host: str = "host: x") -> bytes:
    """A request as it is written here, with nothing added but a host and a content type."""
    head = "\r\n".join(line for line in (start, host, "content-type: application/json", *lines) if line)
    return head.encode("latin-1") + b"\r\n\r\n" + body


LENGTH = f"content-length: {len(BODY)}"
CHUNKED_BODY = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@dataclass(frozen=True)
class Shape:
    """Bytes that are no proper request, or barely one; the status of the answer, and the error code in it."""

    raw: bytes
    status: int
    code: str | None = "invalid_http"


SHAPES = {
    "cl-and-te": Shape(request(LENGTH, "transfer-encoding: chunked", body=CHUNKED_BODY), 400),
    "te-and-cl": Shape(request("transfer-encoding: chunked", LENGTH, body=CHUNKED_BODY), 400),
    "two-lengths": Shape(request(LENGTH, "content-length: 3"), 400),
    "two-equal-lengths": Shape(request(LENGTH, LENGTH), 400),
    "length-list": Shape(request(f"content-length: {len(BODY)}, {len(BODY)}"), 400),
    "length-plus": Shape(request(f"content-length: +{len(BODY)}"), 400),
    "length-hex": Shape(request("content-length: 0x30"), 400),
    "length-negative": Shape(request("content-length: -1"), 400),
    "length-huge": Shape(request("content-length: 99999999999999999999999999"), 400),
    "length-over-limit": Shape(request(f"content-length: {2**40}"), 413, "payload_too_large"),
    "te-unknown": Shape(request("transfer-encoding: xchunked", body=CHUNKED_BODY), 400),
    "te-identity": Shape(request("transfer-encoding: identity"), 400),
    "te-list": Shape(request("transfer-encoding: chunked, identity", body=CHUNKED_BODY), 400),
    "te-gzip": Shape(request("transfer-encoding: gzip, chunked", body=CHUNKED_BODY), 400),
    "te-twice": Shape(request("transfer-encoding: chunked", "transfer-encoding: identity", body=CHUNKED_BODY), 400),
    "te-space-before-colon": Shape(request("transfer-encoding : chunked", body=CHUNKED_BODY), 400),
    "te-tab": Shape(request("transfer-encoding:\tchunked\x0b", body=CHUNKED_BODY), 400),
    "te-quoted": Shape(request('transfer-encoding: "chunked"', body=CHUNKED_BODY), 400),
    "obs-fold": Shape(request("x-a: b\r\n c", LENGTH), 400),
    "obs-fold-te": Shape(request("transfer-encoding:\r\n chunked", body=CHUNKED_BODY), 400),
    "bare-lf": Shape(request(LENGTH).replace(b"\r\n", b"\n"), 400),
    "bare-cr-in-value": Shape(request("x-request-id: a\rx-evil: b", LENGTH), 400),
    "bare-lf-in-value": Shape(request("x-request-id: a\nx-evil: b", LENGTH), 400),
    "nul-in-value": Shape(request("x-a: \x00", LENGTH), 400),
    "nul-in-name": Shape(request("x\x00a: b", LENGTH), 400),
    "no-colon": Shape(request("x-a", LENGTH), 400),
    "space-in-name": Shape(request("x a: b", LENGTH), 400),
    "two-hosts": Shape(request("host: y", LENGTH), 400),
    "no-host": Shape(request(LENGTH, host=""), 400),
    "chunk-size-negative": Shape(request("transfer-encoding: chunked", body=b"-1\r\n"), 400),
    "chunk-size-hex-prefix": Shape(request("transfer-encoding: chunked", body=b"0x30\r\n"), 400),
    "chunk-size-huge": Shape(request("transfer-encoding: chunked", body=b"f" * 40 + b"\r\n"), 400),
    "chunk-no-crlf": Shape(request("transfer-encoding: chunked", body=b"2\r\n{}XX0\r\n\r\n"), 400),
    "chunk-bare-lf": Shape(request("transfer-encoding: chunked", body=CHUNKED_BODY.replace(b"\r\n", b"\n")), 400),
    "version-2": Shape(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "version-unknown": Shape(request(LENGTH, start=f"POST {TEXT} HTTP/1.7"), 400),
    "connect": Shape(b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n", 400),
    "trailer-of-the-framing": Shape(
        request("transfer-encoding: chunked", body=CHUNKED_BODY.removesuffix(b"\r\n") + b"content-length: 3\r\n\r\n"),
        400,
    ),
    "version-none": Shape(b"GET /v1/models\r\n\r\n", 400),
    "target-relative": Shape(b"GET v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "target-with-space": Shape(b"GET /v1/mod els HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "method-unknown": Shape(b"FETCH /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "method-lower": Shape(b"get /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "tls-hello": Shape(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),
    "binary": Shape(bytes(range(256)), 400),
    "head-large": Shape(request("x-a: " + "b" * 2**17, LENGTH), 431, "headers_too_large"),
    "headers-many": Shape(request(*(f"x-{number}: b" for number in range(20_000)), LENGTH), 431, "headers_too_large"),
    "target-large": Shape(b"GET /" + b"a" * 2**17 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431, "headers_too_large"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shape_that_is_no_request_is_refused_and_the_connection_closed(gateway: Any, tools: Any, shape: Shape) -> None:
    smuggled = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    raw = gateway.send(shape.raw + (smuggled if shape.code == "invalid_http" else b""))
    answer = tools.parse(raw)
    assert (answer.status, answer.error["code"]) == (shape.status, shape.code), raw
    assert len(STATUS.findall(raw)) == 1, "what was smuggled in was answered"
    assert b"x-evil" not in raw


@dataclass(frozen=True)
class Odd:
    """An unusual request that is answered like any other: what comes back, without an error of the server."""

    raw: bytes
    status: int
    code: str | None = None


ODD = {
    "chunked": Odd(request("transfer-encoding: chunked", "connection: close", body=CHUNKED_BODY), 200),
    "chunked-capitals": Odd(request("Transfer-Encoding: CHUNKED", "connection: close", body=CHUNKED_BODY), 200),
    "chunk-extension": Odd(
        request(
            "transfer-encoding: chunked",
            "connection: close",
            body=b"%x;name=value\r\n%s\r\n0;last\r\n\r\n" % (len(BODY), BODY),
        ),
        200,
    ),
    "trailer": Odd(
        request(
            "transfer-encoding: chunked",
            "connection: close",
            body=CHUNKED_BODY.removesuffix(b"\r\n") + b"x-request-id: from-trailer\r\n\r\n",
        ),
        200,
    ),
    "absolute-form": Odd(request(LENGTH, "connection: close", start=f"POST http://elsewhere{TEXT} HTTP/1.1"), 200),
    "http-1.0": Odd(request(LENGTH, start=f"POST {TEXT} HTTP/1.0", host=""), 200),
    "query": Odd(request(LENGTH, "connection: close", start=f"POST {TEXT}?a=b&a=%ff HTTP/1.1"), 200),
    "upgrade-websocket": Odd(
        request(LENGTH, "connection: close, upgrade", "upgrade: websocket", "sec-websocket-version: 13"), 200
    ),
    "upgrade-h2c": Odd(request(LENGTH, "connection: close, upgrade, http2-settings", "upgrade: h2c"), 200),
    "double-slash": Odd(b"GET //v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "route_not_found"),
    "dots": Odd(b"GET /v1/../metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "route_not_found"),
    "encoded": Odd(b"GET /v1%2fmodels HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 200),
    "encoded-crlf": Odd(
        b"GET /v1/models/a%0d%0ax-evil:%20b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "model_not_found"
    ),
    "encoded-nul": Odd(
        b"GET /v1/models/%00%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "model_not_found"
    ),
    "asterisk": Odd(b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "route_not_found"),
    "options": Odd(b"OPTIONS /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, "method_not_allowed"),
    "trace": Odd(
        b"TRACE /v1/models HTTP/1.1\r\nhost: x\r\nx-secret: s\r\nconnection: close\r\n\r\n", 405, "method_not_allowed"
    ),
    "put": Odd(request(LENGTH, "connection: close", start=f"PUT {TEXT} HTTP/1.1"), 405, "method_not_allowed"),
    "content-type-twice": Odd(request("content-type: text/plain", LENGTH, "connection: close"), 200),
    "gzip-body": Odd(request(LENGTH, "content-encoding: gzip", "connection: close"), 200),
    "request-id-odd": Odd(request("x-request-id: <script>\xff", LENGTH, "connection: close"), 200),
    "traceparent-odd": Odd(request("traceparent: \xff\xfe", LENGTH, "connection: close"), 200),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_unusual_request_is_answered_like_any_other(gateway: Any, tools: Any, odd: Odd) -> None:
    raw = gateway.send(odd.raw)
    answer = tools.parse(raw)
    assert answer.status == odd.status, raw
    assert odd.code is None or answer.error["code"] == odd.code
    head = raw.partition(b"\r\n\r\n")[0].lower()
    assert b"x-evil" not in head
    assert b"x-secret" not in raw
    assert b"from-trailer" not in raw
    assert b"<script>" not in raw


def test_head_request_has_no_body(gateway: Any) -> None:
    raw = gateway.send(b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


def test_pipelined_requests_are_answered_in_their_order(gateway: Any) -> None:
    ask = b"GET /v1/models/%s HTTP/1.1\r\nhost: x\r\n%s\r\n"
    raw = gateway.send(
        ask % (b"a", b"") + request(LENGTH) + ask % (b"b", b"") + ask % (b"good", b"connection: close\r\n")
    )
    assert STATUS.findall(raw) == [b"404", b"200", b"404", b"200"]
    assert raw.index(b"The model 'a'") < raw.index(b"text_completion") < raw.index(b"The model 'b'")


def test_flood_of_pipelined_requests_is_answered_without_being_kept(gateway: Any) -> None:
    ask = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    with gateway.connect() as connection:
        connection.settimeout(20)
        received = 0
        for _ in range(20):
            connection.sendall(ask * 100)
            while received < 100:
                received += connection.recv(2**20).count(b"HTTP/1.1 200")
            received = 0


BODIES = {
    "not-json": (b"{", 400, "invalid_json"),
    "empty": (b"", 400, "invalid_json"),
    "null": (b"null", 400, "invalid_type"),
    "array": (b"[]", 400, "invalid_type"),
    "string": (b'"x"', 400, "invalid_type"),
    "bom": (b"\xef\xbb\xbf" + BODY, 400, "invalid_json"),
    "utf16": (BODY.decode().encode("utf-16"), 400, "invalid_json"),
    "bad-utf8": (b'{"model":"good","prompt":"\xff"}', 400, "invalid_json"),
    "overlong-utf8": (b'{"model":"good","prompt":"\xc0\xaf"}', 400, "invalid_json"),
    "surrogate-utf8": (b'{"model":"good","prompt":"\xed\xa0\x80"}', 400, "invalid_json"),
    "surrogate-escape": (b'{"model":"good","prompt":"\\ud800"}', 400, "invalid_json"),
    "nan": (b'{"model":"good","prompt":"x","temperature":NaN}', 400, "invalid_json"),
    "infinite": (b'{"model":"good","prompt":"x","temperature":1e999}', 400, None),
    "trailing": (BODY + b"{}", 400, "invalid_json"),
    "comment": (b'{"model":"good",/**/"prompt":"x"}', 400, "invalid_json"),
    "deep-arrays": (b'{"model":"good","prompt":' + b"[" * 400_000 + b"]" * 400_000 + b"}", 400, "invalid_json"),
    "deep-objects": (b'{"model":"good","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, 400, "invalid_json"),
    "deep-unclosed": (b"[" * 1_000_000, 400, None),
    "many-keys": (b'{"model":"good"' + b',"k":0' * 100_000 + b"}", 400, None),
    "model-twice": (b'{"model":"good","prompt":"x","model":"other"}', 400, "duplicate_parameter"),
    "stream-twice": (b'{"model":"good","stream":true,"prompt":"x","stream":false}', 400, "duplicate_parameter"),
    "limit-twice": (b'{"model":"good","max_tokens":1,"prompt":"x","max_tokens":9}', 400, "duplicate_parameter"),
    "model-number": (b'{"model":7,"prompt":"x"}', 400, "invalid_type"),
    "model-missing": (b'{"prompt":"x"}', 400, "missing_parameter"),
    "model-long": (b'{"prompt":"x","model":"' + b"m" * 500_000 + b'"}', 404, "model_not_found"),
    "model-crlf": (b'{"prompt":"x","model":"good\\r\\nx-evil: 1"}', 404, "model_not_found"),
    "prompt-object": (b'{"model":"good","prompt":{}}', 400, "invalid_type"),
    "prompt-mixed": (b'{"model":"good","prompt":["a",1]}', 400, None),
    "prompt-negative": (b'{"model":"good","prompt":[-1]}', 400, None),
    "prompt-nul": (b'{"model":"good","prompt":"a\\u0000b"}', 400, "invalid_prompt"),
    "prompts-many": (json.dumps({"model": MODEL, "prompt": ["a"] * 10_000}).encode(), 400, None),
    "max-tokens-negative": (b'{"model":"good","prompt":"x","max_tokens":-1}', 400, None),
    "max-tokens-zero": (b'{"model":"good","prompt":"x","max_tokens":0}', 400, None),
    "max-tokens-absurd": (b'{"model":"good","prompt":"x","max_tokens":1' + b"0" * 300 + b"}", 400, None),
    "max-tokens-digits": (b'{"model":"good","prompt":"x","max_tokens":' + b"9" * 10_000 + b"}", 400, None),
    "max-tokens-float": (b'{"model":"good","prompt":"x","max_tokens":1.5}', 400, "invalid_type"),
    "max-tokens-text": (b'{"model":"good","prompt":"x","max_tokens":"5"}', 400, "invalid_type"),
    "n-absurd": (b'{"model":"good","prompt":"x","n":1000000000}', 400, None),
    "n-negative": (b'{"model":"good","prompt":"x","n":-5}', 400, None),
    "best-of-absurd": (b'{"model":"good","prompt":"x","best_of":1000000000}', 400, None),
    "temperature-negative": (b'{"model":"good","prompt":"x","temperature":-1}', 400, None),
    "temperature-absurd": (b'{"model":"good","prompt":"x","temperature":1e300}', 400, None),
    "top-k-absurd": (b'{"model":"good","prompt":"x","top_k":9999999999999}', 400, None),
    "logprobs-absurd": (b'{"model":"good","prompt":"x","logprobs":9999999}', 400, None),
    "stop-many": (json.dumps({"model": MODEL, "prompt": "x", "stop": ["s"] * 10_000}).encode(), 400, None),
    "stop-empty": (b'{"model":"good","prompt":"x","stop":""}', 400, None),
    "stream-number": (b'{"model":"good","prompt":"x","stream":1}', 400, "invalid_type"),
    "unknown": (b'{"model":"good","prompt":"x","__proto__":{}}', 400, "unknown_parameter"),
    "over-limit": (b'{"model":"good","prompt":"' + b"x" * BODY_LIMIT_BYTES + b'"}', 413, "payload_too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), BODIES.values(), ids=BODIES.keys())
def test_body_that_cannot_be_is_refused_by_name(gateway: Any, body: bytes, status: int, code: str | None) -> None:
    answer = gateway.post(TEXT, body)
    assert answer.status == status, answer.body[:500]
    assert code is None or answer.error["code"] == code
    assert answer.error["message"]
    assert len(answer.body) < 5000
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("seed", [0, -1, 2**63, 10**300])
def test_seed_of_any_size_is_a_seed(gateway: Any, seed: int) -> None:
    answer = gateway.post(TEXT, {"model": MODEL, "prompt": "x", "seed": seed, "max_tokens": 1})
    assert answer.status == 200, answer.body


SLOW_BODIES = {
    "length-never-sent": request("content-length: 100", body=b"{"),
    "chunk-never-sent": request("transfer-encoding: chunked", body=b"a\r\n{"),
    "chunk-size-never-ended": request("transfer-encoding: chunked", body=b"1"),
    "extension-never-ended": request("transfer-encoding: chunked", body=b"1;" + b"x" * 1000),
    "trailer-never-ended": request("transfer-encoding: chunked", body=CHUNKED_BODY.removesuffix(b"\r\n") + b"x: y"),
}


def test_bodies_that_do_not_come_are_given_up(gateway: Any, tools: Any) -> None:
    started_s = time.monotonic()
    with ExitStack() as stack:
        waiting = {}
        for name, raw in SLOW_BODIES.items():
            waiting[name] = stack.enter_context(gateway.connect())
            waiting[name].sendall(raw)
        statuses = {name: tools.parse(tools.read_all(connection)).status for name, connection in waiting.items()}
    assert statuses == dict.fromkeys(SLOW_BODIES, 408)
    assert time.monotonic() - started_s < BODY_TIMEOUT_S + 10


def _send_endless(gateway: Any, start: bytes, piece: bytes, *, num_bytes: int) -> bytes:
    """What comes back while `piece` is sent again and again, up to so many bytes."""
    received = b""
    with gateway.connect() as connection, suppress(OSError):
        with suppress(OSError):
            connection.sendall(start)
            for _ in range(num_bytes // len(piece)):
                connection.sendall(piece)
        while came := connection.recv(65536):
            received += came
    return received


CHUNKED = request("transfer-encoding: chunked", body=b"")
ENDLESS = {
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "tiny-chunks": (CHUNKED, b"1\r\nx\r\n" * 1000),
    "extension": (CHUNKED + b"1;", b"x" * 4096),
    "trailers": (CHUNKED + b"0\r\n", b"x-trailer: " + b"y" * 100 + b"\r\n"),
    "header": (request("x-a: ", body=b"").removesuffix(b"\r\n\r\n"), b"b" * 4096),
    "headers": (request(body=b"").removesuffix(b"\r\n"), b"x-header: " + b"y" * 100 + b"\r\n"),
    "blank-lines": (b"", b"\r\n" * 2048),
    "length": (request(f"content-length: {2**30}", body=b""), b"x" * 4096),
}


def test_requests_without_end_take_no_memory(gateway: Any) -> None:
    with ThreadPoolExecutor(len(ENDLESS)) as threads:
        answers = {
            name: threads.submit(_send_endless, gateway, start, piece, num_bytes=50 * 2**20)
            for name, (start, piece) in ENDLESS.items()
        }
    for name, answer in answers.items():
        assert set(STATUS.findall(answer.result())) <= {b"400", b"408", b"413", b"431"}, name


@pytest.mark.parametrize(
    "start",
    [b"", b"POST /v1", request(LENGTH, body=b"").removesuffix(b"\r\n"), request(LENGTH, body=b"{")],
    ids=["nothing", "line", "head", "body"],
)
def test_crowd_of_slow_clients_keeps_nobody_else_waiting(gateway: Any, start: bytes) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(gateway.connect()) for _ in range(300)]
        for connection in crowd:
            connection.sendall(start)
        started_s = time.monotonic()
        answer = gateway.post(TEXT, BODY)
        assert (answer.status, time.monotonic() - started_s < 5) == (200, True)


LEAVERS = {
    "before-the-head": b"POST /v1/compl",
    "in-the-body": request(LENGTH, body=BODY[:9]),
    "before-the-answer": request(LENGTH),
    "in-the-stream": request(f"content-length: {len(STREAM_BODY)}", body=STREAM_BODY),
}


@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
@pytest.mark.parametrize("start", LEAVERS.values(), ids=LEAVERS.keys())
def test_clients_that_leave_leave_nothing_behind(gateway: Any, start: bytes, way: str) -> None:
    for _ in range(20):
        with gateway.connect() as connection:
            connection.sendall(start)
            if b'"stream": true' in start:
                connection.recv(10)
            if way == "half-close":
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            elif way == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_do_not_read_are_cut(gateway: Any) -> None:
    """Twenty streams of far more bytes than fit into the buffers between: held back, then ended."""
    body = json.dumps(
        {"model": MODEL, "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "n": 16, "stream": True}
    )
    with ExitStack() as stack:
        for _ in range(20):
            connection = socket.socket()
            stack.enter_context(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(15)
            connection.connect((gateway.host, gateway.port))
            connection.sendall(request(f"content-length: {len(body)}", body=body.encode()))
        gateway.assert_unharmed(timeout_s=30)


def test_answer_that_is_not_read_before_the_next_request_is_sent_is_not_lost(gateway: Any) -> None:
    with gateway.connect() as connection:
        for _ in range(50):
            connection.sendall(request(LENGTH))
        received = b""
        while received.count(b"text_completion") < 50:
            received += connection.recv(65536)


@pytest.mark.parametrize("path", [TEXT, CHAT, RESPONSES, "/v1/embeddings", "/tokenize", "/v1/detokenize"])
def test_expect_continue_is_answered_before_the_body(gateway: Any, path: str) -> None:
    with gateway.connect() as connection:
        connection.sendall(
            request(LENGTH, "expect: 100-continue", "connection: close", body=b"", start=f"POST {path} HTTP/1.1")
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")


def test_body_of_a_refused_request_is_no_request(gateway: Any, tools: Any) -> None:
    """The body is not read when its type is wrong; its bytes must not be taken for the next request."""
    smuggled = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    raw = gateway.send(
        request(f"content-length: {len(smuggled)}", body=smuggled).replace(b"application/json", b"text/plain"),
        b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    assert tools.parse(raw).status == 415
    assert b'"object":"list"' not in raw


KEYS = {
    "none": [],
    "empty": ["authorization:"],
    "bearer-only": ["authorization: Bearer"],
    "basic": ["authorization: Basic dXNlcjpwYXNz"],
    "unknown": ["authorization: Bearer sk-unknown"],
    "long": ["authorization: Bearer " + "k" * 30_000],
    "latin1": ["authorization: Bearer k\xe9y"],
    "same-twice": ["authorization: Bearer k", "x-api-key: k"],
    "contradictory": ["authorization: Bearer k", "x-api-key: other"],
    "many": ["authorization: Bearer k"] * 100,
}


@pytest.mark.parametrize("headers", KEYS.values(), ids=KEYS.keys())
def test_key_that_is_none_is_an_answer_that_does_not_repeat_it(gateway: Any, headers: list[str]) -> None:
    answer = gateway.post(TEXT, BODY, *headers)
    assert answer.status in {200, 400, 401}, answer.body
    assert b"kkkk" not in answer.body
    assert b"sk-unknown" not in answer.body


RESPONSES_BODIES = [
    (b'{"model":"good","input":5}', 400, "input"),
    (b'{"model":"good","input":[]}', 400, "input"),
    (b'{"model":"good","input":"x","tools":[{"type":"web_search"}]}', 400, "tools"),
    (b'{"model":"good","input":"x","max_output_tokens":-1}', 400, "max_output_tokens"),
    (b'{"model":"good","input":"x","temperature":99}', 400, "temperature"),
    (b'{"model":"good","input":"x","text":{"format":{"type":"json_object"}}}', 400, "text.format"),
    (b'{"model":"good","input":[{"role":"user","content":[{"type":"input_image","image_url":"u"}]}]}', 400, None),
    (b'{"model":"good","input":"' + b"a dog and " * 5000 + b'"}', 400, "input"),
    (b'{"model":"good","input":[' + b"{}," * (BODY_LIMIT_BYTES // 4) + b"{}]}", 400, None),
    (b'{"model":"good","input":"x","tools":[' + b"[]," * (BODY_LIMIT_BYTES // 4) + b"[]]}", 400, None),
]


@pytest.mark.parametrize(("body", "status", "param"), RESPONSES_BODIES, ids=range(len(RESPONSES_BODIES)))
def test_responses_request_that_cannot_be_honoured_names_the_field(
    gateway: Any, body: bytes, status: int, param: str | None
) -> None:
    answer = gateway.post(RESPONSES, body)
    assert (answer.status, param or answer.error["param"]) == (status, answer.error["param"]), answer.body[:500]
