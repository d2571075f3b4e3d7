from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.unit.transport.wire import RecordingReceiver, Wire

from lightship.transport.connection import MAX_HEAD_BYTES
from lightship.transport.errors import ConnectionLostError, MalformedResponseError

OK = b"HTTP/1.1 200 OK\r\n"


@dataclass(frozen=True)
class Good:
    """An answer, and what is to be seen of it."""

    name: str
    raw: bytes
    body: bytes = b""
    status: int = 200
    closes: bool = False
    is_kept: bool = True


GOOD = [
    Good("length", OK + b"content-length: 5\r\n\r\nhello", b"hello"),
    Good("empty", OK + b"content-length: 0\r\n\r\n"),
    Good("chunked", OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    Good("chunked-capitals", OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"x"),
    Good("chunk-extension", OK + b"transfer-encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n", b"x"),
    Good("trailer", OK + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n", b"x"),
    Good("until-close", OK + b"\r\nhello", b"hello", closes=True, is_kept=False),
    Good("says-close", OK + b"connection: close\r\ncontent-length: 1\r\n\r\nx", b"x", is_kept=False),
    Good("http-1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", b"x", is_kept=False),
    Good("interim", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 1\r\n\r\nx", b"x"),
    Good("early-hints", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 1\r\n\r\nx", b"x"),
    Good("no-content", b"HTTP/1.1 204 No Content\r\n\r\n", status=204),
    Good("not-modified", b"HTTP/1.1 304 Not Modified\r\n\r\n", status=304),
    Good("unusual-status", b"HTTP/1.1 499 Odd\r\ncontent-length: 1\r\n\r\nx", b"x", status=499),
]


def check_good(case: Good, receiver: RecordingReceiver, wire: Wire) -> None:
    assert receiver.ends == [None]
    assert receiver.head is not None
    assert (receiver.head.status, receiver.body) == (case.status, case.body)
    assert (len(wire.idle) == 1) == case.is_kept
    assert wire.connection.is_usable == case.is_kept


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_connection_answer_is_the_same_wherever_reads_end(case: Good) -> None:
    for position in range(len(case.raw) + 1):
        wire = Wire()
        receiver = wire.exchange(case.raw[:position], case.raw[position:], then_closes=case.closes)
        check_good(case, receiver, wire)
    wire = Wire()
    check_good(case, wire.exchange(*(bytes([byte]) for byte in case.raw), then_closes=case.closes), wire)


BAD = {
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n",
    "length-and-chunked": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "same-length-twice": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "lengths-in-a-list": OK + b"content-length: 5, 5\r\n\r\nhello",
    "signed-length": OK + b"content-length: +5\r\n\r\nhello",
    "negative-length": OK + b"content-length: -5\r\n\r\nhello",
    "hexadecimal-length": OK + b"content-length: 0x5\r\n\r\nhello",
    "huge-length": OK + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "coding-before-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding-after-chunked": OK + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "unknown-coding": OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked-twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-in-http-1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-in-no-content": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-in-interim": b"HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n",
    "space-before-colon": OK + b"content-length : 5\r\n\r\nhello",
    "header-without-name": OK + b": 5\r\n\r\n",
    "bare-carriage-return": OK + b"x: a\rcontent-length: 5\r\n\r\nhello",
    "zero-byte-in-header": OK + b"x: a\0b\r\ncontent-length: 5\r\n\r\nhello",
    "chunk-size-not-hexadecimal": OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "chunk-size-too-large": OK + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk-longer-than-said": OK + b"transfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
    "switching-protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "endless-head": OK + b"x: " + b"y" * (MAX_HEAD_BYTES + 1),
    "endless-headers": OK + b"x: y\r\n" * (MAX_HEAD_BYTES // 6),
    "endless-interim-answers": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 25 + 1),
    "endless-trailers": OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * (MAX_HEAD_BYTES // 6),
    "endless-extension": OK + b"transfer-encoding: chunked\r\n\r\n1;" + b"y" * (MAX_HEAD_BYTES + 1),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_connection_ambiguous_or_endless_answer_is_refused_and_the_connection_closed(raw: bytes) -> None:
    wire = Wire()
    receiver = wire.exchange(*(raw[position : position + 1000] for position in range(0, len(raw), 1000)))
    assert [type(error) for error in receiver.ends] == [MalformedResponseError]
    assert wire.transport.is_closed
    assert not wire.connection.is_usable
    assert wire.idle == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        OK[:9],
        OK + b"content-length: 5\r\n\r\nhell",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_connection_closed_before_the_end_is_lost(raw: bytes) -> None:
    wire = Wire()
    receiver = wire.exchange(raw, then_closes=True) if raw else wire.exchange(then_closes=True)
    assert [type(error) for error in receiver.ends] == [ConnectionLostError]
    assert wire.connection.has_received == bool(raw)
    assert wire.closed == [wire.connection]


def test_connection_broken_answer_without_length_is_lost_not_complete() -> None:
    wire = Wire()
    receiver = wire.exchange(OK + b"\r\nhello")
    wire.connection.connection_lost(ConnectionResetError("reset"))
    assert [type(error) for error in receiver.ends] == [ConnectionLostError]


def test_connection_carries_one_exchange_after_the_other() -> None:
    wire = Wire()
    answers = [wire.exchange(OK + b"content-length: 1\r\n\r\n" + body).body for body in (b"a", b"b", b"c")]
    assert answers == [b"a", b"b", b"c"]
    assert len(wire.idle) == 3


@pytest.mark.parametrize("behind", [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\ny", b"rubbish"])
def test_connection_bytes_behind_the_answer_are_no_part_of_it_and_end_the_connection(behind: bytes) -> None:
    wire = Wire()
    receiver = wire.exchange(OK + b"content-length: 1\r\n\r\nx" + behind)
    assert (receiver.body, receiver.ends) == (b"x", [None])
    assert wire.transport.is_closed
    assert wire.idle == []


def test_connection_answer_nobody_asked_for_ends_it() -> None:
    wire = Wire()
    wire.exchange(OK + b"content-length: 1\r\n\r\nx")
    wire.feed(OK + b"content-length: 1\r\n\r\ny")
    assert wire.transport.is_closed
    assert not wire.connection.is_usable


def test_connection_chunks_of_one_read_come_as_one_piece() -> None:
    wire = Wire()
    receiver = wire.exchange(
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n", b"0\r\n\r\n"
    )
    assert receiver.chunks == [b"ab", b"c"]


def test_connection_header_names_are_lower_case_and_values_as_they_came() -> None:
    wire = Wire()
    receiver = wire.exchange(OK + b"X-Name: Va lue\r\nx-name: \xfc\r\nContent-Length: 0\r\n\r\n")
    assert receiver.head is not None
    assert receiver.head.headers == [(b"x-name", b"Va lue"), (b"x-name", b"\xfc"), (b"content-length", b"0")]


def test_connection_answered_before_the_request_was_sent_is_not_used_again() -> None:
    wire = Wire()
    wire.transport.buffer_bytes = 1
    receiver = wire.exchange(OK + b"content-length: 0\r\n\r\n")
    assert receiver.ends == [None]
    assert wire.idle == []
    assert wire.transport.is_closed


def test_connection_that_stopped_reading_reads_again_for_the_next_answer() -> None:
    wire = Wire()
    receiver = RecordingReceiver()
    receiver.on_body = wire.connection.pause_reading
    wire.connection.request(b"request", receiver)
    wire.feed(OK + b"content-length: 1\r\n\r\nx")
    assert receiver.ends == [None]
    assert wire.transport.is_reading_now
    assert len(wire.idle) == 1


def test_connection_dropped_in_the_middle_tells_its_receiver_nothing_more() -> None:
    wire = Wire()
    receiver = RecordingReceiver()
    receiver.on_body = wire.connection.drop
    wire.connection.request(b"request", receiver)
    wire.feed(OK + b"content-length: 2\r\n\r\nx", b"y")
    wire.connection.connection_lost(None)
    assert (receiver.chunks, receiver.ends) == ([b"x"], [])
    assert wire.transport.is_closed
    assert wire.idle == []
