"""A loopback server with a tokenizer and log-probabilities simple enough to calculate by hand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.ports.engine import HopTimeouts

BOS = "<s>"


@dataclass
class TaskServer:
    """Tokens are words with the space before them; a token's log-probability does not depend on what precedes it.

    It is `logprobs[token]`, else minus the token's length in characters: " blue" has -5. Generated text is `answer`
    of the request's prompt. `served` is the variant header, and may change with the number of requests so far.
    """

    logprobs: dict[str, float | None] = field(default_factory=dict)
    answer: Callable[[str], str] = lambda prompt: "42"
    served: Callable[[int], str] = lambda number: "sha256:one"
    has_bos: bool = True
    has_tokenize: bool = True
    fails_from: int | None = None
    is_stuck_from: int | None = None
    limit_s: float = 30.0
    system_fingerprint: str | None = None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=lambda: {BOS: 0})

    def tokens(self, text: str) -> list[str]:
        """The tokenizer."""
        return [BOS] * self.has_bos + re.findall(r"\s?\S+|\s", text)

    def prompts(self) -> list[Any]:
        """What completions and chats were asked, the probe's sentences left out."""
        found = [body.get("prompt", body.get("messages")) for path, body in self.requests if path != "/tokenize"]
        probes = ("the old king", "and then a door", "Does the lighthouse")
        return [prompt for prompt in found if not (isinstance(prompt, str) and prompt.startswith(probes))]

    @asynccontextmanager
    async def endpoint(self) -> AsyncIterator[CompletionEndpoint]:
        """A client of this server while it runs."""
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.has_tokenize:
            app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        limits = HopTimeouts(connect_s=10, first_token_s=self.limit_s, next_token_s=self.limit_s, total_s=60)
        try:
            async with aiohttp.ClientSession() as session:
                yield CompletionEndpoint(f"http://127.0.0.1:{port}", model="m", session=session, timeouts=limits)
        finally:
            await runner.cleanup()

    async def _tokenize(self, request: web.Request) -> web.Response:
        asked = await self._take(request)
        ids = [self._id(token) for token in self.tokens(asked["prompt"])]
        return web.json_response({"tokens": ids, "count": len(ids)})

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await self._take(request)
        if asked.get("echo"):
            return self._reply(self._scored(asked["prompt"]))
        text = self.answer(asked["prompt"])
        return self._reply({"choices": [{"text": text, "finish_reason": "stop"}], "usage": _usage(3, 2)})

    async def _chat(self, request: web.Request) -> web.Response:
        asked = await self._take(request)
        message = {"role": "assistant", "content": self.answer(asked["messages"][-1]["content"])}
        return self._reply({"choices": [{"message": message, "finish_reason": "length"}], "usage": _usage(5, 4)})

    async def _take(self, request: web.Request) -> dict[str, Any]:
        asked: dict[str, Any] = await request.json()
        self.requests.append((request.path, asked))
        number = len(self.requests)
        if self.is_stuck_from is not None and number >= self.is_stuck_from:
            await asyncio.Event().wait()
        if self.fails_from is not None and number >= self.fails_from:
            raise web.HTTPInternalServerError(text="out of memory")
        return asked

    def _reply(self, body: Mapping[str, Any]) -> web.Response:
        variant = self.served(len(self.requests))
        headers = {"x-served-variant": variant} if variant else {}
        return web.json_response({"model": "m", "system_fingerprint": self.system_fingerprint, **body}, headers=headers)

    def _scored(self, prompt: str) -> dict[str, Any]:
        tokens = self.tokens(prompt)
        names = [f"token_id:{self._id(token)}" for token in tokens]
        values = [None, *(self.logprobs.get(token, -float(len(token))) for token in tokens[1:])]
        tops = [None, *({name: -0.5} for name in names[1:])]
        logprobs = {"tokens": names, "token_logprobs": values, "top_logprobs": tops}
        return {"choices": [{"text": prompt, "logprobs": logprobs}], "usage": _usage(len(tokens), 0)}

    def _id(self, token: str) -> int:
        return self._ids.setdefault(token, len(self._ids))


def _usage(num_prompt: int, num_completion: int) -> dict[str, int]:
    return {"prompt_tokens": num_prompt, "completion_tokens": num_completion}


@pytest.fixture
def task_server() -> type[TaskServer]:
    """The class, since test modules cannot import this file."""
    return TaskServer


WriteTask = Callable[..., Path]


@pytest.fixture
def write_task(tmp_path: Path) -> WriteTask:
    """Writes a task file and its items (a list of JSON lines); gives the task file's path."""

    def write(definition: str, items: list[str], *, dev: list[str] | None = None) -> Path:
        (tmp_path / "items.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")
        if dev is not None:
            (tmp_path / "dev.jsonl").write_text("\n".join(dev) + "\n", encoding="utf-8")
        path = tmp_path / "task.yaml"
        path.write_text(definition, encoding="utf-8")
        return path

    return write
