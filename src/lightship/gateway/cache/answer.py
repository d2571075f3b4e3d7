"""A stored answer: how one is made of a reply that came to its end, and its bytes in a store.

Pure. Only what is complete and good becomes an answer; `answer_of` says why something does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from lightship.gateway.headers import QUALITY_LOSS, SERVED_VARIANT
from lightship.ports.engine import TokenUsage
from lightship.wire.replies import PromptTokensDetails, Usage
from lightship.wire.sse import event_data

# What ends an answer that would be the same again. Not here: what an engine says when it gave up, or took text away.
_GOOD_FINISHES = frozenset({"stop", "length", "tool_calls", "function_call"})
# Magic and version of a stored value, then its checksum.
_MAGIC = b"LSA1"
_HEADER_BYTES = len(_MAGIC) + 4
# The last event with text, the usage, `[DONE]`, and a comment or two between them.
_LAST_EVENTS = 8


class StoredAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One complete, successful answer.

    Args:
        stored_unix_s: When it was stored.
        variant_digest: What answered.
        rung: The rung it was on then.
        content_type: As the engine said it.
        is_stream: Whether the body is made of events.
        body: The whole body; of a stream the events without the usage event and without `[DONE]`.
        usage: The engine's token counts as a JSON object; empty where it gave none.
        usage_event: Of a stream whose client asked for it.
        last_event: Of a stream: `[DONE]` as it came.
        quality_loss: What was said of the variant's loss then; empty where nothing was.
    """

    stored_unix_s: float
    variant_digest: str
    rung: int
    content_type: str
    is_stream: bool
    body: bytes
    usage: bytes = b""
    usage_event: bytes = b""
    last_event: bytes = b""
    quality_loss: str = ""


class NotStored(StrEnum):
    """Why the answer to a cacheable request was not stored; a closed list, fit for a metric label."""

    OFF = "off"
    STATUS = "status"
    NO_VARIANT = "no-variant"
    CONTENT_TYPE = "content-type"
    NOT_FINISHED = "not-finished"
    TRIMMED = "trimmed"
    TOO_LARGE = "too-large"
    STORE_DOWN = "store-down"


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_BODY_DECODER = msgspec.json.Decoder(_Body)
_ANSWER_DECODER = msgspec.msgpack.Decoder(tuple[str, StoredAnswer])
_ANSWER_ENCODER = msgspec.msgpack.Encoder()


def answer_of(
    body: bytes,
    *,
    status: int,
    headers: Mapping[str, str],
    usage: TokenUsage,
    rung: int,
    trimmed_output_tokens: int | None,
    now_unix_s: float,
) -> StoredAnswer | NotStored:
    """The answer to store, or why there is none.

    Args:
        body: All of it, as it was sent on.
        status: The reply's.
        headers: The reply's.
        usage: The engine's counts, complete.
        rung: The rung that answered.
        trimmed_output_tokens: To how many the request may have been cut below; an answer that ends there is not the
            whole one.
        now_unix_s: The time.
    """
    variant_digest = headers.get(SERVED_VARIANT, "")
    content_type = headers.get("content-type", "")
    if status != 200:
        return NotStored.STATUS
    if not variant_digest:
        return NotStored.NO_VARIANT
    if content_type.startswith("text/event-stream"):
        parts = _stream_parts(body)
    elif content_type.startswith("application/json"):
        parts = _whole_parts(body)
    else:
        return NotStored.CONTENT_TYPE
    if parts is None:
        return NotStored.NOT_FINISHED
    if trimmed_output_tokens is not None and parts.finish == "length":
        is_counted = usage.is_reported and usage.num_output_tokens > trimmed_output_tokens
        if not is_counted:
            return NotStored.TRIMMED
    return StoredAnswer(
        stored_unix_s=now_unix_s,
        variant_digest=variant_digest,
        rung=rung,
        content_type=content_type,
        is_stream=parts.is_stream,
        body=parts.body,
        usage=parts.usage or _usage_object(usage),
        usage_event=parts.usage_event,
        last_event=parts.last_event,
        quality_loss=headers.get(QUALITY_LOSS, ""),
    )


def encode_answer(key: str, answer: StoredAnswer) -> bytes:
    """The value to store under `key`."""
    payload = _ANSWER_ENCODER.encode((key, answer))
    return b"".join((_MAGIC, zlib.crc32(payload).to_bytes(4, "big"), payload))


def decode_answer(key: str, value: bytes) -> StoredAnswer | None:
    """The answer in a stored value; None where it is damaged, of another version, or not the answer of this key."""
    if not value.startswith(_MAGIC):
        return None
    payload = memoryview(value)[_HEADER_BYTES:]
    if zlib.crc32(payload).to_bytes(4, "big") != value[len(_MAGIC) : _HEADER_BYTES]:
        return None
    try:
        stored_key, answer = _ANSWER_DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answer if stored_key == key else None


def split_events(body: bytes) -> list[bytes]:
    r"""The events of a stream, each with its blank line; what is left after the last one is one more.

    >>> split_events(b"data: 1\n\ndata: 2\r\n\r\n")
    [b'data: 1\n\n', b'data: 2\r\n\r\n']
    """
    if b"\r" not in body:
        pieces = body.split(b"\n\n")
        rest = pieces.pop()
        events = [piece + b"\n\n" for piece in pieces]
        return [*events, rest] if rest else events
    lines, events, event = body.splitlines(keepends=True), [], []
    for line in lines:
        event.append(line)
        if not line.strip(b"\r\n"):
            events.append(b"".join(event))
            event = []
    return [*events, b"".join(event)] if event else events


def data_of(event: bytes) -> bytes | None:
    """The data of one event of `split_events`, or None where it has none."""
    if b"\r" in event:
        event = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return event_data(event.rstrip(b"\n"))


class _Parts(msgspec.Struct):
    is_stream: bool
    finish: str
    body: bytes
    usage: bytes = b""
    usage_event: bytes = b""
    last_event: bytes = b""


def _whole_parts(body: bytes) -> _Parts | None:
    decoded = _decode(body)
    if decoded is None or (finish := _finish(decoded)) is None:
        return None
    return _Parts(is_stream=False, finish=finish, body=body, usage=_counts(decoded))


def _stream_parts(body: bytes) -> _Parts | None:
    """What a whole stream is made of, or None when it did not come to a good end.

    Only the last events are read: what comes before says nothing about the end.
    """
    head, last = _cut_last_events(body)
    position = len(last) - 1
    while position >= 0 and data_of(last[position]) is None and _is_whole_event(last[position]):
        position -= 1  # comments after the end
    if position < 0 or data_of(last[position]) != b"[DONE]" or not _is_whole_event(last[position]):
        return None
    done = position
    finish: str | None = None
    usage = usage_event = b""
    before = last[:done]
    for event in reversed(last[:done]):
        data = data_of(event)
        decoded = None if data is None else _decode(data)
        if data is not None and decoded is None:
            return None
        if decoded is not None:
            usage = usage or _counts(decoded)
            if not decoded.choices and _counts(decoded):
                usage_event = event
                before.remove(event)
                continue
            finish = _finish(decoded)
            break
    if finish is None:
        return None
    whole = head + b"".join(before)
    return _Parts(True, finish, whole, usage=usage, usage_event=usage_event, last_event=b"".join(last[done:]))


def _cut_last_events(body: bytes) -> tuple[bytes, list[bytes]]:
    position = len(body)
    if b"\r" in body:
        events = split_events(body)
        return b"".join(events[:-_LAST_EVENTS]), events[-_LAST_EVENTS:]
    for _ in range(_LAST_EVENTS):
        position = body.rfind(b"\n\n", 0, max(0, position - 2)) + 2
        if position == 1:  # none was found
            return b"", split_events(body)
    return body[:position], split_events(body[position:])


def _is_whole_event(event: bytes) -> bool:
    return event.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


def _decode(data: bytes) -> _Body | None:
    try:
        decoded = _BODY_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if bytes(decoded.error) == b"null" else None


def _finish(decoded: _Body) -> str | None:
    """How its only choice ended; None where it did not end well, or is not the only one."""
    if decoded.choices is None or len(decoded.choices) != 1:
        return None
    finish = decoded.choices[0].finish_reason
    return finish if finish in _GOOD_FINISHES else None


def _counts(decoded: _Body) -> bytes:
    usage = bytes(decoded.usage)
    return b"" if usage == b"null" else usage


def _usage_object(usage: TokenUsage) -> bytes:
    if not usage.is_reported:
        return b""
    counted = Usage(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.num_cached_tokens),
    )
    return msgspec.json.encode(counted)
