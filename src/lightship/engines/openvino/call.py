"""One HTTP request under way: who asked, what has been sent, and whether the client is still there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lightship.serving.body import header
from lightship.serving.responses import end_stream, send_api_error, send_bytes, send_chunk, start_stream
from lightship.wire.errors import ApiError
from lightship.wire.sse import CONTENT_TYPE, data_event

_MAX_REQUEST_ID_CHARS = 128


class Call:
    """One request and the way to answer it.

    Args:
        variant_digest: Sent with every answer.
        arrived_s: When the request arrived, on the worker's monotonic clock.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, variant_digest: str, arrived_s: float) -> None:
        self.scope = scope
        self.receive = receive
        self.arrived_s = arrived_s
        self._send = send
        self.request_id = request_id(header(scope, b"x-request-id"))
        self.is_started = False
        self._headers = {"x-request-id": self.request_id, "x-served-variant": variant_digest}

    async def send_json(self, body: bytes, *, status: int = 200) -> None:
        """Sends a whole JSON answer."""
        await self.send_whole(body, content_type="application/json", status=status)

    async def send_whole(self, body: bytes, *, content_type: str, status: int = 200) -> None:
        """Sends a whole answer."""
        self.is_started = True
        is_head = self.scope["method"] == "HEAD"
        headers = {"content-type": content_type, **self._headers}
        await send_bytes(self._send, body, status=status, headers=headers, is_head=is_head)

    async def send_error(self, error: ApiError) -> None:
        """Sends an error, as the answer or, when a stream has begun, as its last event."""
        if self.is_started:
            await send_chunk(self._send, data_event(error.body_bytes()))
            await end_stream(self._send)
            return
        self.is_started = True
        await send_api_error(self._send, error, headers=self._headers)

    async def start_stream(self) -> None:
        """Sends the head of a stream."""
        self.is_started = True
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}
        await start_stream(self._send, headers={**headers, **self._headers})

    async def send_chunk(self, chunk: bytes) -> None:
        """Sends a part of a stream; waits when the client reads slowly."""
        await send_chunk(self._send, chunk)

    async def end_stream(self) -> None:
        """Ends a stream."""
        await end_stream(self._send)

    async def run_while_connected(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work`; cancels it at once when the client leaves. The body must have been read.

        Raises: ClientDisconnect: the client left first. Otherwise whatever `work` raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._raise_on_disconnect())
                await work()
                watch.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _raise_on_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect


def request_id(sent: str | None) -> str:
    """The client's request id when it is safe to repeat, else a new one.

    >>> request_id("job-17")
    'job-17'
    """
    if sent and len(sent) <= _MAX_REQUEST_ID_CHARS and all("!" <= char <= "~" for char in sent):
        return sent
    return secrets.token_hex(12)
