"""Reading a streamed answer: the same record whatever the chunk borders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.evaluation.performance.answers import AnswerReading, EndpointError, EventScanner
from lightship.evaluation.performance.records import ErrorKind


def event(document: object, end: str = "\n") -> bytes:
    return f"data: {json.dumps(document)}{end}{end}".encode()


def answer(end: str) -> bytes:
    """Three tokens, one of them without text, comments, a finish reason alone, usage."""
    choices = [{"text": "once"}, {"text": ""}, {"text": " ü\\n"}, {"text": "", "finish_reason": "length"}]
    events = b"".join(event({"choices": [choice]}, end) for choice in choices)
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    comment = f": still there{end}{end}".encode()
    return comment + events + comment + event({"choices": [], "usage": usage}, end) + f"data: [DONE]{end}{end}".encode()


def read(chunks: Sequence[bytes], *, status: int = 200) -> AnswerReading:
    """All chunks at once, by a clock that shows how many there were."""
    reading = AnswerReading(lambda: 5.0, lambda: 6.0)
    reading.start(status)
    for chunk in chunks:
        reading.receive(chunk)
    reading.finish()
    return reading


def pieces(content: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = [0, *sorted(cut % len(content) for cut in cuts), len(content)]
    return [content[start:end] for start, end in pairwise(borders) if end > start]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
def test_reading_any_split_of_the_bytes_gives_the_same_record(end: str, cuts: list[int]) -> None:
    reading = read(pieces(answer(end), cuts))
    assert reading.times_s == [5.0] * 3
    assert reading.usage is not None
    assert (reading.usage.prompt_tokens, reading.usage.completion_tokens, reading.usage.num_cached_tokens) == (7, 3, 2)
    assert reading.last_arrival_s == 6.0


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_reading_byte_by_byte_gives_the_same_record(end: str) -> None:
    content = answer(end)
    assert read([content[index : index + 1] for index in range(len(content))]).times_s == [5.0] * 3


@given(st.lists(st.sampled_from([b"data: a", b"\n", b"\r", b"\r\n", b":c", b"data:", b"x"]), max_size=12), st.data())
def test_scanner_any_split_of_any_bytes_gives_the_same_events(parts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=5))

    def events(chunks: Sequence[bytes]) -> list[bytes]:
        scanner = EventScanner()
        return [payload for chunk in chunks for payload in scanner.feed(chunk)] + scanner.end()

    assert events(pieces(content, cuts) if content else []) == events([bytes([byte]) for byte in content])


def test_scanner_lines_of_one_event_are_joined() -> None:
    assert EventScanner().feed(b"data: a\nevent: x\ndata:b\nid: 3\n\ndata: c\n\n") == [b"a\nb", b"c"]


def test_scanner_endless_event_is_refused() -> None:
    scanner = EventScanner()
    assert scanner.feed(b"data: " + b"x" * (2**20 - 6)) == []
    with pytest.raises(EndpointError, match="over 1048576 bytes"):
        scanner.feed(b"x")


@dataclass(frozen=True)
class Case:
    """A stream and the error it must give."""

    id: str
    payload: bytes
    error: ErrorKind
    status: int = 200


TOKEN = event({"choices": [{"text": "a"}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})
DONE = b"data: [DONE]\n\n"
BROKEN = [
    Case("no done", TOKEN + USAGE, ErrorKind.TRUNCATED),
    Case("half event", TOKEN[:12], ErrorKind.TRUNCATED),
    Case("half event after done", TOKEN + USAGE + DONE + b"data: {", ErrorKind.TRUNCATED),
    Case("nothing", b": hello\n\n", ErrorKind.TRUNCATED),
    Case("no usage", TOKEN + DONE, ErrorKind.NO_USAGE),
    Case("no tokens", USAGE + DONE, ErrorKind.NO_TOKENS),
    Case("not json", b"data: {oops\n\n", ErrorKind.MALFORMED),
    Case("not utf-8", b'data: {"choices":[{"text":"\xff"}]}\n\n', ErrorKind.MALFORMED),
    Case("wrong type", b'data: {"choices": 3}\n\n', ErrorKind.MALFORMED),
    Case("too deep", b'data: {"error": ' + b"[" * 5000 + b"]" * 5000 + b"}\n\n", ErrorKind.MALFORMED),
    Case("error event", TOKEN + event({"error": {"message": "worker died"}}), ErrorKind.ERROR_EVENT),
    Case("status", b'{"error": {"message": "out of cheese"}}', ErrorKind.STATUS, status=503),
    Case("long error body", b"x" * 100_000, ErrorKind.STATUS, status=500),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.id)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_reading_broken_stream_is_named_whatever_the_chunks(case: Case, size: int) -> None:
    chunks = [case.payload[start : start + size] for start in range(0, len(case.payload), size)]
    with pytest.raises(EndpointError) as caught:
        read(chunks, status=case.status)
    assert caught.value.kind is case.error
    assert len(caught.value.detail) < 600
