"""A client of an ASGI app in memory that can leave at any time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope

JSON_HEADERS = ((b"content-type", b"application/json"),)


@dataclass
class AsgiClient:
    """One request, and what came back.

    The body is sent once `is_body_sent`, where given, is set. Setting `gone` closes the connection.
    """

    path: str = "/v1/chat/completions"
    body: bytes = b'{"model":"m"}'
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = JSON_HEADERS
    is_body_sent: asyncio.Event | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0
    reply_headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    is_complete: bool = False
    _num_received: int = 0

    @property
    def text(self) -> bytes:
        """The body so far."""
        return b"".join(self.chunks)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body."""
        error: dict[str, Any] = json.loads(self.text)["error"]
        return error

    async def run(self, app: ASGIApp) -> None:
        """Sends the request, and returns when the app has ended."""
        scope: Scope = {"type": "http", "method": self.method, "path": self.path, "headers": list(self.headers)}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self._num_received += 1
        if self._num_received == 1 and self.is_body_sent is not None:
            await self._first_of(self.is_body_sent, self.gone)
        if self._num_received == 1 and not self.gone.is_set():
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @staticmethod
    async def _first_of(*events: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(event.wait()) for event in events]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(0)  # a server may have to wait here
        if self.gone.is_set():
            return
        if message["type"] == "http.response.start":
            assert self.status == 0
            self.status = message["status"]
            self.reply_headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            assert self.status
            assert not self.is_complete
            self.chunks.append(message["body"])
            self.is_complete = not message.get("more_body", False)
