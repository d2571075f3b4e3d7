"""Serves an ASGI app on a real socket of this machine for the length of a block."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from lightship.serving.http_protocol import BoundedHttpProtocol
from lightship.serving.server import bind_socket


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()


@asynccontextmanager
async def serving_app(app: ASGIApp) -> AsyncIterator[str]:
    """The base URL at which the app is served, with the server and protocol that serve it for users."""
    listener = bind_socket("127.0.0.1", 0)
    host, port = listener.getsockname()
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _AnnouncingServer(config)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            await task  # in here, so that a failing block does not cancel the server before it has closed its socket
