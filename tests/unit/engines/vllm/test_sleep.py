"""The sleep of a server, against an HTTP server that has vLLM's endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from lightship.engines.process import free_port
from lightship.engines.vllm.sleep import SleepingServer
from lightship.errors import EngineError

Use = Callable[[SleepingServer], Awaitable[None]]


def with_server(use: Use, *, has_sleep_mode: bool = True) -> list[str]:
    """What was asked of the server."""
    asked: list[str] = []
    state = {"is_sleeping": False}

    async def change(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        state["is_sleeping"] = request.path == "/sleep"
        return web.json_response({})

    async def tell(request: web.Request) -> web.Response:
        return web.json_response(state)

    async def run() -> None:
        app = web.Application()
        if has_sleep_mode:
            app.add_routes([web.post("/sleep", change), web.post("/wake_up", change), web.get("/is_sleeping", tell)])
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            async with aiohttp.ClientSession() as session:
                await use(SleepingServer(f"http://127.0.0.1:{port}/", session=session))
        finally:
            await runner.cleanup()

    asyncio.run(run())
    return asked


def test_server_sleeps_after_its_requests_and_wakes() -> None:
    async def use(server: SleepingServer) -> None:
        await server.sleep()
        assert await server.is_sleeping()
        await server.wake()
        assert not await server.is_sleeping()

    assert with_server(use) == ["/sleep?level=1&mode=wait", "/wake_up"]


def test_server_without_sleep_mode_says_so() -> None:
    async def use(server: SleepingServer) -> None:
        with pytest.raises(EngineError, match="no sleep mode"):
            await server.sleep()

    assert with_server(use, has_sleep_mode=False) == []


def test_server_that_is_gone_is_an_engine_error() -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(EngineError, match="cannot be reached"):
                await SleepingServer(f"http://127.0.0.1:{free_port()}", session=session).wake()

    asyncio.run(run())
