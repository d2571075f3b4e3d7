"""One request and its answer, as an ASGI app sees them: `receive` gives the body, `send` takes the answer.

    request   HEAD --body--> ... --complete--> READ
    answer    NOT STARTED --start--> HELD --first body--> STARTED --last body--> COMPLETE
    any --client left--> GONE: `receive` says so, `send` does nothing

The head is held until the first body message, so that a short answer is one write. Source: ASGI 3.0, which allows that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from lightship.wire.errors import internal_error

_log = logging.getLogger(__name__)

# Key of `scope["extensions"]` under which the exchange itself is found, see `disconnect`.
EXTENSION = "lightship.exchange"
# Bytes of a body that wait for the app before the client has to wait.
_HIGH_WATER_BYTES = 64 * 2**10
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_DISCONNECT: Message = {"type": "http.disconnect"}


class ClientConnection(Protocol):
    """What an exchange needs of the connection it is on."""

    @property
    def transport(self) -> asyncio.Transport:
        """What the event loop made for it."""
        ...

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        ...

    def pause_reading(self) -> None:
        """Takes no more from the client for now."""
        ...

    def resume_reading(self) -> None:
        """Takes more again."""
        ...

    def drained(self) -> asyncio.Future[None] | None:
        """What to wait for before more is written; None when there is room."""
        ...

    def close(self) -> None:
        """Closes when what was written is sent; the client sees that the answer is not whole."""
        ...

    def answered(self, *, keeps_alive: bool) -> None:
        """The answer is complete."""
        ...


class HttpExchange:
    """One request and its answer.

    Args:
        connection: Where the bytes go.
        scope: Of the request; the app may change it.
        keeps_alive: Whether the client wants to go on after this one.
        expects_continue: Whether the client waits for a go-ahead before it sends the body.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_expects_continue",
        "_held_head",
        "_is_body_complete",
        "_is_body_given",
        "_is_chunked",
        "_is_head_request",
        "_is_started",
        "_keeps_alive",
        "_num_left",
        "_on_disconnect",
        "_waiter",
        "is_complete",
        "is_gone",
        "scope",
    )

    def __init__(
        self, connection: ClientConnection, scope: Scope, *, keeps_alive: bool, expects_continue: bool
    ) -> None:
        self._connection = connection
        self.scope = scope
        self._keeps_alive = keeps_alive
        self._expects_continue = expects_continue
        self._is_head_request = scope["method"] == "HEAD"
        self._body = b""
        self._is_body_complete = self._is_body_given = False
        self._waiter: asyncio.Future[None] | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._held_head: bytes | None = None
        self._is_started = False
        self._is_chunked = False
        self._num_left = 0
        self.is_complete = False
        self.is_gone = False

    @property
    def is_body_complete(self) -> bool:
        """Whether the whole body has come."""
        return self._is_body_complete

    @property
    def is_started(self) -> bool:
        """Whether any byte of the answer was sent."""
        return self._is_started and self._held_head is None

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's, for a server that is to misbehave on purpose."""
        return self._connection.transport

    # Called by the connection

    def body_received(self, body: bytes) -> None:
        """A piece of the body."""
        if self.is_complete:
            return  # nobody will read it
        self._body += body
        if len(self._body) > _HIGH_WATER_BYTES:
            self._connection.pause_reading()
        self._wake()

    def body_ended(self) -> None:
        """The body is complete."""
        self._is_body_complete = True
        self._wake()

    def client_left(self) -> None:
        """Nobody is there to be answered."""
        self.is_gone = True
        self._wake()
        on_disconnect, self._on_disconnect = self._on_disconnect, None
        if on_disconnect is not None and not self.is_complete:
            on_disconnect()

    def end_after_this(self) -> None:
        """Effects: the connection is closed when the answer is complete."""
        self._keeps_alive = False

    # Called by the app

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Who is called, once, when the client leaves before the answer is complete; None for nobody."""
        self._on_disconnect = callback

    async def run(self, app: ASGIApp) -> None:
        """Effects: runs the app; a failure of it becomes a 500, or ends the connection when the answer has begun."""
        try:
            await app(self.scope, self.receive, self.send)
            if self.is_complete or self.is_gone:
                return
            _log.warning("the application ended without completing its answer to %s", self.scope["path"])
        except asyncio.CancelledError:
            self._connection.close()
            raise
        except Exception:  # noqa: BLE001 # the border of the server: the next request must not suffer
            _log.exception("the application failed at %s", self.scope["path"])
        if self.is_started or self.is_gone or self.is_complete:
            self._connection.close()
        else:
            body = internal_error("").body_bytes()
            self._is_started = self._is_chunked = False
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """See ASGI."""
        if self._expects_continue:
            self._expects_continue = False
            if not self._is_started and not self.is_gone:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.is_gone or self.is_complete):
            if self._body or (self._is_body_complete and not self._is_body_given):
                self._is_body_given = self._is_body_complete
                body, self._body = self._body, b""
                return {"type": "http.request", "body": body, "more_body": not self._is_body_complete}
            self._connection.resume_reading()
            await self._wait()
        return _DISCONNECT

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if self.is_gone:
            return
        kind = message["type"]
        if kind == "http.response.body" and self._is_started and not self.is_complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
            drained = self._connection.drained()
            if drained is not None:
                await drained
        elif kind == "http.response.start" and not self._is_started:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"the message {kind!r} is out of place")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        has_length = says_close = False
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                has_length = True
                self._num_left = int(value)
            elif name == b"connection" and value.lower() == b"close":
                says_close = True
        if says_close:
            self._keeps_alive = False
        elif not self._keeps_alive:
            lines.append(b"connection: close\r\n")
        if not has_length and not self._is_head_request and status not in {204, 304}:
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if self._is_head_request or status == 304:
            self._num_left = 0
        head = b"".join(lines)
        # whatever an app passes on, no header of it can begin another one
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise ValueError("a header of the answer holds characters that no header may have")
        self._held_head = head
        self._is_started = True

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self._is_head_request:
            body = b""
        elif self._is_chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if is_last:
                body += b"0\r\n\r\n"
        else:
            self._num_left -= len(body)
            if self._num_left < 0 or (is_last and self._num_left):
                raise RuntimeError("the answer's body is not as long as its content-length says")
        if self._held_head is not None:
            body = b"%b\r\n%b" % (self._held_head, body)
            self._held_head = None
        if body:
            self._connection.write(body)
        if is_last:
            self.is_complete = True
            self._on_disconnect = None
            self._wake()
            self._connection.answered(keeps_alive=self._keeps_alive)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
