"""What engines do that no engine should, over bare sockets, behind a real gateway process.

Each way to go wrong is a model of its own, so that a breaker that opens for one leaves the others alone. After each
case every counter is back at zero, memory has stayed bounded, and the next request is served.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.ports.engine import HopTimeouts
from lightship.testing.raw_upstream import RawScript, RawUpstream

pytestmark = pytest.mark.slow

GOOD = "good"
CHAT, RESPONSES, TOKENIZE = "/v1/chat/completions", "/v1/responses", "/tokenize"
TIMEOUTS = HopTimeouts(connect_s=2, first_token_s=1, next_token_s=1, total_s=4)
MEMORY_SLACK_BYTES = 96 * 2**20
EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNK = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
}


def chunked(*pieces: bytes) -> bytes:
    """The pieces as chunks, without the end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


END = b"0\r\n\r\n"


def says(*pieces: bytes, pause_s: float = 0.0) -> RawScript:
    """Writes these bytes and closes."""

    def script(connection: socket.socket, is_over: threading.Event) -> None:
        for piece in pieces:
            connection.sendall(piece)
            if pause_s and is_over.wait(pause_s):
                return

    return script


def then_hangs(*pieces: bytes) -> RawScript:
    """Writes these bytes and keeps the connection."""

    def script(connection: socket.socket, is_over: threading.Event) -> None:
        connection.sendall(b"".join(pieces))
        is_over.wait(60)

    return script


def endless(start: bytes, piece: bytes, *, num_bytes: int = 100 * 2**20, pause_s: float = 0.0) -> RawScript:
    """Writes the piece again and again, up to so many bytes, with a pause after each block of them."""

    def script(connection: socket.socket, is_over: threading.Event) -> None:
        connection.sendall(start)
        block = piece * max(1, 65536 // len(piece))
        for _ in range(num_bytes // len(block)):
            connection.sendall(block)
            if is_over.wait(pause_s):
                return

    return script


def whole(**fields: Any) -> bytes:
    """A whole answer with some fields set to whatever is given."""
    body = json.dumps({**WHOLE, **fields}).encode()
    return JSON_HEAD + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def stream(*events: bytes) -> bytes:
    """A stream that is well framed, whatever its events are."""
    return EVENT_HEAD + chunked(*events) + END


def usage_event(usage: object) -> bytes:
    """The event in which an engine says how much it worked."""
    return b"data: %s\n\n" % json.dumps({"choices": [], "usage": usage}).encode()


@dataclass(frozen=True)
class Case:
    """A script, and what a client may see of it: the status, and for streams whether they end well."""

    script: RawScript
    status: int
    is_streaming: bool = True
    ends_well: bool | None = None


LIES: dict[str, object] = {
    "negative": {"prompt_tokens": -5, "completion_tokens": -9, "total_tokens": -14},
    "huge": {"prompt_tokens": 10**18, "completion_tokens": 10**18, "total_tokens": 2 * 10**18},
    "beyond-64-bit": {"prompt_tokens": 10**40, "completion_tokens": 10**40},
    "strings": {"prompt_tokens": "3", "completion_tokens": "4"},
    "floats": {"prompt_tokens": 1.5, "completion_tokens": 1e300},
    "list": [1, 2, 3],
    "text": "many",
    "cached-more-than-there-were": {
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 10**9},
    },
    "nested": {"prompt_tokens": {"a": 1}, "completion_tokens": []},
}
CASES: dict[str, Case] = {
    "hang": Case(then_hangs(), 504),
    "hang-in-the-head": Case(then_hangs(b"HTTP/1.1 200 OK\r\ncontent-"), 504),
    "hang-after-the-head": Case(then_hangs(EVENT_HEAD), 504),
    "hang-after-a-token": Case(then_hangs(EVENT_HEAD, chunked(CHUNK)), 200, ends_well=False),
    "hang-in-an-event": Case(then_hangs(EVENT_HEAD, chunked(CHUNK, CHUNK[:20])), 200, ends_well=False),
    "hang-in-a-whole-answer": Case(then_hangs(whole()[:-5]), 200, is_streaming=False, ends_well=False),
    "close": Case(says(), 502),
    "close-in-the-head": Case(says(b"HTTP/1.1 200 OK\r\ncontent-type: text/"), 502),
    "500": Case(says(b"HTTP/1.1 500 Oh\r\ncontent-length: 5\r\n\r\noops!"), 502),
    "502-html": Case(says(b"HTTP/1.1 502 Bad\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"), 502),
    "503-endless": Case(endless(b"HTTP/1.1 503 No\r\ncontent-length: 999999999\r\n\r\n", b"x"), 502),
    "599": Case(says(b"HTTP/1.1 599 Own\r\ncontent-length: 0\r\n\r\n"), 599),
    "204": Case(says(b"HTTP/1.1 204 No Content\r\n\r\n"), 502),
    "redirect": Case(says(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"), 502),
    "truncated-stream": Case(says(EVENT_HEAD, chunked(CHUNK)), 200, ends_well=False),
    "stream-without-done": Case(says(stream(CHUNK, LAST)), 200, ends_well=False),
    "done-only": Case(says(stream(DONE)), 200, ends_well=True),
    "trickle": Case(says(EVENT_HEAD, *[chunked(bytes([byte])) for byte in CHUNK], pause_s=0.1), 504),
    "trickle-after-a-token": Case(
        says(EVENT_HEAD, chunked(CHUNK), *[chunked(bytes([byte])) for byte in CHUNK], pause_s=0.1), 200, ends_well=False
    ),
    "role-then-close": Case(says(stream(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')), 502),
    "error-event-first": Case(says(stream(b'data: {"error":{"message":"oom","type":"server_error"}}\n\n')), 502),
    "error-event": Case(says(stream(CHUNK, b'data: {"error":{"message":"oom"}}\n\n')), 200, ends_well=False),
    "comments": Case(says(stream(b": ping\n\n", CHUNK, b": ping\n\n", LAST, DONE)), 200, ends_well=True),
    "choices-null": Case(
        says(stream(b'data: {"choices":null,"usage":null}\n\n', CHUNK, LAST, DONE)), 200, ends_well=True
    ),
    "crlf-events": Case(
        says(stream(*(event.replace(b"\n", b"\r\n") for event in (CHUNK, LAST, DONE)))), 200, ends_well=True
    ),
    "nul-bytes": Case(says(stream(CHUNK, b"data: \x00\x00\n\n", LAST, DONE)), 200),
    "not-utf8": Case(says(stream(CHUNK, b"data: \xff\xfe\n\n", LAST, DONE)), 200),
    "not-json-events": Case(says(stream(CHUNK, b"data: {{{\n\n", LAST, DONE)), 200),
    "length-too-long": Case(
        says(JSON_HEAD + b"content-length: 1000\r\n\r\n{}"), 200, is_streaming=False, ends_well=False
    ),
    "length-too-short": Case(says(JSON_HEAD + b"content-length: 2\r\n\r\n{}" + whole()), 200, is_streaming=False),
    "length-twice": Case(
        says(JSON_HEAD + b"content-length: 2\r\ncontent-length: 900\r\n\r\n{}"), 502, is_streaming=False
    ),
    "length-and-chunked": Case(
        says(JSON_HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"{}") + END),
        502,
        is_streaming=False,
    ),
    "length-negative": Case(says(JSON_HEAD + b"content-length: -1\r\n\r\n{}"), 502, is_streaming=False),
    "chunk-size-wrong": Case(says(EVENT_HEAD + b"zz\r\n" + CHUNK), 502),
    "gzip": Case(
        says(
            JSON_HEAD
            + b"content-encoding: gzip\r\nconnection: close\r\n\r\n"
            + gzip.compress(json.dumps(WHOLE).encode(), mtime=0)
        ),
        200,
        is_streaming=False,
    ),
    "headers-endless": Case(endless(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"), 502),
    "header-endless": Case(endless(b"HTTP/1.1 200 OK\r\nx-a: ", b"b" * 1024), 502),
    "header-injection": Case(
        says(b"HTTP/1.1 400 Bad\r\nx-a: b\rx-evil: c\r\ncontent-length: 2\r\n\r\n{}"), 502, is_streaming=False
    ),
    "header-nul": Case(says(JSON_HEAD + b"x-a: b\x00c\r\ncontent-length: 2\r\n\r\n{}"), 502, is_streaming=False),
    "header-obs-fold": Case(says(JSON_HEAD + b"x-a: b\r\n c\r\ncontent-length: 2\r\n\r\n{}"), 502, is_streaming=False),
    "header-latin1": Case(
        says(JSON_HEAD + b"x-a: caf\xe9\r\ncontent-length: 2\r\n\r\n{}"), 200, is_streaming=False, ends_well=True
    ),
    "1xx-flood": Case(endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), 502),
    "1xx-some": Case(
        says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + stream(CHUNK, LAST, DONE)),
        200,
        ends_well=True,
    ),
    "101-upgrade": Case(says(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nbytes"), 502),
    "not-http": Case(says(b"SSH-2.0-OpenSSH_9.2\r\n"), 502),
    "http-0.9": Case(says(b'{"choices":[]}'), 502),
    "event-endless": Case(endless(EVENT_HEAD + b"6000000\r\ndata: ", b"x" * 1024), 502),
    "event-endless-after-a-token": Case(
        endless(EVENT_HEAD + chunked(CHUNK) + b"6000000\r\ndata: ", b"x" * 1024), 200, ends_well=False
    ),
    "stream-endless": Case(endless(EVENT_HEAD, chunked(CHUNK), num_bytes=2**40, pause_s=0.01), 200, ends_well=False),
    "blank-lines-endless": Case(endless(EVENT_HEAD, chunked(b"\n" * 4096), pause_s=0.01), 502),
    "whole-endless": Case(
        endless(JSON_HEAD + b"content-length: 99999999999\r\n\r\n", b"x" * 1024), 200, False, ends_well=False
    ),
    "extension-endless": Case(endless(EVENT_HEAD + b"1;", b"x" * 1024), 502),
    "data-after-the-end": Case(says(stream(CHUNK, LAST, DONE) + whole() + whole()), 200, ends_well=True),
    **{
        f"usage-{name}": Case(says(stream(CHUNK, LAST, usage_event(lie), DONE)), 200, True, True)
        for name, lie in LIES.items()
    },
    **{f"usage-whole-{name}": Case(says(whole(usage=lie)), 200, False, True) for name, lie in LIES.items()},
    "usage-missing": Case(says(whole()), 200, False, True),
    "usage-deep": Case(
        says(stream(CHUNK, b'data: {"usage": {' + b'"a":{' * 5000 + b"\n\n", LAST, DONE)), 200, True, None
    ),
    "well": Case(says(stream(CHUNK, LAST, DONE)), 200, ends_well=True),
}


@pytest.fixture(scope="module")
def running(simulated_url: str, tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway before a good worker and one bad replica per case."""
    with RawUpstream({name: case.script for name, case in CASES.items()}, missing=[RESPONSES]).serving() as upstream:
        replicas = [ReplicaConfig(name=GOOD, base_url=simulated_url, model_name=GOOD, variant_name="v")]
        replicas += [
            ReplicaConfig(
                name=f"replica-{name}",
                base_url=f"{upstream.base_url}/{name}",
                model_name=name,
                served_model=name,
                variant_name="v",
            )
            for name in CASES
        ]
        config = GatewayConfig(
            model_name=GOOD,
            replicas=tuple(replicas),
            port=0,
            timeouts=TIMEOUTS,
            max_attempts=1,
            health_interval_s=3600,
            drain_timeout_s=5,
        )
        with tools.gateway(config, tmp_path_factory.mktemp("gateway")) as gateway:
            yield gateway


@pytest.fixture
def gateway(running: Any) -> Iterator[Any]:
    """The gateway; unharmed after each test, in counters and in memory."""
    before_bytes = running.memory_bytes()
    running.reset_peak()
    yield running
    running.assert_unharmed()
    assert running.memory_bytes("VmHWM") - before_bytes < MEMORY_SLACK_BYTES


def is_well_ended(answer: Any) -> bool:
    """Whether a client can take the answer for complete."""
    if "event-stream" not in answer.headers.get("content-type", ""):
        return bool(answer.is_whole)
    last = answer.body.replace(b"\r\n", b"\n").rstrip().split(b"\n\n")[-1]
    return bool(answer.is_whole) and (last == b"data: [DONE]" or b"event: response.completed\n" in last + b"\n")


def check(answer: Any, case: Case) -> None:
    assert answer.status == case.status, answer.body[:500]
    assert "x-evil" not in answer.headers
    if case.status in {502, 504}:
        assert answer.error["type"] == "server_error"
        assert answer.error["origin"] == ("engine" if "oom" in answer.error["message"] else "gateway")
        assert "127.0.0.1" not in answer.error["message"]
    elif case.ends_well is not None:
        assert is_well_ended(answer) is case.ends_well, answer.body[-500:]
        if case.is_streaming and not case.ends_well and answer.is_whole:
            assert b'"error":' in answer.body[-3000:]


@pytest.mark.parametrize("name", CASES)
def test_chat_client_of_a_bad_engine_gets_one_clear_end(gateway: Any, name: str) -> None:
    case = CASES[name]
    started_s = time.monotonic()
    check(gateway.post(CHAT, {"model": name, "messages": [], "stream": case.is_streaming}), case)
    assert time.monotonic() - started_s < TIMEOUTS.total_s + 8


# Where a response that the gateway makes of a chat answer ends otherwise than the chat answer itself.
MADE_RESPONSES: dict[str, tuple[int, bool | None]] = {
    "done-only": (502, None),  # no token, no reason to end
    "hang-in-a-whole-answer": (502, None),
    "nul-bytes": (200, False),
    "not-utf8": (200, False),
    "not-json-events": (200, False),
    "usage-deep": (200, False),
    "length-too-long": (502, None),
    "length-too-short": (502, None),
    "gzip": (502, None),
    "header-latin1": (502, None),
    "whole-endless": (502, None),
}


@pytest.mark.parametrize("name", [name for name in CASES if name != "599"])
def test_responses_client_of_a_bad_engine_gets_one_clear_end(gateway: Any, name: str) -> None:
    case = CASES[name]
    status, ends_well = MADE_RESPONSES.get(name, (case.status, case.ends_well))
    case = replace(case, status=status, ends_well=ends_well)
    started_s = time.monotonic()
    answer = gateway.post(RESPONSES, {"model": name, "input": "x", "stream": case.is_streaming})
    check(answer, case)
    assert time.monotonic() - started_s < 2 * TIMEOUTS.total_s + 8


def test_tokens_reported_by_liars_are_not_believed(gateway: Any) -> None:
    """Whatever engines said above, no counter has taken it over."""
    lines = [line for line in gateway.get("/metrics").body.decode().splitlines() if "_tokens_total{" in line]
    assert lines
    assert [line for line in lines if not 0 <= float(line.rsplit(" ", 1)[1]) < 10**9] == []
