"""`/v1/responses` and back, against the official client's own types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response

from lightship.gateway.api.responses import (
    MAX_VALUES,
    ChatCall,
    from_chat_reply,
    param_of_responses,
    renamed_error,
    to_chat_call,
    usage_of,
)
from lightship.wire.errors import ApiError, invalid_request

TEXT = {"model": "m", "input": "hi"}


def translate(**fields: Any) -> ChatCall:
    body = json.dumps({**TEXT, **fields}).encode()
    return to_chat_call(body, response_id="resp_1", created_unix_s=1_700_000_000)


def chat_body(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(translate(**fields).body)
    return body


def test_request_text_becomes_one_user_message() -> None:
    assert chat_body() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_request_all_that_is_used_finds_its_chat_field() -> None:
    body = chat_body(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        stream=True,
        text={"format": {"type": "json_object"}, "verbosity": "low"},
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_object"},
        "verbosity": "low",
    }


def test_request_conversation_of_items_becomes_messages() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
        },
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "c"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    assert chat_body(input=items)["messages"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "c"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": "no"},
    ]


def test_request_schema_becomes_a_response_format() -> None:
    given = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat_body(text={"format": given})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }


@dataclass(frozen=True)
class Refused:
    """Fields of a request, and the parameter the refusal names."""

    fields: dict[str, Any]
    param: str
    code: str | None = "unsupported_parameter"


USER = {"role": "user", "content": "a"}
REFUSED = {
    "tools": Refused({"tools": [{"type": "web_search"}]}, "tools"),
    "tool_choice": Refused({"tool_choice": "required"}, "tool_choice"),
    "tool_choice-object": Refused({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    "store": Refused({"store": True}, "store"),
    "store-number": Refused({"store": 0}, "store", "invalid_type"),
    "previous": Refused({"previous_response_id": "resp_0"}, "previous_response_id"),
    "conversation": Refused({"conversation": "conv_0"}, "conversation"),
    "background": Refused({"background": True}, "background"),
    "include": Refused({"include": ["message.output_text.logprobs"]}, "include"),
    "reasoning": Refused({"reasoning": {"effort": "high"}}, "reasoning"),
    "truncation": Refused({"truncation": "auto"}, "truncation"),
    "logprobs": Refused({"top_logprobs": 3}, "top_logprobs"),
    "prompt": Refused({"prompt": {"id": "p"}}, "prompt"),
    "tier": Refused({"service_tier": "flex"}, "service_tier"),
    "padding": Refused(
        {"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"
    ),
    "stream-options": Refused({"stream_options": {}}, "stream_options", None),
    "unknown": Refused({"temprature": 1}, "temprature", "unknown_parameter"),
    "type": Refused({"temperature": "hot"}, "temperature", "invalid_type"),
    "empty": Refused({"input": []}, "input", None),
    "item": Refused({"input": [USER, {"type": "reasoning", "summary": []}]}, "input[1].type"),
    "item-odd": Refused({"input": [{"type": 7}]}, "input[0].type"),
    "item-key": Refused({"input": [{**USER, "name": "x"}]}, "input[0].name", "unknown_parameter"),
    "role": Refused({"input": [{"role": "tool", "content": "a"}]}, "input[0].role", None),
    "role-list": Refused({"input": [{"role": ["user"], "content": "a"}]}, "input[0].role", None),
    "content": Refused({"input": [{"role": "user", "content": None}]}, "input[0].content", "invalid_type"),
    "parts": Refused({"input": [{"role": "user", "content": []}]}, "input[0].content", "invalid_type"),
    "part": Refused({"input": [{"role": "user", "content": ["a"]}]}, "input[0].content[0]", "invalid_type"),
    "file": Refused(
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0].type"
    ),
    "image-file": Refused(
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].type"
    ),
    "text": Refused(
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
        "input[0].content[0].text",
        "invalid_type",
    ),
    "format": Refused({"text": {"format": {"type": "xml"}}}, "text.format.type", None),
    "schema": Refused(
        {"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing_parameter"
    ),
    "metadata-many": Refused({"metadata": {str(key): "v" for key in range(17)}}, "metadata", None),
    "metadata-long": Refused({"metadata": {"k": "v" * 513}}, "metadata", None),
    "metadata-type": Refused({"metadata": {"k": 5}}, "metadata[...]", "invalid_type"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_request_what_cannot_be_honoured_is_refused_by_name(case: Refused) -> None:
    with pytest.raises(ApiError) as caught:
        translate(**case.fields)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, case.param, case.code)


@pytest.mark.parametrize("value", [b"{}", b"[]", b'"a"', b"1.5", b'{"a":1}'])
def test_request_that_would_take_many_times_its_size_is_refused_before_it_is_built(value: bytes) -> None:
    body = b'{"model":"m","input":"x","tools":[' + b",".join([value] * (MAX_VALUES + 2)) + b"]}"
    with pytest.raises(ApiError) as caught:
        to_chat_call(body, response_id="r", created_unix_s=1)
    assert caught.value.code == "too_many_parameters"


def test_reply_that_would_take_many_times_its_size_is_none() -> None:
    body = b'{"choices":[' + b",".join([b"{}"] * (MAX_VALUES + 2)) + b"]}"
    with pytest.raises(ValueError, match="values"):
        from_chat_reply(body, translate().draft, message_id="m")


def test_request_values_that_ask_for_nothing_are_accepted() -> None:
    neutral = {
        "store": False,
        "background": False,
        "include": [],
        "tools": [],
        "tool_choice": "auto",
        "reasoning": {},
        "truncation": "disabled",
        "top_logprobs": 0,
        "service_tier": "auto",
        "previous_response_id": None,
        "stream_options": None,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
    }
    assert chat_body(**neutral) == chat_body()


def chat_reply(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": "Once."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
    return json.dumps({"id": "c", "model": "engine/m", "choices": [choice], "usage": usage, **fields}).encode()


def test_reply_whole_is_a_response_the_official_client_accepts() -> None:
    draft = translate(instructions="Be brief.", temperature=0.5, metadata={"k": "v"}, max_output_tokens=9).draft
    made = from_chat_reply(chat_reply(), draft, message_id="msg_1")
    response = Response.model_validate_json(msgspec.json.encode(made))
    assert response.output_text == "Once."
    assert (response.id, response.status, response.model) == ("resp_1", "completed", "engine/m")
    assert (response.instructions, response.temperature, response.max_output_tokens) == ("Be brief.", 0.5, 9)
    assert response.metadata == {"k": "v"}
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 4, 7)
    assert response.usage.input_tokens_details.cached_tokens == 2


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("stop", None)]
)
def test_reply_that_was_cut_is_incomplete_and_says_why(finish: str, reason: str | None) -> None:
    choice = {"message": {"content": "Once"}, "finish_reason": finish}
    made = from_chat_reply(chat_reply(choices=[choice]), translate().draft, message_id="msg_1")
    response = Response.model_validate_json(msgspec.json.encode(made))
    assert response.status == ("incomplete" if reason else "completed")
    assert (response.incomplete_details.reason if response.incomplete_details else None) == reason


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"choices":[]}', b"{}", b'{"choices":[{"message":{"content":5}}]}', b"[" * 100_000]
)
def test_reply_that_is_no_chat_answer_is_told_apart(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"chat answer"):
        from_chat_reply(body, translate().draft, message_id="msg_1")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": "3", "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
    ],
)
def test_usage_that_is_a_lie_counts_as_none(usage: object) -> None:
    assert usage_of(usage) is None


@pytest.mark.parametrize(
    ("param", "added", "expected"),
    [
        ("messages", 0, "input"),
        ("messages[0].role", 0, "input[0].role"),
        ("messages[0].content", 1, "instructions"),
        ("messages[12].content[1].type", 1, "input[11].content[1].type"),
        ("max_tokens", 0, "max_output_tokens"),
        ("response_format", 0, "text.format"),
        ("response_format.json_schema", 0, "text.format.json_schema"),
        ("temperature", 0, "temperature"),
    ],
)
def test_error_names_the_field_as_the_client_knows_it(param: str, added: int, expected: str) -> None:
    assert param_of_responses(param, added) == expected
    call = translate(instructions="x") if added else translate()
    assert renamed_error(invalid_request("no", param=param), call).param == expected
