"""The official client against the running system: worker and gateway as `lightship up` starts them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def client(running_up: Any) -> Iterator[openai.OpenAI]:
    """The client, without its own retries, so that every error is seen."""
    with openai.OpenAI(base_url=f"{running_up.base_url}/v1", api_key="unused", max_retries=0, timeout=60) as made:
        yield made


def test_client_models_list_has_the_model(client: openai.OpenAI) -> None:
    assert "fairytales" in {model.id for model in client.models.list()}
    assert client.models.retrieve("fairytales").id == "fairytales"


def test_client_chat_answers_with_usage(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "The Fox and the Lantern"}]
    reply = client.chat.completions.create(model="fairytales", messages=messages, max_tokens=24, temperature=0)
    assert reply.choices[0].message.content
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 24


def test_client_chat_stream_pieces_make_the_whole_answer(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "The Fox and the Lantern"}]
    options: dict[str, Any] = {"model": "fairytales", "messages": messages, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    streamed: dict[str, Any] = {**options, "stream": True, "stream_options": {"include_usage": True}}
    chunks: list[Any] = list(client.chat.completions.create(**streamed))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 1
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def test_client_completions_with_echo_score_the_prompt(client: openai.OpenAI) -> None:
    prompt = "Once upon a time"
    reply = client.completions.create(model="fairytales", prompt=prompt, max_tokens=0, echo=True, logprobs=5)
    scored = reply.choices[0].logprobs
    assert scored is not None
    assert scored.token_logprobs is not None
    assert scored.top_logprobs is not None
    assert reply.choices[0].text == prompt
    first, *others = list[Any](scored.token_logprobs)
    assert first is None
    assert all(-50 < value <= 0 for value in others)
    for entry in scored.top_logprobs[1:]:
        assert sum(math.exp(value) for value in entry.values()) <= 1.0001


def test_client_chat_logprobs_are_those_of_the_answer(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "The Fox"}]
    reply = client.chat.completions.create(
        model="fairytales", messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    scored = reply.choices[0].logprobs
    assert scored is not None
    assert scored.content is not None
    assert len(scored.content) == 8
    for entry in scored.content:
        assert entry.logprob == pytest.approx(max(top.logprob for top in entry.top_logprobs), abs=0.1)


def test_client_rung_is_addressed_by_variant(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="fairytales@fp16", prompt="Once", max_tokens=2)
    assert raw.headers["x-served-variant"].startswith("sha256:")


def test_client_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist here") as caught:
        client.completions.create(model="gpt-5", prompt="Once")
    assert caught.value.code == "model_not_found"


def test_client_parameter_that_cannot_be_honoured_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="logit_bias") as caught:
        client.completions.create(model="fairytales", prompt="Once", logit_bias={"5": 10})
    assert caught.value.param == "logit_bias"


def test_client_prompt_over_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context length") as caught:
        client.completions.create(model="fairytales", prompt="fox " * 3000, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"


def test_client_responses_answer_what_chat_answers(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "The Fox and the Lantern"}]
    chat = client.chat.completions.create(model="fairytales", messages=messages, max_tokens=24, temperature=0)
    reply = client.responses.create(model="fairytales", input=messages, max_output_tokens=24, temperature=0)
    assert reply.output_text == chat.choices[0].message.content
    assert (reply.status, reply.id[:5]) == ("incomplete", "resp_")
    assert reply.usage is not None
    assert chat.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (chat.usage.prompt_tokens, 24)


def test_client_responses_stream_pieces_make_the_whole_answer(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "fairytales", "input": "The Fox", "max_output_tokens": 16, "temperature": 0}
    whole = client.responses.create(**options)
    events: list[Any] = list(client.responses.create(**options, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert events[-1].response.usage == whole.usage


def test_client_responses_field_that_the_engine_lacks_is_named_as_the_client_knows_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="fairytales", input="x", text={"format": {"type": "json_object"}})
    assert caught.value.param == "text.format"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="fairytales", input="fox " * 3000)
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")


def test_client_tokens_are_counted_through_the_gateway(client: openai.OpenAI) -> None:
    model = "fairytales"
    told: Any = client.post("/tokenize", cast_to=object, body={"model": model, "prompt": "The Fox"})
    back: Any = client.post("/detokenize", cast_to=object, body={"model": model, "tokens": told["tokens"]})
    assert told["count"] == len(told["tokens"])
    assert back["prompt"] == "The Fox"


def test_client_embeddings_of_a_generation_model_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no embeddings"):
        client.embeddings.create(model="fairytales", input="x")
