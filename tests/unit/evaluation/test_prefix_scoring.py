"""A loopback server answers as llama-server does, from a known bigram table, which is the oracle.

The real one is in `tests/toolchain/test_gguf.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from lightship.artifacts.texts import Document, TextSet
from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import EndpointTraits, PromptLogprobs, PromptTooLongError
from lightship.evaluation.prefix_scoring import LOWEST_LOGPROB, PrefixScoringEndpoint, text_offsets
from lightship.evaluation.quality.protocol import QualityProtocol, QualityResult, measure_quality
from lightship.ports.measurements import Metric

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
BOS, VOCABULARY_SIZE = 0, 1 + len(ALPHABET)
LOWEST_FLOAT = float(np.finfo(np.float32).min)
Result = TypeVar("Result")


@dataclass
class LlamaServer:
    """One character is one token. `mangle` changes the probabilities of an answer before they are sent.

    With `pairs`, the first prefix of a prompt after the probe's two is answered only once that of another one is there.
    """

    num_slots: int = 3
    context_length: int = 600
    has_bos: bool = True
    mangle: Callable[[dict[int, float]], dict[int, float]] = lambda probabilities: probabilities
    pairs: asyncio.Barrier | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    busy_slots: set[int] = field(default_factory=set)
    num_begun: int = 0

    def __post_init__(self) -> None:
        logits = np.random.default_rng(5).normal(0.0, 2.0, (VOCABULARY_SIZE, VOCABULARY_SIZE))
        self.log_table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def token_ids(self, text: str) -> list[int]:
        return [BOS] * self.has_bos + [1 + ALPHABET.index(character) for character in text]

    def logprobs(self, text: str) -> list[float]:
        """The oracle."""
        return [float(self.log_table[pair]) for pair in pairwise(self.token_ids(text))]

    @asynccontextmanager
    async def endpoint(self) -> AsyncIterator[PrefixScoringEndpoint]:
        app = web.Application()
        app.router.add_get("/props", self._props)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/completion", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                port = runner.addresses[0][1]
                yield PrefixScoringEndpoint(f"http://127.0.0.1:{port}/v1", model="bigram", session=session)
        finally:
            await runner.cleanup()

    def run(self, use: Callable[[PrefixScoringEndpoint], Awaitable[Result]]) -> Result:
        """What `use` makes of a client of this server."""

        async def with_endpoint() -> Result:
            async with self.endpoint() as endpoint:
                return await use(endpoint)

        return asyncio.run(with_endpoint())

    async def _props(self, request: web.Request) -> web.Response:
        del request
        settings = {"n_ctx": self.context_length, "params": {}}
        return web.json_response({"total_slots": self.num_slots, "default_generation_settings": settings})

    async def _tokenize(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["with_pieces"] is True
        ids = self.token_ids(asked["content"])[0 if asked.get("add_special") else self.has_bos :]
        pieces = ["<bos>", *ALPHABET]
        return web.json_response({"tokens": [{"id": token, "piece": pieces[token]} for token in ids]})

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        slot = asked["id_slot"]
        assert slot not in self.busy_slots, "the real one would make this request wait for the other"
        self.busy_slots.add(slot)
        self.asked.append(asked)
        if len(asked["prompt"]) == 1 and asked["n_probs"] <= 64:
            self.num_begun += 1
            if self.pairs is not None and self.num_begun > 2:
                await self.pairs.wait()
        assert (asked["n_predict"], asked["cache_prompt"], asked["post_sampling_probs"]) == (1, True, False)
        row = dict(enumerate(self.log_table[asked["prompt"][-1]].tolist()))
        likeliest = sorted(self.mangle(row).items(), key=lambda item: -item[1])[: asked["n_probs"]]
        body: dict[str, Any] = {"model": "bigram"}
        # the real one leaves them out where the generated token is no whole character: only a forced one surely is
        if asked["logit_bias"] == [[1 + ALPHABET.index("a"), 1e6]]:
            top = [{"id": token, "token": "", "bytes": [], "logprob": value} for token, value in likeliest]
            body["completion_probabilities"] = [{"id": 0, "token": "", "logprob": 0.0, "top_logprobs": top}]
        self.busy_slots.discard(slot)
        return web.json_response(body)


def score(server: LlamaServer, prompt: str | list[int], *, top_k: int = 8) -> PromptLogprobs:
    return server.run(lambda endpoint: endpoint.score_prompt(prompt, top_k=top_k))


def test_score_equals_the_model_wherever_the_token_ranks() -> None:
    server, text = LlamaServer(), "Once upon a time,\nthere was 1 king."
    scored = score(server, text)
    assert scored.token_ids == tuple(server.token_ids(text))
    assert scored.token_logprobs[0] is None
    assert scored.token_logprobs[1:] == pytest.approx(server.logprobs(text))
    for last, top in zip(scored.token_ids, scored.top_logprobs[1:], strict=False):
        row = server.log_table[last]
        assert top == pytest.approx({int(token): float(row[token]) for token in np.argsort(-row)[:8]})
    # most tokens of random text are outside the likeliest 8, and were asked for among 1,024
    assert {asked["n_probs"] for asked in server.asked} == {8, 1024}
    assert scored.served.model == "bigram"


def test_score_asks_each_prefix_of_one_slot_in_turn() -> None:
    server = LlamaServer()
    score(server, "abc", top_k=64)
    firsts = [asked for asked in server.asked if asked["n_probs"] == 64]
    assert [asked["prompt"] for asked in firsts] == [server.token_ids("abc")[:end] for end in (1, 2, 3)]
    assert len({asked["id_slot"] for asked in server.asked}) == 1


def test_score_token_ids_are_scored_as_they_are() -> None:
    server = LlamaServer()
    scored = score(server, [5, 6, 7])
    assert scored.token_logprobs[1:] == pytest.approx([server.log_table[5, 6], server.log_table[6, 7]])
    assert scored.text_offsets is None


def test_score_shorter_beginning_of_a_recent_prompt_asks_nothing_again() -> None:
    server = LlamaServer()

    async def use(endpoint: PrefixScoringEndpoint) -> tuple[PromptLogprobs, int, PromptLogprobs]:
        await endpoint.score_prompt("once upon a time", top_k=4)
        num_asked = len(server.asked)
        return await endpoint.score_prompt("once upon", top_k=4), num_asked, await endpoint.score_prompt("on", top_k=9)

    shorter, num_asked, wider = server.run(use)
    assert shorter.token_logprobs[1:] == pytest.approx(server.logprobs("once upon"))
    # the last needs more alternatives than were kept, so it is asked
    assert server.asked[num_asked]["prompt"] == [BOS]
    assert [len(top or {}) for top in wider.top_logprobs] == [0, 9, 9]


def test_score_prompt_that_does_not_fit_is_told_before_anything_is_asked() -> None:
    server = LlamaServer(context_length=10)
    with pytest.raises(PromptTooLongError, match="10 tokens do not fit the model's context of 10"):
        score(server, "123456789")
    assert server.asked == []
    assert len(score(server, "12345678").token_ids) == 9


def test_score_probability_below_float32_is_its_lowest() -> None:
    server = LlamaServer(mangle=lambda row: dict.fromkeys(row, LOWEST_FLOAT))
    scored = score(server, "ab", top_k=2)
    assert scored.token_logprobs[1:] == (LOWEST_LOGPROB, LOWEST_LOGPROB)
    assert math.exp(LOWEST_LOGPROB) == pytest.approx(2.0**-149)


def test_probe_gives_traits() -> None:
    probe = lambda endpoint: endpoint.probe_prompt_logprobs(top_k=5)  # noqa: E731 - named for what it does
    assert LlamaServer().run(probe) == EndpointTraits(is_first_token_text=False, context_length=600)
    assert LlamaServer(has_bos=False).run(probe).is_first_token_text


@dataclass(frozen=True)
class Case:
    id: str
    mangle: Callable[[dict[int, float]], dict[int, float]]
    message: str


CASES = (
    Case("empty", lambda row: {}, "no log-probability of token"),
    Case("all-equal", lambda row: dict.fromkeys(row, -1.0), "log-probabilities equal -1"),
    Case("above-zero", lambda row: {token: value + 30 for token, value in row.items()}, "a log-probability is"),
    Case("not-over-the-vocabulary", lambda row: {t: v - 1 for t, v in row.items()}, r"add up to 0\.36"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_probe_what_is_no_distribution_over_the_vocabulary_is_refused(case: Case) -> None:
    server = LlamaServer(mangle=case.mangle)
    with pytest.raises(MeasurementError, match=case.message):
        server.run(lambda endpoint: endpoint.probe_prompt_logprobs(top_k=5))


@pytest.mark.parametrize("has_bos", [True, False])
def test_quality_over_prefixes_is_that_of_the_model(has_bos: bool) -> None:
    server = LlamaServer(has_bos=has_bos, num_slots=2)
    texts = ["Kings went to sea.", "Foxes and crows.", "Why not?\nasked the owl.", "Zebras ran."]
    documents = tuple(Document(f"d{number}", text) for number, text in enumerate(texts))
    protocol = QualityProtocol(num_documents=4, window_tokens=500, bootstrap_resamples=100, top_k=8)

    async def use(endpoint: PrefixScoringEndpoint) -> QualityResult:
        server.pairs = asyncio.Barrier(2)  # each slot has a document of its own, or nothing is answered
        return await measure_quality(endpoint, protocol=protocol, texts=TextSet("t", documents))

    result = server.run(use)
    scored_texts = [document.scored_text for document in documents]
    nats = -math.fsum(value for text in scored_texts for value in server.logprobs(text))
    num_bytes = sum(len(text) - (not has_bos) for text in scored_texts)  # without BOS the first one is not scored
    found = next(figure.value for figure in result.figures if figure.metric is Metric.BITS_PER_BYTE)
    assert found == pytest.approx(nats / math.log(2) / num_bytes)


@pytest.mark.parametrize(
    ("text", "pieces", "offsets"),
    [
        ("Once upon", [b"<s>", b"Once", b" upon"], (0, 0, 4)),
        ("Once", [b" On", b"ce"], (0, 2)),
        ("é!", [b"\xc3", b"\xa9", b"!"], (0, 0, 1)),
        ("ab", [b"a"], None),
        ("ab", [b"a", b"c"], None),
    ],
)
def test_text_offsets_count_characters(text: str, pieces: list[bytes], offsets: tuple[int, ...] | None) -> None:
    assert text_offsets(text, pieces) == offsets
