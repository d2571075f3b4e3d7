"""A loopback server with a small tokenizer and a known bigram table: the independent oracle of the harness's requests.

It runs in a thread of its own, since the harness is synchronous.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from aiohttp import web

BOS_ID = 0
# The longest piece wins, so "the k" in a whole text splits differently than "the" at the end of a context.
PIECES = ["<s>", "the k", "the", " king", "king", " ", ".", ",", "A", "\n", *map(chr, range(97, 123))]


@dataclass
class TokenServer:
    """One model. `asked` are the bodies of all completions, the probe's included; `paths` all paths."""

    has_bos: bool = True
    has_tokenize: bool = True
    context_length: int | None = 64
    says_context_length: bool = True
    takes_token_ids: bool = True
    ignores_echo: bool = False
    continuation: Callable[[dict[str, Any]], str] = lambda body: " and so on."
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    max_in_flight: int = 0
    url: str = ""
    _in_flight: int = 0

    def __post_init__(self) -> None:
        logits = np.random.default_rng(5).normal(0.0, 2.0, (len(PIECES), len(PIECES)))
        self.log_table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def tokens(self, text: str, *, adds_special_tokens: bool = True) -> list[int]:
        """The tokenizer."""
        ids = [BOS_ID] if self.has_bos and adds_special_tokens else []
        while text:
            piece = max((piece for piece in PIECES if text.startswith(piece)), key=len)
            ids.append(PIECES.index(piece))
            text = text[len(piece) :]
        return ids

    def nats(self, token_ids: list[int], num_scored: int) -> float:
        """The oracle: log-likelihood of the last tokens, each after the one before it."""
        return math.fsum([float(self.log_table[pair]) for pair in pairwise(token_ids)][-num_scored:])

    def likeliest_after(self, token_id: int) -> int:
        """The model's first choice."""
        return int(np.argmax(self.log_table[token_id]))

    @property
    def scored(self) -> list[list[int]]:
        """The prompts that came as tokens."""
        return [body["prompt"] for body in self.asked if isinstance(body["prompt"], list)]

    @contextmanager
    def running(self) -> Iterator[TokenServer]:
        """The server while it runs."""
        started = threading.Event()
        stop: list[Callable[[], object]] = []

        async def serve() -> None:
            runner = web.AppRunner(self._app(), shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(ended.set))
            started.set()
            await ended.wait()
            await runner.cleanup()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            stop[0]()
            thread.join()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        if self.has_tokenize:
            app.router.add_post("/tokenize", self._tokenize)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        del request
        length = {"max_model_len": self.context_length} if self.says_context_length else {}
        card = {"id": "m", "variant": "int8", "variant_digest": "sha256:ab", **length}
        return web.json_response({"data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.paths.append(request.path)
        ids = self.tokens(body["prompt"], adds_special_tokens=body["add_special_tokens"])
        return web.json_response({"count": len(ids), "tokens": ids})

    async def _completions(self, request: web.Request) -> web.Response:
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            await asyncio.sleep(0)
            return self._answer(await request.json())
        finally:
            self._in_flight -= 1

    def _answer(self, body: dict[str, Any]) -> web.Response:
        self.asked.append(body)
        sent = body["prompt"]
        if isinstance(sent, str):
            ids = self.tokens(sent, adds_special_tokens=body.get("add_special_tokens", True))
        else:
            ids = sent if self.takes_token_ids else [BOS_ID, *sent]
        if self.context_length is not None and len(ids) + body["max_tokens"] > self.context_length:
            error = {"message": f"context length is {self.context_length}", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0}
        if not body.get("echo"):
            return web.json_response({"choices": [{"text": self.continuation(body)}], "usage": usage})
        if self.ignores_echo:
            return web.json_response({"choices": [{"text": "x"}], "usage": usage})
        return web.json_response({"choices": [{"text": "", "logprobs": self._logprobs(ids)}], "usage": usage})

    def _logprobs(self, ids: list[int]) -> dict[str, Any]:
        best = [self.likeliest_after(last) for last in ids[:-1]]
        tops = [{f"token_id:{b}": float(self.log_table[last, b])} for last, b in zip(ids, best, strict=False)]
        return {
            "tokens": [f"token_id:{token_id}" for token_id in ids],
            "token_logprobs": [None, *(float(self.log_table[pair]) for pair in pairwise(ids))],
            "top_logprobs": [None, *tops],
            "text_offset": [0] * len(ids),
        }


@pytest.fixture
def token_server() -> type[TokenServer]:
    """The class, since test modules cannot import this file."""
    return TokenServer
