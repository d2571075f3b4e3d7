"""Request bodies of the OpenAI API. Every documented field is declared, so that an unknown one can be refused by name.

What an engine does not support is refused by that engine, not here. Fields typed `Any` are passed through or refused
as they are.
Source: https://platform.openai.com/docs/api-reference (chat, completions); `top_k`, `echo` with `logprobs`,
`ignore_eos` and `return_tokens_as_token_ids` as in vLLM's server.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from lightship.wire.errors import ApiError, invalid_request


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream_options`."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message; `content` is a text or a list of parts."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None


class _SharedFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Any = None
    user: str | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None


class CompletionRequest(_SharedFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/completions`. `logprobs` counts alternatives per token; `echo` returns the prompt too."""

    prompt: str | list[str | int | list[int]]  # a text, texts, tokens, or lists of tokens; never mixed
    max_tokens: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None


class ChatRequest(_SharedFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    reasoning_effort: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    service_tier: Any = None
    store: bool | None = None
    metadata: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class RequestHead(msgspec.Struct, frozen=True):
    """The few fields a gateway needs; decoding skips all others without building them."""

    model: str | None = None
    stream: bool | None = None


T = TypeVar("T")


def decode_body(body: bytes, kind: type[T]) -> T:
    """The body as a record.

    Raises: ApiError: 400, naming the field where there is one.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error


def _field_error(message: str) -> ApiError:
    if "unknown field" in message:
        field = message.split("`")[1]
        return invalid_request(
            f"Unknown parameter {field!r}. Remove it, or check its spelling.", param=field, code="unknown_parameter"
        )
    if "missing required field" in message:
        field = message.split("`")[1]
        return invalid_request(f"Missing required parameter {field!r}.", param=field, code="missing_parameter")
    what, _, path = message.partition(" - at `")
    param = path.rstrip("`").removeprefix("$").removeprefix(".") or None
    return invalid_request(f"{what} for {param or 'the body'}.", param=param, code="invalid_type")
