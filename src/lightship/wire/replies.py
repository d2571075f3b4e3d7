"""Reply bodies of the OpenAI API, whole and as stream chunks; encode them with `msgspec.json.encode`."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of `/v1/completions`, natural logarithm, one entry per token.

    The first prompt token has None: nothing precedes it.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One alternative of `/v1/completions`; in a stream chunk `text` is what is new."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct, frozen=True):
    """Reply, or stream chunk, of `/v1/completions`."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    object: str = "text_completion"


class TopLogprob(msgspec.Struct, frozen=True):
    """One alternative token of a chat log-probability entry."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """One token of a chat reply with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """`choices[].logprobs` of a chat reply."""

    content: list[ChatTokenLogprob]


class ChatReplyMessage(msgspec.Struct, frozen=True):
    """The assistant's message."""

    content: str
    role: str = "assistant"
    refusal: str | None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One alternative of a chat reply."""

    index: int
    message: ChatReplyMessage
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    """Reply of `/v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    object: str = "chat.completion"


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new in a chat stream chunk; fields that are None are left out."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One alternative in a chat stream chunk."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(msgspec.Struct, frozen=True):
    """Stream chunk of `/v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    object: str = "chat.completion.chunk"


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of `/v1/models`; the fields below `owned_by` are ours."""

    id: str
    created: int
    owned_by: str = "lightship"
    object: str = "model"
    max_model_len: int | None = None
    variant: str | None = None
    variant_digest: str | None = None


class ModelList(msgspec.Struct, frozen=True):
    """Reply of `/v1/models`."""

    data: list[ModelCard]
    object: str = "list"


class TokenizeReply(msgspec.Struct, frozen=True):
    """Reply of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(msgspec.Struct, frozen=True):
    """Reply of `/detokenize`."""

    prompt: str
