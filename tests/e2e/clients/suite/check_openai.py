"""The official client, with its own retries on, as its users have it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

URL = os.environ["LIGHTSHIP_GATEWAY_URL"]
KEY = os.environ["LIGHTSHIP_KEY_PLAIN"]
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me a story"}]


@pytest.fixture
def client() -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=30) as made:
        yield made


def test_models_are_listed_and_found(client: Any) -> None:
    assert "good" in {model.id for model in client.models.list()}
    assert client.models.retrieve("good").id == "good"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("bad")


def test_chat_whole_and_streamed(client: Any) -> None:
    whole = client.chat.completions.create(model="good", messages=MESSAGES, max_tokens=12, temperature=0)
    stream = client.chat.completions.create(
        model="good",
        messages=MESSAGES,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_chat_streamed_without_usage_has_no_usage_chunk(client: Any) -> None:
    stream = client.chat.completions.create(model="good", messages=MESSAGES, max_tokens=4, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_chat_helper_for_streams_gathers_them(client: Any) -> None:
    with client.chat.completions.stream(model="good", messages=MESSAGES) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content


def test_completions_whole_and_streamed(client: Any) -> None:
    whole = client.completions.create(model="good", prompt="Once", max_tokens=8, temperature=0)
    stream = client.completions.create(model="good", prompt="Once", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_responses_whole(client: Any) -> None:
    reply = client.responses.create(
        model="good", input="Tell me a story", instructions="Be brief.", max_output_tokens=6, metadata={"a": "b"}
    )
    assert reply.output_text
    assert reply.status in {"completed", "incomplete"}
    assert reply.usage.output_tokens <= 6
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert (reply.instructions, reply.metadata) == ("Be brief.", {"a": "b"})


def test_responses_streamed(client: Any) -> None:
    events = list(client.responses.create(model="good", input=MESSAGES, max_output_tokens=6, stream=True))
    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert events[-1].response.output_text == text
    assert text


def test_responses_helper_for_streams_gathers_them(client: Any) -> None:
    with client.responses.stream(model="good", input="Tell me a story") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text


def test_responses_conversation_goes_on_with_what_came_back(client: Any) -> None:
    first = client.responses.create(model="good", input=MESSAGES, max_output_tokens=6)
    history = [*MESSAGES, *first.output, {"role": "user", "content": "Go on"}]
    again = client.responses.create(model="good", input=history, max_output_tokens=6)
    assert again.usage.input_tokens > first.usage.input_tokens


def test_responses_what_is_not_supported_is_a_bad_request_that_names_it(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="good", input="x", tools=[{"type": "web_search"}])
    assert caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="good", input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_structured_output_and_tools_are_refused_by_name_where_the_engine_has_none(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="good", messages=MESSAGES, response_format={"type": "json_object"})
    assert caught.value.param == "response_format"
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="good", messages=MESSAGES, tools=[tool])
    assert caught.value.param == "tools"


def test_embeddings_are_refused_where_the_engine_has_none(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings"):
        client.embeddings.create(model="good", input="x")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("says-400", openai.BadRequestError),
        ("says-401", openai.AuthenticationError),
        ("says-403", openai.PermissionDeniedError),
        ("nobody", openai.NotFoundError),
        ("says-429", openai.RateLimitError),
        ("says-429-final", openai.RateLimitError),
        ("says-500", openai.InternalServerError),
        ("says-503", openai.InternalServerError),
    ],
)
def test_errors_become_the_exceptions_their_users_catch(
    client: Any, model: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        client.with_options(max_retries=0).chat.completions.create(model=model, messages=MESSAGES)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
    assert caught.value.response.headers["x-request-id"]


def test_refusal_that_is_over_soon_is_repeated(client: Any) -> None:
    for model in ("says-429-once", "says-503-twice"):
        reply = client.chat.completions.create(model=model, messages=MESSAGES)
        assert reply.choices[0].message.content == "at last"


def test_retry_after_is_waited_for(client: Any) -> None:
    started_s = time.monotonic()
    reply = client.chat.completions.create(model="says-503-later", messages=MESSAGES)
    assert reply.choices[0].message.content == "at last"
    assert time.monotonic() - started_s >= 1.0


@pytest.mark.parametrize("model", ["says-429-final", "says-503-final"])
def test_refusal_that_is_final_is_not_repeated(client: Any, model: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_client_timeout_is_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(max_retries=0, timeout=0.02).chat.completions.create(
            model="good", messages=MESSAGES, max_tokens=900, extra_body={"ignore_eos": True}
        )


def test_many_requests_at_once() -> None:
    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=60) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="good", messages=MESSAGES, max_tokens=4) for _ in range(64))
            )
        return [reply.choices[0].message.content for reply in replies]

    assert all(asyncio.run(run()))


def with_key(client: Any, key: str) -> Any:
    return client.with_options(api_key=key)


@pytest.mark.parametrize("key", ["sk-other", "ls-aaaaaaaa-" + "A" * 43])
def test_wrong_key_is_an_authentication_error(client: Any, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        with_key(client, key).chat.completions.create(model="good", messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        with_key(client, key).models.list()


def test_model_that_a_key_may_not_use_does_not_exist_for_it(client: Any) -> None:
    narrow = with_key(client, os.environ["LIGHTSHIP_KEY_NARROW"])
    with pytest.raises(openai.NotFoundError) as caught:
        narrow.chat.completions.create(model="good", messages=MESSAGES)
    assert "good" not in str(caught.value).replace("'good'", "")
    assert list(narrow.models.list()) == []


def test_rate_limit_of_the_callers_own_is_a_rate_limit_error_with_a_time_to_wait(client: Any) -> None:
    hasty = with_key(client, os.environ["LIGHTSHIP_KEY_HASTY"]).with_options(max_retries=0)
    hasty.chat.completions.create(model="good", messages=MESSAGES, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as caught:
        hasty.chat.completions.create(model="good", messages=MESSAGES, max_tokens=1)
    headers = caught.value.response.headers
    assert headers["x-reject-reason"] == "rate-limit"
    assert 0 < int(headers["retry-after"]) <= 66


def test_exhausted_budget_is_not_tried_again(client: Any) -> None:
    broke = with_key(client, os.environ["LIGHTSHIP_KEY_BROKE"])
    started_s = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        broke.chat.completions.create(model="good", messages=MESSAGES, max_tokens=1)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert time.monotonic() - started_s < 5
