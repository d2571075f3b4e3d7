"""One HTTP/1.1 connection, and the exchange it carries.

    CONNECTED --request--> BUSY --answer complete, and both sides keep the connection--> CONNECTED
    any --lost, aborted, or something that is no proper answer--> CLOSED

An answer is refused when two readers could see its end in different places: whoever passes such a one on lends its
connection to the server behind (response splitting). Source: RFC 9112 sections 6.1 and 6.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import httptools

from lightship.transport.errors import ConnectionLostError, MalformedResponseError, TransportError

# Bytes of everything that is not body: interim answers, status line, headers, chunk extensions, trailers. Far above
# what servers send, far below what hurts.
MAX_HEAD_BYTES = 64 * 2**10
_NO_BODY_STATUSES = frozenset({204, 304})


class ResponseHead(NamedTuple):
    """Status and headers as they came; names are lower-case."""

    status: int
    headers: list[tuple[bytes, bytes]]


class ResponseReceiver(Protocol):
    """Takes an answer as it comes; called from the event loop, so it must be quick, and must not raise."""

    def head_received(self, head: ResponseHead) -> None:
        """Status and headers are there."""
        ...

    def body_received(self, chunk: bytes) -> None:
        """What one read of the socket brought of the body, never empty."""
        ...

    def response_ended(self, error: TransportError | None) -> None:
        """The answer is complete, or will never be; called exactly once, as the last."""
        ...


class Connection(asyncio.Protocol):
    """One connection. `has_received` tells whether any byte has come since the latest request.

    Args:
        on_idle: Called when an answer is complete and the connection can carry another request.
        on_closed: Called once, when the connection is gone for good.
    """

    __slots__ = (
        "_body",
        "_has_length",
        "_has_message_ended",
        "_head",
        "_headers",
        "_is_chunked",
        "_is_paused",
        "_num_head_bytes",
        "_on_closed",
        "_on_idle",
        "_parser",
        "_receiver",
        "_transport",
        "has_received",
        "idle_since_s",
        "is_usable",
    )

    def __init__(self, *, on_idle: Callable[[Connection], None], on_closed: Callable[[Connection], None]) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: ResponseReceiver | None = None
        self._head: ResponseHead | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._is_chunked = self._has_length = self._has_message_ended = False
        self._num_head_bytes = 0
        self._is_paused = False
        self.is_usable = False
        self.has_received = False
        self.idle_since_s = 0.0

    def request(self, request: bytes, receiver: ResponseReceiver) -> None:
        """Sends a request; the answer goes to the receiver. One exchange at a time."""
        assert self._transport is not None
        assert self._receiver is None, "one exchange at a time"
        self._reset()
        self.has_received = False
        self._receiver = receiver
        self._transport.write(request)

    def abort(self) -> None:
        """Closes at once, whatever is under way; a receiver is told."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()
        self._end(ConnectionLostError("the connection was closed from this side"))

    def drop(self) -> None:
        """Like `abort`, and the receiver hears nothing more."""
        self._receiver = None
        self.abort()

    def pause_reading(self) -> None:
        """Reads nothing more from the socket, so that the server has to wait."""
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        if self._transport is not None and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    # Called by the event loop, see `asyncio.Protocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it
        self.is_usable = True

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, or bytes that nobody asked for."""
        if self._receiver is None:
            self.abort()
            return
        self.has_received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse("it switches protocols, unasked")
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(str(cause if isinstance(cause, _RefusedError) else error))
            return
        body, receiver = self._body, self._receiver
        if body:
            chunk = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            self._num_head_bytes = 0
            if receiver is not None:
                receiver.body_received(chunk)
        elif not self._has_message_ended:
            self._count_head_bytes(len(data))
        if self._has_message_ended:
            self._finish()

    def eof_received(self) -> None:
        """The server sends no more; the event loop closes the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone for good."""
        self.is_usable = False
        is_end = self._head is not None and not self._has_length and not self._is_chunked and exc is None
        if is_end:
            self._end(None)
        else:
            what = f"the connection broke: {exc}" if exc else "the server closed the connection"
            self._end(ConnectionLostError(f"{what} before the answer was complete"))
        self._on_closed(self)

    # Called by the parser

    def on_message_begin(self) -> None:
        """An answer begins: ours, the one after an interim one, or one that nobody asked for."""
        if self._has_message_ended:
            raise _RefusedError("another answer follows it")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; one after the body is a trailer, which belongs to this hop."""
        if self._head is not None:
            return
        name = name.lower()
        if name == b"transfer-encoding":
            if self._is_chunked or value.strip().lower() != b"chunked":
                raise _RefusedError(f"its transfer-encoding is {value[:40]!r}")
            self._is_chunked = True
        elif name == b"content-length":
            self._has_length = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is complete."""
        status = self._parser.get_status_code()
        if self._is_chunked and (self._has_length or status < 200 or status == 204):
            raise _RefusedError("two headers disagree on where it ends")
        if status < 200:  # an interim answer; the real one follows
            self._headers = []
            self._is_chunked = self._has_length = False
            return
        if status in _NO_BODY_STATUSES:
            self._has_length = True
        if self._is_chunked and self._parser.get_http_version() != "1.1":
            raise _RefusedError("chunks in an answer of HTTP/1.0")
        if self._receiver is not None:
            self._head = ResponseHead(status, self._headers)
            self._receiver.head_received(self._head)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer, or an interim one, is complete."""
        if self._head is not None:
            self._has_message_ended = True
            self.is_usable = self.is_usable and self._parser.should_keep_alive()

    def _reset(self) -> None:
        self._head = None
        self._headers = []
        self._body = []
        self._is_chunked = self._has_length = self._has_message_ended = False
        self._num_head_bytes = 0

    def _count_head_bytes(self, num_bytes: int) -> None:
        """Holds what comes without any body to a bound; a read that brings body starts the count again."""
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._refuse(f"over {MAX_HEAD_BYTES} bytes of it are not body")

    def _finish(self) -> None:
        transport = self._transport
        assert transport is not None
        if self._receiver is None:  # given up while it came
            return
        is_reusable = self.is_usable and not transport.is_closing() and not transport.get_write_buffer_size()
        self._end(None)
        if is_reusable:
            self.resume_reading()
            self._on_idle(self)
        else:
            self.is_usable = False
            transport.abort()

    def _refuse(self, why: str) -> None:
        # Pieces before the fault are good, and after the end of an answer the fault is behind it.
        if self._body and self._receiver is not None:
            self._receiver.body_received(b"".join(self._body))
            self._body = []
        self.is_usable = False
        self._end(None if self._has_message_ended else MalformedResponseError(f"not a proper HTTP answer: {why}"))
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: TransportError | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.response_ended(error)


class _RefusedError(Exception):
    """Why the parser is to stop."""
