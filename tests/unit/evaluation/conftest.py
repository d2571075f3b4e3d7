"""A loopback server that scores prompts with a known bigram table, which is the tests' independent oracle."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray

from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts

BOS_ID = 0
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY_SIZE = 1 + len(ALPHABET)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row-wise."""
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


@dataclass
class BigramServer:
    """One character is one token; the next token depends on the last alone.

    `noise` moves the distributions away from those of `noise=0`. `mangle` changes a reply before it is sent;
    `answers_first` are (status, headers) of the first answers to completions. With `pairs`, a prompt after the probe's
    two is answered only once another one is there.
    """

    noise: float = 0.0
    has_bos: bool = True
    has_detokenize: bool = False
    context_length: int = 4096
    mangle: Callable[[dict[str, Any]], None] = lambda body: None
    answers_first: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    is_stuck: bool = False
    pairs: asyncio.Barrier | None = None
    prompts: list[str] = field(default_factory=list)
    max_in_flight: int = 0
    _in_flight: int = 0

    def __post_init__(self) -> None:
        logits = np.random.default_rng(11).normal(0.0, 2.0, (VOCABULARY_SIZE, VOCABULARY_SIZE))
        noise = np.random.default_rng(12).normal(0.0, 1.0, logits.shape)
        self.log_table = log_softmax(logits + self.noise * noise)

    def token_ids(self, text: str) -> list[int]:
        """The tokenizer."""
        return [BOS_ID] * self.has_bos + [1 + ALPHABET.index(character) for character in text]

    def sum_nats(self, text: str) -> float:
        """The oracle: negative log-likelihood of the tokens that have a predecessor."""
        ids = self.token_ids(text)
        return -math.fsum(self.log_table[last, now] for last, now in pairwise(ids))

    @asynccontextmanager
    async def endpoint(
        self, *, clock: Clock | None = None, timeouts: HopTimeouts | None = None
    ) -> AsyncIterator[CompletionEndpoint]:
        """A client of this server while it runs."""
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        if self.has_detokenize:
            app.router.add_post("/detokenize", self._detokenize)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession() as session:
                limits = timeouts or HopTimeouts(connect_s=5, first_token_s=5, next_token_s=5, total_s=10)
                yield CompletionEndpoint(
                    f"http://127.0.0.1:{port}/v1", model="bigram", session=session, timeouts=limits, clock=clock
                )
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"data": [{"id": "bigram", "max_model_len": self.context_length}]})

    async def _detokenize(self, request: web.Request) -> web.Response:
        ids = (await request.json())["tokens"]
        return web.json_response({"prompt": "".join(ALPHABET[token - 1] for token in ids if token != BOS_ID)})

    async def _complete(self, request: web.Request) -> web.Response:
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            return await self._answer(await request.json())
        finally:
            self._in_flight -= 1

    async def _answer(self, asked: dict[str, Any]) -> web.Response:
        self.prompts.append(asked["prompt"])
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.pairs is not None and len(self.prompts) > 2:
            await self.pairs.wait()
        if self.answers_first:
            status, headers = self.answers_first.pop(0)
            return web.json_response({"error": {"message": "try later", "code": None}}, status=status, headers=headers)
        ids = self.token_ids(asked["prompt"])
        if len(ids) + asked["max_tokens"] > self.context_length:
            error = {"message": f"context length is {self.context_length}", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        body = self._reply(asked, ids)
        self.mangle(body)
        return web.json_response(body)

    def _reply(self, asked: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        assert asked["echo"] is True
        assert asked["return_tokens_as_token_ids"] is True
        tops: list[dict[str, float] | None] = [None]
        for last in ids[:-1]:
            row = self.log_table[last]
            likeliest = np.argsort(-row, kind="stable")[: asked["logprobs"]]
            tops.append({f"token_id:{token}": float(row[token]) for token in likeliest})
        logprobs = {
            "tokens": [f"token_id:{token}" for token in ids],
            "token_logprobs": [
                None,
                *(float(self.log_table[pair]) for pair in pairwise(ids)),
            ],
            "top_logprobs": tops,
            "text_offset": [max(0, position - self.has_bos) for position in range(len(ids))],
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
        return {"choices": [{"index": 0, "text": asked["prompt"], "logprobs": logprobs}], "usage": usage}


@pytest.fixture
def bigram_server() -> type[BigramServer]:
    """The class, since test modules cannot import this file."""
    return BigramServer
