"""A chat stream as the events of `/v1/responses`, against the official client's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from lightship.gateway.api.response_events import MAX_TEXT_CHARS, ChatStreamError, ResponseEvents
from lightship.gateway.api.responses import to_chat_call
from lightship.wire.errors import upstream_failed

OFFICIAL: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PROMISES = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
]
ENDING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def writer() -> ResponseEvents:
    call = to_chat_call(b'{"model":"m","input":"hi","stream":true}', response_id="resp_1", created_unix_s=1)
    return ResponseEvents(call.draft, message_id="msg_1")


def delta(text: str | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    content = {} if text is None else {"content": text}
    return json.dumps({"choices": [{"index": 0, "delta": content, "finish_reason": finish}], **fields}).encode()


def parsed(events: bytes) -> list[Any]:
    """The events, each of which its name and the official types agree with."""
    found = []
    for event in events.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        found.append(OFFICIAL.validate_python(document))
    return found


def test_stream_is_the_documented_sequence_with_usage_at_its_end() -> None:
    events = writer()
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    made = parsed(
        events.feed(delta("Once"))
        + events.feed(delta(" upon"))
        + events.feed(delta(finish="stop"))
        + events.feed(json.dumps({"choices": [], "usage": usage}).encode())
        + events.feed(b"[DONE]")
    )
    deltas = ["response.output_text.delta"] * 2
    assert [event.type for event in made] == [*PROMISES, *deltas, *ENDING, "response.completed"]
    assert [event.sequence_number for event in made] == list(range(len(made)))
    assert [event.delta for event in made if event.type in deltas] == ["Once", " upon"]
    last = made[-1].response
    assert (last.status, last.output_text, last.usage.total_tokens) == ("completed", "Once upon", 5)
    assert {event.item_id for event in made if hasattr(event, "item_id")} == {"msg_1"}
    assert made[0].response.status == "in_progress"
    assert events.is_ended


@pytest.mark.parametrize(
    "early",
    [
        b'{"choices":[{"delta":{"role":"assistant"}}]}',
        b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
        b'{"choices":null,"usage":null}',
        b'{"choices":[],"usage":null}',
        b'{"choices":[{"delta":null}]}',
        b"{}",
    ],
)
def test_stream_promises_nothing_before_its_first_text(early: bytes) -> None:
    events = writer()
    assert events.feed(early) == b""
    assert [event.type for event in parsed(events.feed(delta("a")))] == [*PROMISES, "response.output_text.delta"]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_stream_that_reasons_first_has_begun_and_keeps_its_reasoning(name: str) -> None:
    events = writer()
    thought = json.dumps({"choices": [{"delta": {name: "hm"}}]}).encode()
    assert [event.type for event in parsed(events.feed(thought))] == PROMISES[:2]
    assert events.has_begun
    assert events.feed(thought) == b""
    made = parsed(events.feed(delta("a", finish="stop")) + events.feed(b"[DONE]"))
    assert [event.type for event in made] == [
        *PROMISES[2:],
        "response.output_text.delta",
        *ENDING,
        "response.completed",
    ]
    assert [event.sequence_number for event in made] == list(range(2, len(made) + 2))
    assert made[-1].response.output_text == "a"


def test_failure_while_it_reasons_has_no_output() -> None:
    events = writer()
    events.feed(b'{"choices":[{"delta":{"reasoning":"hm"}}]}')
    failed, _ = parsed(events.failed(upstream_failed("It broke.")))
    assert (failed.type, failed.response.output) == ("response.failed", [])


def test_stream_that_was_cut_ends_incomplete() -> None:
    events = writer()
    made = parsed(events.feed(delta("a", finish="length")) + events.feed(b"[DONE]"))
    assert made[-1].type == "response.incomplete"
    assert made[-1].response.incomplete_details.reason == "max_output_tokens"
    assert made[-1].response.usage is None


def test_stream_without_any_text_is_still_a_whole_response() -> None:
    events = writer()
    made = parsed(events.feed(delta(finish="stop")) + events.feed(b"[DONE]"))
    assert [event.type for event in made] == [*PROMISES, *ENDING, "response.completed"]
    assert made[-1].response.output_text == ""


def test_stream_nothing_follows_the_end() -> None:
    events = writer()
    events.feed(delta("a", finish="stop"))
    events.feed(b"[DONE]")
    assert events.feed(delta("b")) == b""


@pytest.mark.parametrize("broken", [b"{", b"\xff", b'{"choices":[{"delta":{"content":5}}]}', b"[" * 100_000, b"[DONE]"])
def test_stream_that_is_none_says_so(broken: bytes) -> None:
    events = writer()
    events.feed(delta("a"))
    with pytest.raises(ChatStreamError):
        events.feed(broken)


def test_stream_error_of_the_engine_comes_through_with_its_words() -> None:
    events = writer()
    with pytest.raises(ChatStreamError) as caught:
        events.feed(b'{"error":{"message":"out of memory","type":"server_error","code":"oom"}}')
    assert (caught.value.api_error.message, caught.value.api_error.code) == ("out of memory", "oom")


def test_failure_after_the_first_text_is_two_events_with_what_there_was() -> None:
    events = writer()
    events.feed(delta("Once"))
    failed, error = parsed(events.failed(upstream_failed("It broke.")))
    assert (failed.type, failed.response.status, failed.response.output_text) == ("response.failed", "failed", "Once")
    assert failed.response.output[0].status == "incomplete"
    assert (error.type, error.message, error.sequence_number) == ("error", "It broke.", 6)


def test_failure_event_begins_with_the_error_object_by_which_relays_and_clients_know_it() -> None:
    events = writer()
    events.feed(delta("Once"))
    assert (
        events.failed(upstream_failed("It broke.")).split(b"data: ")[-1].startswith(b'{"error":{"message":"It broke."')
    )


def test_stream_text_without_end_is_stopped() -> None:
    events = writer()
    piece = delta("x" * 2**20)
    for _ in range(MAX_TEXT_CHARS // 2**20):
        events.feed(piece)
    with pytest.raises(ChatStreamError, match="more than"):
        events.feed(piece)
