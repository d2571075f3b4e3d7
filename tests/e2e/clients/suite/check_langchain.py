"""LangChain's OpenAI classes."""

from __future__ import annotations

import os
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # type: ignore[import-not-found]

URL = os.environ["LIGHTSHIP_GATEWAY_URL"]
KEY = os.environ["LIGHTSHIP_KEY_PLAIN"]


def chat(model: str = "good", **fields: Any) -> Any:
    return ChatOpenAI(model=model, base_url=f"{URL}/v1", api_key=KEY, max_retries=0, **fields)


def test_chat_whole_with_usage() -> None:
    reply = chat(temperature=0, max_tokens=8).invoke("Tell me a story")
    assert reply.content
    assert reply.usage_metadata["output_tokens"] <= 8
    assert reply.response_metadata["model_name"] == "good"


def test_chat_streamed_pieces_make_the_whole() -> None:
    model = chat(temperature=0, max_tokens=8)
    pieces = [chunk.content for chunk in model.stream("Tell me a story")]
    assert "".join(pieces) == model.invoke("Tell me a story").content
    assert len([piece for piece in pieces if piece]) > 1


def test_chat_in_a_batch() -> None:
    assert all(reply.content for reply in chat(max_tokens=4).batch(["a", "b", "c"]))


def test_completion() -> None:
    model = OpenAI(model="good", base_url=f"{URL}/v1", api_key=KEY, max_tokens=6, max_retries=0)
    assert model.invoke("Once upon a time")


def test_responses_whole_and_streamed() -> None:
    model = chat(use_responses_api=True, temperature=0, max_tokens=8)
    whole = model.invoke("Tell me a story")
    text = "".join(part["text"] for part in whole.content) if isinstance(whole.content, list) else whole.content
    assert text
    streamed = ""
    for chunk in model.stream("Tell me a story"):
        parts = chunk.content if isinstance(chunk.content, list) else [{"text": chunk.content}]
        streamed += "".join(part.get("text", "") for part in parts)
    assert streamed == text


def test_embeddings_are_refused_where_the_engine_has_none() -> None:
    model = OpenAIEmbeddings(
        model="good", base_url=f"{URL}/v1", api_key=KEY, check_embedding_ctx_length=False, max_retries=0
    )
    with pytest.raises(openai.NotFoundError):
        model.embed_query("x")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("says-400", openai.BadRequestError),
        ("says-401", openai.AuthenticationError),
        ("nobody", openai.NotFoundError),
        ("says-429", openai.RateLimitError),
        ("says-503", openai.InternalServerError),
    ],
)
def test_errors_are_those_of_the_official_client(model: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        chat(model).invoke("Tell me a story")
