"""Tokens are counted as the engine says, asked for where the client did not, and hidden again."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.metering import MeteredEngine
from lightship.ports.engine import EngineCall, StreamBrokenError, TokenUsage
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, always, stream_reply
from lightship.wire.sse import CONTENT_TYPE, DONE

PATH = "/v1/chat/completions"
TEXT = b'data: {"choices":[{"delta":{"content":"a \\"usage\\":{ b"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'


def call(*, is_streaming: bool = True, wants_usage: bool = False, body: bytes = b'{"model":"m"}') -> EngineCall:
    return EngineCall(PATH, body, "req-1", "m", is_streaming, wants_usage=wants_usage)


def answered(reply: FakeReply, one: EngineCall) -> tuple[bytes, TokenUsage, FakeEngine]:
    fake = FakeEngine(always(reply))

    async def run() -> tuple[bytes, TokenUsage]:
        async with MeteredEngine(fake).open(one) as opened:
            body = b"".join([chunk async for chunk in opened.chunks])
        return body, opened.usage

    body, usage = asyncio.run(run())
    return body, usage, fake


def events(*chunks: bytes) -> FakeReply:
    return FakeReply(chunks=chunks, headers={"content-type": CONTENT_TYPE})


def test_metering_stream_that_did_not_ask_gets_no_usage_chunk() -> None:
    body, usage, fake = answered(events(TEXT, TEXT, USAGE, DONE), call())
    assert body == TEXT + TEXT + DONE
    assert (usage.num_prompt_tokens, usage.num_output_tokens, usage.is_reported) == (7, 2, True)
    assert json.loads(fake.calls[0].body) == {"model": "m", "stream_options": {"include_usage": True}}


def test_metering_stream_that_asked_gets_every_byte() -> None:
    body, usage, fake = answered(events(TEXT, USAGE, DONE), call(wants_usage=True))
    assert body == TEXT + USAGE + DONE
    assert usage.num_output_tokens == 2
    assert fake.calls[0].body == b'{"model":"m"}'


def test_metering_stream_options_without_usage_are_completed() -> None:
    asked = b'{"stream_options":{"include_usage":false},"model":"m","x":1.50}'
    _, _, fake = answered(events(TEXT, DONE), call(body=asked))
    assert fake.calls[0].body == b'{"stream_options":{"include_usage":true},"model":"m","x":1.50}'


@given(cuts=st.lists(st.integers(1, len(TEXT + TEXT + USAGE + DONE) - 1), max_size=12))
def test_metering_any_cut_of_the_stream_gives_the_same_bytes_and_counts(cuts: list[int]) -> None:
    whole = TEXT + TEXT + USAGE + DONE
    edges = [0, *sorted(set(cuts)), len(whole)]
    chunks = tuple(whole[start:end] for start, end in pairwise(edges))
    body, usage, _ = answered(events(*chunks), call())
    assert body == TEXT + TEXT + DONE
    assert usage.num_output_tokens == 2


def test_metering_broken_stream_counts_its_events() -> None:
    reply = stream_reply("a", "b", "c", fault=Fault.CLOSE_AFTER_CHUNKS)
    fake = FakeEngine(always(reply))

    async def run() -> TokenUsage:
        async with MeteredEngine(fake).open(call()) as opened:
            with pytest.raises(StreamBrokenError):
                async for _ in opened.chunks:
                    pass
            return opened.usage

    usage = asyncio.run(run())
    assert (usage.num_output_tokens, usage.is_reported) == (3, False)


def test_metering_whole_answer_is_passed_on_as_it_is() -> None:
    text = b'{"choices":[{"message":{"content":"x"}}], "usage":{"prompt_tokens":3,"completion_tokens":4,'
    text += b'"prompt_tokens_details":{"cached_tokens":2}}}'
    body, usage, _ = answered(FakeReply(chunks=(text[:50], text[50:])), call(is_streaming=False))
    assert body == text
    assert (usage.num_prompt_tokens, usage.num_cached_tokens, usage.num_output_tokens) == (3, 2, 4)


@pytest.mark.parametrize(
    "lie",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 2**40},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        [],
        "none",
    ],
    ids=str,
)
def test_metering_usage_that_cannot_be_is_ignored(lie: Any) -> None:
    body = json.dumps({"choices": [], "usage": lie}).encode()
    streamed, usage, _ = answered(events(TEXT, b"data: " + body + b"\n\n", DONE), call())
    assert not usage.is_reported
    assert streamed.startswith(TEXT)
    passed, usage, _ = answered(FakeReply(chunks=(body,)), call(is_streaming=False))
    assert (passed, usage.is_reported) == (body, False)


def test_metering_other_paths_are_left_alone() -> None:
    other = EngineCall("/tokenize", b'{"model":"m"}', "req-1", "m", is_streaming=False)
    body, usage, fake = answered(FakeReply(chunks=(b'{"usage":{"prompt_tokens":1}}',)), other)
    assert (body, usage.is_reported) == (b'{"usage":{"prompt_tokens":1}}', False)
    assert fake.calls[0] is other
