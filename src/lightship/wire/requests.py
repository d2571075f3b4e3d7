"""Request bodies of the OpenAI API. Every documented field is declared, so that an unknown one can be refused by name.

What an engine does not support is refused by that engine, not here. Fields typed `Any` are passed through or refused
as they are.
Source: https://platform.openai.com/docs/api-reference (chat, completions, responses, embeddings); `top_k`, `echo` with
`logprobs`, `ignore_eos`, `return_tokens_as_token_ids`, `/tokenize` and `/detokenize` as in vLLM's server.
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


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text.format` of `/v1/responses`; all but `type` belong to `json_schema`."""

    type: str = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseTextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text` of `/v1/responses`."""

    format: ResponseFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream_options` of `/v1/responses`."""

    include_obfuscation: bool | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/responses`; `input` is a text, or items of which messages are the plainest."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: ResponseTextOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    truncation: str | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    tools: Any = None
    tool_choice: Any = None
    max_tool_calls: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    background_options: Any = None
    include: Any = None
    reasoning: Any = None
    prompt: Any = None
    service_tier: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    access_programs: Any = None


class TokenizeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /tokenize`: a text, or a conversation to put through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    tools: Any = None


class DetokenizeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /detokenize`."""

    tokens: list[int]
    model: str | None = None


class EmbeddingsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/embeddings`."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None


class RequestHead(msgspec.Struct, frozen=True):
    """The few fields a gateway needs; decoding skips all others without building them."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    prompt_cache_key: str | None = None


T = TypeVar("T")


def decode_body(body: bytes, kind: type[T]) -> T:
    """The body as a record.

    Raises: ApiError: 400, naming the field where there is one.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from error
    except RecursionError as error:
        raise invalid_request("The request body is nested too deeply.", code="invalid_json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
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
