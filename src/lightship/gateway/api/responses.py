"""`/v1/responses` in terms of `/v1/chat/completions`: requests there, whole answers and errors back. Pure.

Every field of a request is used, or comes back in the answer, or is refused by name: nothing is silently ignored.
`id`, `status` and `phase` of an input item are what an earlier answer said about it, and tell the engine nothing.
Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lightship.wire.errors import ApiError, invalid_request, unsupported_parameter
from lightship.wire.requests import ResponseFormat, ResponsesRequest, decode_body
from lightship.wire.response_records import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
)

# Values in a document that is built up as objects, and so takes many times its bytes. Every value but the first one of
# a list or an object follows a comma; those within texts count too, so this is far above what a conversation has.
MAX_VALUES = 300_000
MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_ITEM_KEYS = frozenset({"type", "role", "content", "id", "status", "phase"})
_NO_STATE = "no response is kept here; send the whole conversation as input."
_NO_TOOLS = "this model's engine has no /v1/responses, and tools are passed on in /v1/chat/completions only."
# Values of a field that ask for nothing, beside null, and why any other is refused.
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "responses are not kept."),
    "previous_response_id": ((), _NO_STATE),
    "conversation": ((), _NO_STATE),
    "background": ((False,), "an answer comes in the request that asks for it."),
    "background_options": (({},), "an answer comes in the request that asks for it."),
    "include": (([],), "there is nothing more to include."),
    "reasoning": (({}, {"effort": None, "summary": None}, {"effort": None}), "there is no control of reasoning."),
    "tools": (([],), _NO_TOOLS),
    "tool_choice": (("auto", "none"), _NO_TOOLS),
    "max_tool_calls": ((), _NO_TOOLS),
    "prompt": ((), "there are no stored prompts."),
    "truncation": (("disabled",), "an input that is too long is refused, never cut."),
    "top_logprobs": ((0,), "log-probabilities are passed on in /v1/chat/completions only."),
    "service_tier": (("auto", "default"), "there is one tier."),
    "prompt_cache_options": (({},), "the engine decides what it caches."),
    "prompt_cache_retention": (("in_memory",), "the prefix cache lives in memory only."),
    "context_management": (([],), "an input is used as it is."),
    "moderation": ((), "nothing is moderated."),
    "image": (({},), "images are used as they are."),
    "access_programs": (({},), "there are none."),
}


@dataclass(frozen=True)
class ChatCall:
    """A request of `/v1/responses` as the chat request that answers it.

    `draft` is the response before anything is known of it; `num_added_messages` stand before those of the client.
    """

    body: bytes
    draft: ResponseObject
    is_streaming: bool
    num_added_messages: int


def to_chat_call(body: bytes, *, response_id: str, created_unix_s: int) -> ChatCall:
    """The chat request that answers a request of `/v1/responses`.

    Raises: ApiError: 400, naming the field that is wrong or that cannot be honoured without an engine's help.
    """
    if body.count(b",") > MAX_VALUES:
        message = f"The request has more than {MAX_VALUES} values, which is more than can be translated."
        raise invalid_request(message, code="too_many_parameters")
    request = decode_body(body, ResponsesRequest)
    _refuse_unless_neutral(request)
    _check_metadata(request.metadata or {})
    chat: dict[str, Any] = {"model": request.model, "messages": _messages(request)}
    for name, value in {
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "user": request.user,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
        **_text_fields(request),
    }.items():
        if value is not None:
            chat[name] = value
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return ChatCall(
        body=msgspec.json.encode(chat),
        draft=_draft(request, response_id=response_id, created_unix_s=created_unix_s),
        is_streaming=bool(request.stream),
        num_added_messages=1 if request.instructions is not None else 0,
    )


class _ReplyMessage(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _ReplyMessage
    finish_reason: str | None = None


class _ChatReply(msgspec.Struct, frozen=True):
    choices: list[_Choice]
    model: str | None = None
    usage: Any = None


def from_chat_reply(body: bytes, draft: ResponseObject, *, message_id: str) -> ResponseObject:
    """The response that a whole chat answer makes.

    Raises: ValueError: it is no chat answer.
    """
    if body.count(b",") > MAX_VALUES:
        raise ValueError(f"a chat answer with more than {MAX_VALUES} values")
    try:
        reply = msgspec.json.decode(body, type=_ChatReply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a chat answer: {error}") from error
    if not reply.choices:
        raise ValueError("a chat answer without a choice")
    choice = reply.choices[0]
    text = choice.message.content or choice.message.refusal or ""
    return completed(
        msgspec.structs.replace(draft, model=reply.model or draft.model),
        text=text,
        finish_reason=choice.finish_reason,
        usage=usage_of(reply.usage),
        message_id=message_id,
    )


def completed(
    draft: ResponseObject, *, text: str, finish_reason: str | None, usage: ResponseUsage | None, message_id: str
) -> ResponseObject:
    """The response at its end: complete, or incomplete because the engine stopped at a limit or a filter."""
    cut = incomplete_details(finish_reason)
    status: ResponseStatus = "completed" if cut is None else "incomplete"
    item_status: ItemStatus = "completed" if cut is None else "incomplete"
    message = OutputMessage(message_id, item_status, [OutputText(text)])
    return msgspec.structs.replace(draft, status=status, output=[message], usage=usage, incomplete_details=cut)


def incomplete_details(finish_reason: str | None) -> IncompleteDetails | None:
    """Why an answer ended before its end, or None where it did not."""
    if finish_reason == "length":
        return IncompleteDetails("max_output_tokens")
    return IncompleteDetails("content_filter") if finish_reason == "content_filter" else None


def usage_of(value: object) -> ResponseUsage | None:
    """Token counts from the `usage` of a chat answer, or None where an engine sends none or nonsense.

    >>> usage_of({"prompt_tokens": 3, "completion_tokens": 4}).total_tokens
    7
    >>> usage_of({"prompt_tokens": -3, "completion_tokens": 4}) is None
    True
    """
    if not isinstance(value, dict):
        return None
    num_input, num_output = count_or_none(value.get("prompt_tokens")), count_or_none(value.get("completion_tokens"))
    if num_input is None or num_output is None:
        return None
    return ResponseUsage(
        num_input,
        num_output,
        num_input + num_output,
        InputTokensDetails(_detail(value, "prompt_tokens_details", "cached_tokens")),
        OutputTokensDetails(_detail(value, "completion_tokens_details", "reasoning_tokens")),
    )


def renamed_error(error: ApiError, call: ChatCall) -> ApiError:
    """The engine's error, with the field it complains about as the client knows it."""
    error.param = None if error.param is None else param_of_responses(error.param, call.num_added_messages)
    return error


_MESSAGE = re.compile(r"messages\[(\d+)\]")
_PARAMS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}


def param_of_responses(param: str, num_added_messages: int) -> str:
    """What a field of a chat request is called in `/v1/responses`.

    >>> param_of_responses("messages[3].content", 1), param_of_responses("messages[0].content", 1)
    ('input[2].content', 'instructions')
    """
    match = _MESSAGE.match(param)
    if match is None:
        name, dot, rest = param.partition(".")
        return _PARAMS.get(name, name) + dot + rest
    index = int(match[1]) - num_added_messages
    return "instructions" if index < 0 else f"input[{index}]{param[match.end() :]}"


def _refuse_unless_neutral(request: ResponsesRequest) -> None:
    for name, (values, reason) in _NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and not any(value == neutral and type(value) is type(neutral) for neutral in values):
            raise unsupported_parameter(name, reason=reason)
    options = request.stream_options
    if options is not None and not request.stream:
        raise invalid_request("stream_options needs stream: true.", param="stream_options")
    if options is not None and options.include_obfuscation:
        raise unsupported_parameter("stream_options.include_obfuscation", reason="events are sent without padding.")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA:
        message = f"metadata has {len(metadata)} entries; at most {MAX_METADATA} are kept."
        raise invalid_request(message, param="metadata")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY_CHARS or len(value) > MAX_METADATA_VALUE_CHARS:
            raise invalid_request(
                f"A key of metadata has at most {MAX_METADATA_KEY_CHARS} characters, "
                f"a value at most {MAX_METADATA_VALUE_CHARS}.",
                param="metadata",
            )


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    if not request.input:
        raise invalid_request("input is empty.", param="input")
    return messages + [_message(item, where=f"input[{index}]") for index, item in enumerate(request.input)]


def _message(item: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind != "message":
        raise unsupported_parameter(f"{where}.type", reason=f"{_shown(kind)} items cannot be used, only messages.")
    if unknown := sorted(item.keys() - _ITEM_KEYS):
        name = f"{where}.{unknown[0]}"
        raise invalid_request(f"Unknown parameter {name!r}.", param=name, code="unknown_parameter")
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        message = f"{where}.role is {_shown(role)}; it must be one of {', '.join(sorted(_ROLES))}."
        raise invalid_request(message, param=f"{where}.role")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        message = f"{where}.content must be a text or a list of parts that is not empty."
        raise invalid_request(message, param=f"{where}.content", code="invalid_type")
    parts = [_part(part, where=f"{where}.content[{index}]") for index, part in enumerate(content)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return {"role": role, "content": parts[0]["text"]}
    return {"role": role, "content": parts}


def _part(part: object, *, where: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise invalid_request(f"{where} is not an object.", param=where, code="invalid_type")
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": _text(part.get("text"), where=f"{where}.text")}
        case "refusal":
            return {"type": "text", "text": _text(part.get("refusal"), where=f"{where}.refusal")}
        case "input_image" if part.get("file_id") is None:
            image = {"url": _text(part.get("image_url"), where=f"{where}.image_url")}
            detail = part.get("detail")
            if detail not in (None, "auto"):
                image["detail"] = _text(detail, where=f"{where}.detail")
            return {"type": "image_url", "image_url": image}
        case kind:
            reason = f"{_shown(kind)} parts cannot be read, only texts and images by address."
            raise unsupported_parameter(f"{where}.type", reason=reason)


def _text(value: object, *, where: str) -> str:
    if not isinstance(value, str):
        raise invalid_request(f"{where} is not a string.", param=where, code="invalid_type")
    return value


def _text_fields(request: ResponsesRequest) -> dict[str, Any]:
    """Chat fields for `text`; an engine that lacks one refuses it."""
    if request.text is None:
        return {}
    verbosity = request.text.verbosity if request.text.verbosity != "medium" else None
    return {"verbosity": verbosity, "response_format": _response_format(request.text.format)}


def _response_format(given: ResponseFormat | None) -> dict[str, Any] | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.type != "json_schema":
        message = f"text.format.type is {_shown(given.type)}; it must be text, json_object or json_schema."
        raise invalid_request(message, param="text.format.type")
    if given.name is None or given.schema is None:
        missing = "name" if given.name is None else "schema"
        param = f"text.format.{missing}"
        raise invalid_request(f"Missing required parameter {param!r}.", param=param, code="missing_parameter")
    schema = {"name": given.name, "schema": given.schema, "description": given.description, "strict": given.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _draft(request: ResponsesRequest, *, response_id: str, created_unix_s: int) -> ResponseObject:
    text = {"format": {"type": "text"}} if request.text is None else _shown_text(request)
    return ResponseObject(
        id=response_id,
        created_at=created_unix_s,
        model=request.model,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        text=text,
        metadata=request.metadata or {},
        user=request.user,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        tool_choice=request.tool_choice or "auto",
    )


def _shown_text(request: ResponsesRequest) -> dict[str, Any]:
    assert request.text is not None
    given = msgspec.to_builtins(request.text)
    form = {name: value for name, value in (given["format"] or {"type": "text"}).items() if value is not None}
    return {"format": form} if given["verbosity"] is None else {"format": form, "verbosity": given["verbosity"]}


def _shown(value: object) -> str:
    return repr(value)[:100]


def count_or_none(value: object) -> int | None:
    """A token count, or None for what is none: counts end up in budgets and bills."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return (count_or_none(details.get(name)) or 0) if isinstance(details, dict) else 0
