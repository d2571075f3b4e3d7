from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest

from lightship.errors import MeasurementError, NetworkError
from lightship.evaluation.endpoint import (
    CompletionEndpoint,
    EndpointTraits,
    PromptLogprobs,
    PromptTooLongError,
)
from lightship.ports.engine import HopTimeouts

if TYPE_CHECKING:
    from tests.unit.evaluation.conftest import BigramServer


class RecordingClock:
    """A clock that remembers waits instead of waiting."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)


def probe(server: BigramServer, *, top_k: int = 5) -> EndpointTraits:
    async def run() -> EndpointTraits:
        async with server.endpoint() as endpoint:
            return await endpoint.probe_prompt_logprobs(top_k=top_k)

    return asyncio.run(run())


def score(server: BigramServer, text: str, *, clock: RecordingClock | None = None) -> PromptLogprobs:
    async def run() -> PromptLogprobs:
        async with server.endpoint(clock=clock) as endpoint:
            return await endpoint.score_prompt(text, top_k=3)

    return asyncio.run(run())


def test_probe_real_logprobs_gives_traits(bigram_server: type[BigramServer]) -> None:
    assert probe(bigram_server()) == EndpointTraits(is_first_token_text=False, context_length=4096)
    assert probe(bigram_server(has_bos=False)).is_first_token_text


def test_probe_vocabulary_smaller_than_top_k_is_accepted(bigram_server: type[BigramServer]) -> None:
    def keep_two_that_sum_to_one(body: dict[str, Any]) -> None:
        entries = logprobs_of(body)["top_logprobs"]
        entries[1:] = [{"token_id:1": -0.6931472, "token_id:2": -0.6931472} for _ in entries[1:]]

    assert probe(bigram_server(mangle=keep_two_that_sum_to_one)).context_length == 4096


def logprobs_of(body: dict[str, Any]) -> dict[str, Any]:
    logprobs: dict[str, Any] = body["choices"][0]["logprobs"]
    return logprobs


def change(**fields: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], None]:
    """A reply with some columns of its log-probabilities replaced."""

    def mangle(body: dict[str, Any]) -> None:
        for name, replace in fields.items():
            logprobs_of(body)[name] = replace(logprobs_of(body)[name])

    return mangle


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    def mangle(body: dict[str, Any]) -> None:
        holder = body if name == "usage" else body["choices"][0]
        holder[name] = None

    return mangle


def drop_last_token(body: dict[str, Any]) -> None:
    for column in logprobs_of(body).values():
        column.pop()


def no_entries(column: list[Any]) -> list[Any]:
    return column[:0]


@dataclass(frozen=True)
class Fault:
    name: str
    mangle: Callable[[dict[str, Any]], None]
    says: str


FAULTS = [
    Fault("echo_ignored", drop("logprobs"), "no logprobs"),
    Fault("no_choice", lambda body: body["choices"].clear(), "no logprobs"),
    Fault(
        "prompt_left_out",
        change(tokens=no_entries, token_logprobs=no_entries, top_logprobs=no_entries, text_offset=no_entries),
        "ignore echo",
    ),
    Fault("columns_differ", change(token_logprobs=lambda c: c[:-1]), "42 tokens, 41 log-probabilities"),
    Fault("offsets_differ", change(text_offset=lambda c: c[:-1]), "42 tokens and 41 text offsets"),
    Fault("one_token_missing", drop_last_token, "41 log-probabilities for 42 tokens"),
    Fault("no_usage", drop("usage"), "no usage"),
    Fault("first_not_null", change(token_logprobs=lambda c: [1.0, *c[1:]]), "first token has log-probability 1.0"),
    Fault("nan_sent_as_null", change(token_logprobs=lambda c: [*c[:7], None, *c[8:]]), "position 7 is None"),
    Fault("positive", change(token_logprobs=lambda c: [*c[:7], 0.5, *c[8:]]), "position 7 is 0.5, above 0"),
    Fault("all_equal", change(token_logprobs=lambda c: [None] + [-1.5] * (len(c) - 1)), "all 41 .* equal -1.5"),
    Fault(
        "too_few_alternatives",
        change(top_logprobs=lambda c: [None, *({"token_id:1": -1.0} for _ in c[1:])]),
        "1 alternatives at position 1 where 5 were asked",
    ),
    Fault("token_texts", change(tokens=lambda c: ["the" for _ in c]), "'the' is not of the form token_id:N"),
    Fault("not_the_right_shape", change(tokens=lambda c: [7 for _ in c]), "not a completion: Expected `str`"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_probe_endpoint_that_does_not_score_prompts_is_refused_with_the_reason(
    fault: Fault, bigram_server: type[BigramServer]
) -> None:
    with pytest.raises(MeasurementError, match=fault.says) as refusal:
        probe(bigram_server(mangle=fault.mangle))
    assert str(refusal.value.where).startswith("http://127.0.0.1:")


def test_probe_refused_request_shows_the_servers_message(bigram_server: type[BigramServer]) -> None:
    with pytest.raises(MeasurementError, match="answered 400: try later"):
        probe(bigram_server(answers_first=[(400, {})]))


def test_score_prompt_gives_the_tables_numbers(bigram_server: type[BigramServer]) -> None:
    server = bigram_server()
    scored = score(server, "An owl.")
    ids = server.token_ids("An owl.")
    assert scored.token_ids == tuple(ids)
    assert scored.token_logprobs[0] is None
    assert scored.token_logprobs[3] == pytest.approx(server.log_table[ids[2], ids[3]])
    top = scored.top_logprobs[3]
    assert top is not None
    likeliest = np.sort(server.log_table[ids[2]])[::-1][:3]
    assert sorted(filter(None, top.values()), reverse=True) == pytest.approx(likeliest)
    assert scored.text_offsets == (0, 0, 1, 2, 3, 4, 5, 6)


def as_vllm_says_it(body: dict[str, Any]) -> None:
    """vLLM counts a token that it generates and does not return, and counts offsets in the names of tokens."""
    body["usage"]["completion_tokens"] = 1
    names = logprobs_of(body)["tokens"]
    logprobs_of(body)["text_offset"] = [len("".join(names[:position])) for position in range(len(names))]


def test_probe_token_counted_but_not_returned_is_accepted(bigram_server: type[BigramServer]) -> None:
    assert not probe(bigram_server(mangle=as_vllm_says_it)).is_first_token_text


@pytest.mark.parametrize(
    ("has_detokenize", "has_bos", "expected"),
    [(True, False, (0, 1)), (True, True, None), (False, False, None)],
    ids=["asked", "bos_has_no_text", "cannot_be_asked"],
)
def test_score_prompt_offsets_in_token_names_are_replaced(
    has_detokenize: bool, has_bos: bool, expected: tuple[int, int] | None, bigram_server: type[BigramServer]
) -> None:
    server = bigram_server(mangle=as_vllm_says_it, has_detokenize=has_detokenize, has_bos=has_bos)
    assert score(server, "An owl.").text_offsets == expected


def test_score_prompt_longer_than_the_context_says_so(bigram_server: type[BigramServer]) -> None:
    with pytest.raises(PromptTooLongError, match="context length is 8"):
        score(bigram_server(context_length=8), "far too long a text")


def test_score_prompt_busy_server_is_tried_again_after_the_time_it_asks_for(
    bigram_server: type[BigramServer],
) -> None:
    clock = RecordingClock()
    busy = [
        (503, {"retry-after": "2"}),
        (503, {"retry-after-ms": "250", "retry-after": "1"}),
        (503, {"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}),
        (503, {"retry-after": "86400"}),
    ]
    assert score(bigram_server(answers_first=busy), "An owl.", clock=clock).token_ids
    assert clock.waits_s == [2.0, 0.25, 1.0, 10.0]


def test_score_prompt_server_that_stays_busy_is_given_up(bigram_server: type[BigramServer]) -> None:
    clock, server = RecordingClock(), bigram_server(answers_first=[(503, {})] * 9)
    with pytest.raises(NetworkError, match="stayed busy: 503 on 5 attempts"):
        score(server, "An owl.", clock=clock)
    assert (len(server.prompts), clock.waits_s) == (5, [1.0] * 4)


def test_score_prompt_other_failure_is_not_tried_again(bigram_server: type[BigramServer]) -> None:
    server = bigram_server(answers_first=[(500, {})])
    with pytest.raises(MeasurementError, match="answered 500: try later"):
        score(server, "An owl.")
    assert len(server.prompts) == 1


def test_score_prompt_silent_server_ends_at_the_time_limit(bigram_server: type[BigramServer]) -> None:
    async def run() -> None:
        limits = HopTimeouts(connect_s=1, first_token_s=0.05, next_token_s=0.05, total_s=1)
        async with bigram_server(is_stuck=True).endpoint(timeouts=limits) as endpoint:
            await endpoint.score_prompt("An owl.", top_k=1)

    with pytest.raises(NetworkError, match="no answer within the time limits"):
        asyncio.run(run())


def test_score_prompt_nobody_listens_is_a_network_error(unused_tcp_port_: int) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            endpoint = CompletionEndpoint(f"http://127.0.0.1:{unused_tcp_port_}", model="m", session=session)
            await endpoint.score_prompt("An owl.", top_k=1)

    with pytest.raises(NetworkError, match="cannot be reached: connection refused"):
        asyncio.run(run())


@pytest.fixture
def unused_tcp_port_() -> int:
    """A port that was free a moment ago."""
    import socket

    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
    return port


@pytest.mark.parametrize("top_k", [0, 65])
def test_score_prompt_alternatives_out_of_bounds_are_refused(top_k: int) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            await CompletionEndpoint("http://127.0.0.1:9", model="m", session=session).score_prompt("x", top_k=top_k)

    with pytest.raises(MeasurementError, match=r"1\.\.64"):
        asyncio.run(run())
