"""Cutting streams into events, wherever their pieces end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.wire.sse import EventSplitter, EventTooLargeError, event_data, named_event

STREAM = (
    b': ping\n\ndata: {"a":1}\n\nevent: x\ndata: two\ndata: lines\n\n'
    b"data:tight\r\n\r\ndata: cr\r\rid: 7\n\nretry: 1\ndata\n\ndata: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b"two\nlines", b"tight", b"cr", b"[DONE]"]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_splitter_pieces_of_any_size_give_the_same_events(cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), len(STREAM)]
    splitter = EventSplitter(limit_bytes=1000)
    found = []
    for start, end in pairwise(borders):
        found += splitter.feed(STREAM[start:end])
    assert found == EVENTS


def test_splitter_byte_by_byte_gives_the_same_events() -> None:
    splitter = EventSplitter(limit_bytes=1000)
    found = [data for byte in STREAM for data in splitter.feed(bytes([byte]))]
    assert found == EVENTS


def test_splitter_event_without_end_is_refused_at_the_limit() -> None:
    splitter = EventSplitter(limit_bytes=100)
    assert splitter.feed(b"data: " + b"x" * 94) == []
    with pytest.raises(EventTooLargeError):
        splitter.feed(b"x")


def test_splitter_limit_is_for_one_event_not_for_the_stream() -> None:
    splitter = EventSplitter(limit_bytes=100)
    assert sum(len(splitter.feed(b"data: " + b"x" * 60 + b"\n\n")) for _ in range(50)) == 50


def test_named_event_is_read_back() -> None:
    assert event_data(named_event("response.created", b"{}").removesuffix(b"\n\n")) == b"{}"
