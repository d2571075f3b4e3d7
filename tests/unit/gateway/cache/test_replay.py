from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion

from lightship.gateway.cache.answer import StoredAnswer, answer_of, data_of, split_events
from lightship.gateway.cache.replay import replayed
from lightship.ports.engine import TokenUsage

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "completion_tokens_details": {"reasoning_tokens": 1},
}
COUNTED = TokenUsage(num_prompt_tokens=3, num_output_tokens=4, is_reported=True)
ENVELOPE = {"id": "chatcmpl-1", "created": 17, "model": "m", "system_fingerprint": "fp"}
LOGPROBS = [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
]


def stored(body: bytes, *, usage: TokenUsage = COUNTED) -> StoredAnswer:
    content_type = "text/event-stream" if body.startswith(b"data") else "application/json"
    answer = answer_of(
        body,
        status=200,
        headers={"content-type": content_type, "x-served-variant": "v"},
        usage=usage,
        rung=0,
        trimmed_output_tokens=None,
        now_unix_s=0,
    )
    assert isinstance(answer, StoredAnswer), answer
    return answer


def whole_chat(message: dict[str, Any], *, logprobs: Any = None, finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish, "stop_reason": None}
    return json.dumps({**ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": USAGE, **more}).encode()


def stream_of(*choices: dict[str, Any], kind: str = "chat.completion.chunk", usage: bool = False) -> bytes:
    chunks = [
        {**ENVELOPE, "object": kind, "choices": [{"index": 0, "finish_reason": None, **each}]} for each in choices
    ]
    if usage:
        chunks.append({**ENVELOPE, "object": kind, "choices": [], "usage": USAGE})
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


def as_stream(answer: StoredAnswer, *, path: str = CHAT, wants_usage: bool = False) -> list[dict[str, Any]]:
    form = replayed(answer, path=path, is_streaming=True, wants_usage=wants_usage)
    assert form is not None
    content_type, body = form
    assert content_type.startswith("text/event-stream")
    data = [data_of(event) for event in split_events(body)]
    assert data.pop() == b"[DONE]"
    return [json.loads(each) for each in data if each is not None]


def as_whole(answer: StoredAnswer, *, path: str = CHAT) -> dict[str, Any]:
    form = replayed(answer, path=path, is_streaming=False, wants_usage=False)
    assert form is not None
    assert form[0] == "application/json"
    whole: dict[str, Any] = json.loads(form[1])
    return whole


def message_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a chat's stream: the reference to hold both conversions against."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    for piece in value:
                        call = calls.setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
                        call |= {key: piece[key] for key in ("id", "type") if piece.get(key)}
                        for key, text in piece.get("function", {}).items():
                            call["function"][key] += text or ""
                elif isinstance(value, str):
                    message[name] = value if name == "role" else message.get(name, "") + value
    return {**message, "tool_calls": [calls[place] for place in sorted(calls)]} if calls else message


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "Hi \u00e9\n", "refusal": None, "annotations": [], "tool_calls": []},
        {"role": "assistant", "content": "Hi", "reasoning_content": "hm"},
        {"role": "assistant", "content": "", "refusal": "no"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
    ],
)
def test_replay_whole_chat_streams_the_same_message(message: dict[str, Any]) -> None:
    chunks = as_stream(stored(whole_chat(message)), wants_usage=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        assert {name: chunk[name] for name in ENVELOPE} == ENVELOPE
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finishes[-1] == "stop"
    assert set(finishes[:-1]) == {None}
    expected = {name: value for name, value in message.items() if value not in (None, [])}
    assert message_of(chunks) == {"content": "", **expected}


def test_replay_whole_chat_keeps_log_probabilities_to_the_last_digit() -> None:
    body = whole_chat({"role": "assistant", "content": "Hi"}, logprobs={"content": LOGPROBS, "refusal": None})
    answer = stored(body.replace(b"-0.1,", b"-0.1000000000000000055,"))
    form = replayed(answer, path=CHAT, is_streaming=True, wants_usage=False)
    assert form is not None
    assert form[1].count(b"-0.1000000000000000055") == 1
    beside = [choice["logprobs"] for chunk in as_stream(answer) for choice in chunk["choices"]]
    assert [each for each in beside if each] == [{"content": LOGPROBS, "refusal": None}]


def test_replay_whole_text_streams_the_same_choice() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.5], "top_logprobs": None, "text_offset": [0]}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}
    body = json.dumps({**ENVELOPE, "object": "text_completion", "choices": [choice], "usage": USAGE}).encode()
    (chunk,) = as_stream(stored(body), path=TEXT)
    Completion.model_validate(chunk)
    assert chunk["choices"] == [choice]
    assert [chunk["choices"] for chunk in as_stream(stored(body), path=TEXT, wants_usage=True)] == [[choice], []]


def test_replay_stream_comes_back_byte_for_byte() -> None:
    plain = stream_of(
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"content": "Hi"}},
        {"delta": {}, "finish_reason": "stop"},
    )
    counted = plain.replace(b"data: [DONE]", b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\ndata: [DONE]')
    with_usage, without = stored(counted), stored(plain)
    assert replayed(with_usage, path=CHAT, is_streaming=True, wants_usage=True) == ("text/event-stream", counted)
    assert replayed(with_usage, path=CHAT, is_streaming=True, wants_usage=False) == ("text/event-stream", plain)
    assert replayed(without, path=CHAT, is_streaming=True, wants_usage=False) == ("text/event-stream", plain)
    *_, last = as_stream(without, wants_usage=True)
    assert (last["id"], last["choices"], last["usage"]["completion_tokens"]) == ("chatcmpl-1", [], 4)


def test_replay_stream_nobody_counted_has_no_form_with_usage() -> None:
    answer = stored(stream_of({"delta": {"content": "Hi"}, "finish_reason": "stop"}), usage=TokenUsage())
    assert replayed(answer, path=CHAT, is_streaming=True, wants_usage=True) is None
    assert replayed(answer, path=CHAT, is_streaming=False, wants_usage=False) is None
    assert replayed(answer, path=CHAT, is_streaming=True, wants_usage=False) is not None


def test_replay_streamed_chat_is_one_object() -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    choices: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"reasoning_content": "h"}},
        {"delta": {"reasoning_content": "m", "content": None}},
        {"delta": {"tool_calls": [first]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}},
        {"delta": {"tool_calls": [{**first, "index": 1, "id": "c2", "function": {"name": "g", "arguments": ""}}]}},
        {"delta": {}, "finish_reason": "tool_calls", "stop_reason": None},
    ]
    whole = as_whole(stored(stream_of(*choices, usage=True)))
    ChatCompletion.model_validate(whole)
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": CALLS,
    }
    assert whole["usage"] == USAGE
    assert whole["object"] == "chat.completion"


def test_replay_streamed_log_probabilities_are_joined() -> None:
    chat = stream_of(
        {"delta": {"role": "assistant", "content": ""}, "logprobs": None},
        {"delta": {"content": "Hi"}, "logprobs": {"content": LOGPROBS}},
        {"delta": {"content": "Hi"}, "logprobs": {"content": LOGPROBS}},
        {"delta": {}, "finish_reason": "stop"},
    )
    (choice,) = as_whole(stored(chat))["choices"]
    assert choice["logprobs"] == {"content": LOGPROBS * 2}

    def piece(text: str, offset: int, finish: str | None = None) -> dict[str, Any]:
        values = {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": [{text: -1.0}], "text_offset": [offset]}
        return {"text": text, "logprobs": values, "finish_reason": finish}

    text = stored(stream_of(piece("a", 0), piece("bc", 1), piece("d", 3, "length"), kind="text_completion"))
    (choice,) = as_whole(text, path=TEXT)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abcd", "length")
    assert choice["logprobs"]["tokens"] == ["a", "bc", "d"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 3]
    Completion.model_validate(as_whole(text, path=TEXT))
    relative = stored(stream_of(piece("ab", 0), piece("c", 2), piece("d", 0, "stop"), kind="text_completion"))
    assert replayed(relative, path=TEXT, is_streaming=False, wants_usage=False) is None


END: dict[str, Any] = {"delta": {}, "finish_reason": "stop"}
NAMED_CALL: dict[str, Any] = {"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}}


@pytest.mark.parametrize(
    "body",
    [
        whole_chat({"role": "assistant", "content": "Hi", "audio": {"id": "a"}}),
        whole_chat({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}),
        whole_chat({"role": "assistant", "content": "Hi"}, prompt_logprobs=[1]),
        whole_chat({"role": "assistant", "content": None, "tool_calls": [{**CALLS[0], "extra": 1}]}),
        whole_chat({"role": "assistant", "content": None}, logprobs={"content": []}),
        stream_of({"delta": {"content": "Hi", "audio": {"id": "a"}}}, END),
        stream_of({"delta": {"content": "Hi"}, "token_ids": [1]}, END),
        stream_of({"delta": {"role": "assistant"}}, {"delta": {"role": "tool", "content": "Hi"}}, END),
        stream_of({"delta": {"tool_calls": [{"index": 1, "id": "c", "function": {"name": "f"}}]}}, END),
        stream_of({"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"arguments": "{}"}}]}}, END),
        stream_of(NAMED_CALL, NAMED_CALL, END),
        stream_of({"delta": {"content": "Hi"}, "finish_reason": "length"}, END),
        stream_of({"delta": {"content": "Hi"}, "index": 1}, END),
        stream_of({"delta": {"content": [{"type": "text"}]}}, END),
        stream_of({"delta": {"content": "Hi"}}, END).replace(b"chatcmpl-1", b"chatcmpl-2", 1),
    ],
    ids=range(15),
)
def test_replay_what_has_no_exact_other_form_is_refused(body: bytes) -> None:
    answer = stored(body)
    is_stream = answer.is_stream
    assert replayed(answer, path=CHAT, is_streaming=not is_stream, wants_usage=False) is None
    same = replayed(answer, path=CHAT, is_streaming=is_stream, wants_usage=False)
    assert same is not None
    assert same[1] == body


@given(texts=st.lists(st.text(max_size=6), max_size=8), reasons=st.lists(st.text(max_size=6), max_size=3))
def test_replay_streamed_chat_and_its_whole_say_the_same(texts: list[str], reasons: list[str]) -> None:
    choices: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
    choices += [{"delta": {"reasoning_content": text}} for text in reasons]
    choices += [{"delta": {"content": text}} for text in texts]
    whole = as_whole(stored(stream_of(*choices, END)))
    message = whole["choices"][0]["message"]
    assert message["content"] == "".join(texts)
    assert message.get("reasoning_content", "") == "".join(reasons)
    back = message_of(as_stream(stored(json.dumps(whole).encode())))
    assert back == {name: value for name, value in message.items() if value is not None}
