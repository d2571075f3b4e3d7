from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.cache.answer import (
    NotStored,
    StoredAnswer,
    answer_of,
    data_of,
    decode_answer,
    encode_answer,
    split_events,
)
from lightship.ports.engine import TokenUsage

WHOLE = (
    b'{"id":"a","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
)
TEXT = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"usage":null}\n\n'
END = b'data: {"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"a","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def stored(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "",
    variant: str = "v",
    usage: TokenUsage | None = None,
    trimmed: int | None = None,
) -> StoredAnswer | NotStored:
    is_stream = body.startswith((b"data", b":"))
    return answer_of(
        body,
        status=status,
        headers={
            "content-type": content_type or ("text/event-stream; charset=utf-8" if is_stream else "application/json"),
            **({"x-served-variant": variant} if variant else {}),
        },
        usage=usage or TokenUsage(),
        rung=2,
        trimmed_output_tokens=trimmed,
        now_unix_s=5.0,
    )


def test_answer_whole_one_is_kept_as_it_is() -> None:
    answer = stored(WHOLE)
    assert isinstance(answer, StoredAnswer)
    assert (answer.body, answer.variant_digest, answer.rung, answer.stored_unix_s) == (WHOLE, "v", 2, 5.0)
    assert (answer.is_stream, answer.usage) == (False, b'{"prompt_tokens":1}')


@pytest.mark.parametrize("pings", [(b"", b"", b""), (PING, PING, PING)])
@pytest.mark.parametrize("usage_event", [b"", USAGE])
def test_answer_stream_is_taken_apart_and_loses_nothing(pings: tuple[bytes, ...], usage_event: bytes) -> None:
    body = TEXT * 20 + END + pings[0] + usage_event + DONE + pings[2]
    answer = stored(body)
    assert isinstance(answer, StoredAnswer)
    assert answer.body + answer.usage_event + answer.last_event == body
    assert answer.usage_event == usage_event
    assert answer.usage == (b'{"prompt_tokens":1,"completion_tokens":2}' if usage_event else b"")


def test_answer_usage_that_was_hidden_is_taken_from_the_count() -> None:
    usage = TokenUsage(num_prompt_tokens=3, num_cached_tokens=1, num_output_tokens=4, is_reported=True)
    answer = stored(TEXT + END + DONE, usage=usage)
    assert isinstance(answer, StoredAnswer)
    assert json.loads(answer.usage) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        WHOLE[:-1],
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"error":{"message":"m"}}',
        WHOLE.replace(b'"stop"', b"null"),
        WHOLE.replace(b'"stop"', b'"abort"'),
        WHOLE.replace(b'"stop"', b'"content_filter"'),
        WHOLE.replace(b'{"id"', b'{"error":{},"id"'),
        b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"stop"}]}',
        TEXT + END,
        TEXT + DONE,
        TEXT + END + DONE[:-2],
        TEXT + END + DONE + b"data: {}",
        TEXT + END + DONE + TEXT,
        TEXT + END + b'data: {"error":{"message":"m"}}\n\n' + DONE,
        TEXT + b'data: {"error":{"message":"m"}}\n\n' + DONE,
        TEXT + b"data: {broken\n\n" + DONE,
        TEXT + END.replace(b'"stop"', b'"abort"') + DONE,
        TEXT + END + TEXT + DONE,
        DONE,
        USAGE + DONE,
    ],
)
def test_answer_that_did_not_end_well_is_not_stored(body: bytes) -> None:
    content_type = "text/event-stream" if body.startswith(b"data") else "application/json"
    assert stored(body, content_type=content_type) is NotStored.NOT_FINISHED


def test_answer_of_an_error_unknown_variant_or_other_type_is_not_stored() -> None:
    assert stored(WHOLE, status=400) is NotStored.STATUS
    assert stored(WHOLE, status=206) is NotStored.STATUS
    assert stored(WHOLE, variant="") is NotStored.NO_VARIANT
    assert stored(WHOLE, content_type="text/html") is NotStored.CONTENT_TYPE


def test_answer_that_may_have_been_trimmed_is_not_stored() -> None:
    at_length = WHOLE.replace(b'"stop"', b'"length"')
    assert isinstance(stored(WHOLE, trimmed=16), StoredAnswer)
    assert isinstance(stored(at_length), StoredAnswer)
    assert stored(at_length, trimmed=16) is NotStored.TRIMMED
    assert stored(at_length, trimmed=16, usage=TokenUsage(num_output_tokens=16, is_reported=True)) is NotStored.TRIMMED
    longer = TokenUsage(num_output_tokens=17, is_reported=True)
    assert isinstance(stored(at_length, trimmed=16, usage=longer), StoredAnswer)


def test_answer_value_reads_back_under_its_key_only() -> None:
    answer = stored(TEXT + END + USAGE + DONE)
    assert isinstance(answer, StoredAnswer)
    value = encode_answer("k", answer)
    assert decode_answer("k", value) == answer
    assert decode_answer("other", value) is None


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_answer_value_with_a_flipped_bit_reads_as_nothing(position: int, bit: int) -> None:
    answer = stored(WHOLE)
    assert isinstance(answer, StoredAnswer)
    value = bytearray(encode_answer("k", answer))
    value[position % len(value)] ^= 1 << bit
    assert decode_answer("k", bytes(value)) is None


@given(value=st.binary(max_size=64), has_magic=st.booleans())
def test_answer_foreign_value_reads_as_nothing(value: bytes, has_magic: bool) -> None:
    assert decode_answer("k", b"LSA1" + value if has_magic else value) is None


@given(
    parts=st.lists(st.sampled_from([b"data: 1", b": x", b"event: e\ndata: 2", b"data:3"]), max_size=8),
    blank=st.sampled_from([b"\n\n", b"\r\n\r\n"]),
    is_cut=st.booleans(),
)
def test_split_events_gives_each_once_and_loses_nothing(parts: list[bytes], blank: bytes, is_cut: bool) -> None:
    if blank != b"\n\n":
        parts = [part.replace(b"\n", b"\r\n") for part in parts]
    whole = [part + blank for part in parts]
    rest = [b"data: cut"] if is_cut else []
    assert split_events(b"".join(whole + rest)) == whole + rest
    expected = {b"data: 1": b"1", b": x": None, b"data:3": b"3"}
    assert [data_of(event) for event in whole] == [expected.get(part, b"2") for part in parts]
