"""Greedy completions from a loopback server that answers each prompt with ids known beforehand."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.greedy import GreedyRun, greedy_outputs


class FakeServer:
    """Answers `abc` with the characters' numbers; remembers how many requests it had at a time."""

    def __init__(self, *, has_token_ids: bool = True) -> None:
        self._has_token_ids = has_token_ids
        self.asked: list[dict[str, Any]] = []
        self.max_in_flight = 0
        self._in_flight = 0

    async def complete(self, request: web.Request) -> web.Response:
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        body = await request.json()
        self.asked.append(body)
        await asyncio.sleep(0)  # lets the others in
        self._in_flight -= 1
        ids = [ord(character) for character in body["prompt"]]
        choice = {"text": "", "token_ids": ids} if self._has_token_ids else {"text": ""}
        return web.json_response({"choices": [choice]})

    async def ask(self, prompts: list[str], *, concurrency: int) -> GreedyRun:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                endpoint = CompletionEndpoint(url, model="m", session=session)
                return await greedy_outputs(endpoint, prompts, max_tokens=5, concurrency=concurrency)
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_greedy_outputs_come_in_the_order_of_the_prompts(concurrency: int) -> None:
    server = FakeServer()
    run = asyncio.run(server.ask(["ab", "c", "", "dd"], concurrency=concurrency))
    assert run.output_ids == ((97, 98), (99,), (), (100, 100))
    assert run.tokens_per_s == pytest.approx(5 / run.duration_s)
    assert server.max_in_flight <= concurrency
    assert {(body["temperature"], body["max_tokens"], body["return_token_ids"]) for body in server.asked} == {
        (0, 5, True)
    }


def test_greedy_outputs_server_without_token_ids_is_refused() -> None:
    with pytest.raises(MeasurementError, match="token ids"):
        asyncio.run(FakeServer(has_token_ids=False).ask(["a", "b"], concurrency=2))
