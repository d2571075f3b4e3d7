"""Texts generated through an OpenAI-compatible endpoint, whole and not streamed: for tasks that judge an answer.

Not for measuring speed: see `evaluation.performance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.transport import Served, decoded

_HINT = "The task's `generation:` and `chat:` say what is sent."


@dataclass(frozen=True)
class GenerationParameters:
    """How one answer is made. `seed` None leaves it to the endpoint; temperature 0 is greedy."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """One answer. `finish_reason` is "length" where `max_tokens` cut it; token counts are None where unknown."""

    text: str
    finish_reason: str
    served: Served
    num_prompt_tokens: int | None
    num_completion_tokens: int | None


async def generate(
    endpoint: CompletionEndpoint, prompt: str | Sequence[Mapping[str, str]], parameters: GenerationParameters
) -> Generation:
    """The endpoint's answer to a text (`/v1/completions`) or to a conversation (`/v1/chat/completions`).

    Raises:
        PromptTooLongError: prompt and `max_tokens` do not fit the context together.
        MeasurementError: the endpoint refuses, or answers with something else than one choice.
        NetworkError: it cannot be reached, breaks off, stays busy, or takes too long.
    """
    is_chat = not isinstance(prompt, str)
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages" if is_chat else "prompt": prompt if isinstance(prompt, str) else list(prompt),
        **_fields(parameters),
    }
    reply = await endpoint.transport.request("POST", path, body, hint=_HINT)
    completion = decoded(reply.content, _Completion)
    where = endpoint.base_url + path
    if isinstance(completion, str):
        raise MeasurementError(f"the endpoint's answer is not a completion: {completion}", where=where)
    if len(completion.choices) != 1:
        raise MeasurementError(
            f"the endpoint gave {len(completion.choices)} choices where one was asked for", where=where
        )
    text = _text(completion.choices[0], is_chat=is_chat)
    if isinstance(text, msgspec.UnsetType):
        raise MeasurementError("the endpoint's answer has no text", where=where)
    usage = completion.usage or _Usage()
    return Generation(
        text=text,
        finish_reason=completion.choices[0].finish_reason or "",
        served=reply.served(system_fingerprint=completion.system_fingerprint, model=completion.model),
        num_prompt_tokens=usage.prompt_tokens,
        num_completion_tokens=usage.completion_tokens,
    )


def _fields(parameters: GenerationParameters) -> dict[str, Any]:
    """What is sent beside the prompt; values that ask for nothing are left out, since servers may not know them."""
    fields: dict[str, Any] = {"max_tokens": parameters.max_tokens, "temperature": parameters.temperature}
    if parameters.stop:
        fields["stop"] = list(parameters.stop)
    if parameters.top_p != 1.0:
        fields["top_p"] = parameters.top_p
    if parameters.seed is not None:
        fields["seed"] = parameters.seed
    return fields


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | msgspec.UnsetType = msgspec.UNSET
    message: _Message | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None


def _text(choice: _Choice, *, is_chat: bool) -> str | msgspec.UnsetType:
    if not is_chat:
        return choice.text
    if choice.message is None:
        return msgspec.UNSET
    # null is what servers send where the model said nothing outside its reasoning: an empty answer, and a wrong one
    return choice.message.content or ""
