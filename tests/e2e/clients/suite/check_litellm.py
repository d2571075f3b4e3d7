"""LiteLLM as a client."""

from __future__ import annotations

import os
from typing import Any

import litellm  # type: ignore[import-not-found]
import pytest

URL = os.environ["LIGHTSHIP_GATEWAY_URL"]
KEY = os.environ["LIGHTSHIP_KEY_PLAIN"]
MESSAGES = [{"role": "user", "content": "Tell me a story"}]
litellm.telemetry = False


def options(model: str = "good", **fields: Any) -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": f"{URL}/v1", "api_key": KEY, "max_retries": 0, **fields}


def test_chat_whole_and_streamed() -> None:
    whole = litellm.completion(**options(messages=MESSAGES, max_tokens=12, temperature=0))
    chunks = list(litellm.completion(**options(messages=MESSAGES, max_tokens=12, temperature=0, stream=True)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 12


def test_chat_streamed_with_usage() -> None:
    fields = options(messages=MESSAGES, max_tokens=6, stream=True, stream_options={"include_usage": True})
    usages = [chunk.usage for chunk in litellm.completion(**fields) if getattr(chunk, "usage", None)]
    assert usages[-1].completion_tokens <= 6


def test_text_completion() -> None:
    fields = options(prompt="Once", max_tokens=6)
    fields["model"] = "text-completion-openai/good"
    assert litellm.text_completion(**fields).choices[0].text


def test_responses_whole_and_streamed() -> None:
    whole = litellm.responses(**options(input="Tell me a story", max_output_tokens=20))
    assert whole.output[0].content[0].text
    assert whole.usage.output_tokens <= 20
    kinds = [
        str(getattr(event.type, "value", event.type))
        for event in litellm.responses(**options(input="Tell me a story", max_output_tokens=20, stream=True))
    ]
    assert "response.output_text.delta" in kinds
    assert kinds[-1] in {"response.completed", "response.incomplete"}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("says-400", litellm.BadRequestError),
        ("says-401", litellm.AuthenticationError),
        ("nobody", litellm.NotFoundError),
        ("says-429", litellm.RateLimitError),
        ("says-503", litellm.ServiceUnavailableError),
    ],
)
def test_errors_become_the_exceptions_their_users_catch(model: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        litellm.completion(**options(model, messages=MESSAGES))


def test_refusal_that_is_over_soon_is_repeated() -> None:
    fields = options("says-503-twice", messages=MESSAGES)
    fields["max_retries"] = 2
    assert litellm.completion(**fields).choices[0].message.content == "at last"


def test_wrong_key_is_an_authentication_error() -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**options(messages=MESSAGES), "api_key": "sk-other"})
