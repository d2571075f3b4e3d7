"""Generation and tokenizing, against a loopback server that plays a list of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web

from lightship.errors import MeasurementError, NetworkError
from lightship.evaluation.endpoint import CompletionEndpoint, PromptTooLongError
from lightship.evaluation.generation import Generation, GenerationParameters, generate
from lightship.evaluation.transport import NotServedError, Served

T = TypeVar("T")
PARAMETERS = GenerationParameters(max_tokens=4)
USER = [{"role": "user", "content": "Hi"}]


@dataclass(frozen=True)
class Answer:
    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class CountingClock:
    """Remembers waits instead of waiting."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)


@asynccontextmanager
async def answering(
    *answers: Answer, paths: list[str], clock: CountingClock | None = None
) -> AsyncIterator[CompletionEndpoint]:
    remaining = list(answers)

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        now = remaining.pop(0)
        if isinstance(now.body, str):
            return web.Response(text=now.body, status=now.status, headers=now.headers)
        return web.json_response(now.body, status=now.status, headers=now.headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/"
            yield CompletionEndpoint(address, model="m", session=session, clock=clock or CountingClock())
    finally:
        await runner.cleanup()


def ask(
    action: Callable[[CompletionEndpoint], Awaitable[T]], *answers: Answer, clock: CountingClock | None = None
) -> tuple[T, list[str]]:
    """What the action gives, and the paths that were asked."""
    paths: list[str] = []

    async def main() -> T:
        async with answering(*answers, paths=paths, clock=clock) as endpoint:
            return await action(endpoint)

    return asyncio.run(main()), paths


async def complete(endpoint: CompletionEndpoint) -> Generation:
    return await generate(endpoint, "Hi", PARAMETERS)


async def chat(endpoint: CompletionEndpoint) -> Generation:
    return await generate(endpoint, USER, PARAMETERS)


TEXT = {"model": "m-2", "choices": [{"text": " there", "finish_reason": "stop"}]}


def test_generate_text_goes_to_completions() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    headers = {"X-Served-Variant": "sha256:ab"}
    generation, paths = ask(complete, Answer({**TEXT, "usage": usage, "system_fingerprint": "fp"}, headers=headers))
    assert generation == Generation(" there", "stop", Served("sha256:ab", "m-2"), 2, 1)
    assert paths == ["/v1/completions"]


def test_generate_conversation_goes_to_chat() -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "there"}, "finish_reason": "length"}]}
    generation, paths = ask(chat, Answer({**body, "system_fingerprint": "fp"}))
    assert generation == Generation("there", "length", Served("fp", ""), None, None)
    assert paths == ["/v1/chat/completions"]


def test_generate_null_content_is_an_empty_answer() -> None:
    body = {"choices": [{"message": {"content": None, "reasoning_content": "Hm."}, "finish_reason": None}]}
    assert ask(chat, Answer(body))[0].text == ""


@pytest.mark.parametrize("status", [429, 503])
def test_generate_busy_endpoint_is_asked_again_after_the_time_it_asks_for(status: int) -> None:
    clock = CountingClock()
    busy = [Answer("later", status, {"retry-after": "3"}), Answer("later", status, {"retry-after-ms": "500"})]
    generation, paths = ask(complete, *busy, Answer(TEXT), clock=clock)
    assert (generation.text, clock.waits_s, len(paths)) == (" there", [3.0, 0.5], 3)


def test_generate_endpoint_that_stays_busy_is_given_up() -> None:
    clock = CountingClock()
    with pytest.raises(NetworkError, match="stayed busy: 429 on 5 attempts"):
        ask(complete, *[Answer("later", 429)] * 5, clock=clock)
    assert clock.waits_s == [1.0] * 4


@dataclass(frozen=True)
class Fault:
    name: str
    answer: Answer
    says: str
    action: Callable[[CompletionEndpoint], Awaitable[Generation]] = complete
    kind: type[MeasurementError] = MeasurementError


FAULTS = [
    Fault("no_choice", Answer({"choices": []}), "gave 0 choices where one was asked for"),
    Fault("two_choices", Answer({"choices": [{"text": "a"}, {"text": "b"}]}), "gave 2 choices"),
    Fault("no_text", Answer({"choices": [{"index": 0}]}), "has no text"),
    Fault("no_message", Answer({"choices": [{"text": "x"}]}), "has no text", chat),
    Fault("not_json", Answer("<html>"), "is not a completion"),
    Fault("text_null", Answer({"choices": [{"text": None}]}), "is not a completion"),
    Fault(
        "refused", Answer({"error": {"message": "stop is unknown"}}, 400), "answered 400: stop is unknown.*generation:"
    ),
    Fault("failed", Answer("boom", 500), "answered 500: boom"),
    Fault("not_there", Answer("no page", 404), "answered 404: no page", chat, NotServedError),
    Fault(
        "too_long",
        Answer({"error": {"message": "too long", "code": "context_length_exceeded"}}, 400),
        "does not fit the model's context: too long",
        kind=PromptTooLongError,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_generate_answer_that_is_none_is_refused_with_the_address(fault: Fault) -> None:
    with pytest.raises(MeasurementError, match=fault.says) as refusal:
        ask(fault.action, fault.answer)
    assert type(refusal.value) is fault.kind
    assert str(refusal.value.where).endswith("/v1/chat/completions" if fault.action is chat else "/v1/completions")


async def tokenize(endpoint: CompletionEndpoint) -> tuple[int, ...] | None:
    return await endpoint.tokenize("Hi")


def test_tokenize_gives_ids() -> None:
    assert ask(tokenize, Answer({"tokens": [1, 7], "count": 2})) == ((1, 7), ["/tokenize"])


@pytest.mark.parametrize(
    "answer",
    [Answer("", 404), Answer({"error": {"message": "content?"}}, 400), Answer({"tokens": ["H", "i"]}), Answer("Hi")],
)
def test_tokenize_endpoint_without_such_a_path_gives_none(answer: Answer) -> None:
    assert ask(tokenize, answer)[0] is None


def test_probe_endpoint_without_a_list_of_models_has_no_known_context_length() -> None:
    def scored(*names: str) -> Answer:
        count = len(names)
        logprobs = {
            "tokens": [f"token_id:{name}" for name in names],
            "token_logprobs": [None, *(-float(position) for position in range(1, count))],
            "top_logprobs": [None, *({"token_id:9": -0.5} for _ in range(1, count))],
        }
        return Answer({"choices": [{"logprobs": logprobs}], "usage": {"prompt_tokens": count}})

    answers = [scored("0", "1", "2"), scored("0", "3", "4"), Answer("", 404)]
    traits, _ = ask(lambda endpoint: endpoint.probe_prompt_logprobs(top_k=1), *answers)
    assert (traits.is_first_token_text, traits.context_length) == (False, None)
