"""One client connection as uvicorn's server runs it: HTTP/1.1 parsed by httptools, each request given to the ASGI app.

    HEAD --complete--> EXCHANGE --answered--> IDLE --first byte--> HEAD        (or closed, if either side wants that)
    any --malformed--> answered with the OpenAI error object, after the answers before it, and closed

Why not uvicorn's own protocol class: it has no bounds for the size of a head, for the time until it is there and for
clients that do not read, answers a malformed request in the middle of the answer before it, and takes longer.
What is refused as ambiguous could be seen as two requests by one server and as one by another (request smuggling);
source: RFC 9112 sections 3.2, 6.1 and 6.3.
"""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from lightship.serving.http_exchange import EXTENSION, HttpExchange
from lightship.wire.errors import ApiError, invalid_request

# Far above what clients send, far below what hurts.
MAX_HEAD_BYTES = 64 * 2**10
# From the connection, or the first byte of a later request on it, to the end of the head.
HEAD_TIMEOUT_S = 20.0
# How long a full write buffer may stay full: who does not read has left, for the engine that works for it.
SEND_TIMEOUT_S = 30.0
# For the rest of a body that nobody will read, because its answer is already sent: closing at once could make the
# client miss the answer.
_LINGER_S = 5.0
_FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
# Event loops count time in steps of up to a millisecond, so a timer may fire that much early.
_TIMER_SLACK_S = 0.001


def with_send_timeout(send_timeout_s: float) -> type[BoundedHttpProtocol]:
    """The protocol with another time to take an answer; uvicorn wants a class."""
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"send_timeout_s": send_timeout_s})


class _RefusedError(Exception):
    """What is wrong with a request, for its client."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class BoundedHttpProtocol(asyncio.Protocol):
    """One client connection.

    One timer serves all its limits: it is not moved when a limit changes to a later one, but looks, when it fires,
    whether anything is due, and waits on.
    """

    send_timeout_s = SEND_TIMEOUT_S

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._root_path = config.root_path
        self._keep_alive_s = float(config.timeout_keep_alive)
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_event_loop()
        self._parser: httptools.HttpRequestParser | None = _new_parser(self)
        self._exchange: HttpExchange | None = None  # the latest request
        self._waiting: list[HttpExchange] = []  # requests that came before the answer to an earlier one was complete
        self._under_way: HttpExchange | None = None  # the one that is being answered
        self._error: ApiError | None = None  # to be sent when the answers before it are complete
        self._is_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = self._timer_s = math.inf
        self._in_head = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unread_body = b""  # the lines that say how long it is
        self._is_in_made_up_head = False
        self._num_read_bytes = self._num_head_bytes = self._num_hosts = self._num_begun = 0
        self._expects_continue = False

    # Called by uvicorn's server

    def shutdown(self) -> None:
        """Effects: closes the connection now, or when its answer is complete."""
        if self._under_way is None:
            self.close()
        else:
            self._under_way.end_after_this()

    # Called by the event loop, see `asyncio.Protocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it
        self._server_state.connections.add(cast(Any, self))  # its type names uvicorn's own classes
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": self._root_path,
        }
        self._set_due(self._loop.time() + HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client, or this side, has closed."""
        del exc
        self._server_state.connections.discard(cast(Any, self))
        for timer in (self._timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        for exchange in (self._under_way, *self._waiting):
            if exchange is not None:
                exchange.client_left()
        self._waiting.clear()
        self._under_way = self._exchange = None
        self.resume_writing()
        self._parser = None

    def eof_received(self) -> None:
        """The client sends no more: it has left. The event loop closes the connection."""

    def pause_writing(self) -> None:
        """The write buffer is full: the client has this long to make room."""
        if self._drained is None:
            self._drained = self._loop.create_future()
        if self._send_timer is None:
            self._send_timer = self._loop.call_later(self.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """There is room again."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        num_bytes = self._num_read_bytes = len(data)
        is_between = not self._num_head_bytes and (self._exchange is None or self._exchange.is_body_complete)
        self._num_begun = 0
        while data and self._error is None and self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as error:
                data = data[error.args[0] :]  # the request is answered as if the client had not asked
                self._read_body_all_the_same()
                continue
            except httptools.HttpParserError as error:
                cause = error.__context__
                refused = cause.error if isinstance(cause, _RefusedError) else None
                self._refuse(refused or _bad_head("Invalid HTTP request received."))
                return
            break
        if self._in_head:
            is_all_of_it = not self._num_begun or (is_between and self._num_begun == 1)
            self._count_head_bytes(num_bytes if is_all_of_it else 0)

    # Called by the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._is_in_made_up_head:
            return
        self._num_begun += 1
        self._in_head = True
        self._url = b""
        self._headers = []
        self._num_head_bytes = self._num_hosts = 0
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        if self._in_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; one after the body is a trailer, which nobody asked for."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"host":
            self._num_hosts += 1
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise _RefusedError(_bad_head("Only 'chunked' is supported as transfer-encoding."))
        elif name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is complete."""
        if self._is_in_made_up_head:
            return
        self._in_head = False
        if self._num_head_bytes + self._num_read_bytes > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            raise _RefusedError(_head_too_large())
        self._num_head_bytes = 0
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise _RefusedError(_bad_head("Only HTTP 1.0 and 1.1 are spoken."))
        if self._num_hosts > 1 or (not self._num_hosts and version == "1.1"):
            raise _RefusedError(_bad_head("A request must have exactly one host header."))
        path, raw_path, query = _parse_url(self._url)
        scope = {
            **self._scope,
            "method": parser.get_method().decode("ascii"),
            "path": self._root_path + path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        if version != "1.1":
            scope["http_version"] = version
        exchange = HttpExchange(
            self,
            scope,
            keeps_alive=version == "1.1" and parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        scope["extensions"] = {EXTENSION: exchange}
        self._exchange = exchange
        self._due_s = math.inf
        if parser.should_upgrade() and scope["method"] != "CONNECT":
            self._unread_body = b"".join(b"%b: %b\r\n" % line for line in self._headers if line[0] in _FRAMING_HEADERS)
        if self._under_way is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._exchange is not None:
            self._exchange.body_received(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        exchange = self._exchange
        if exchange is not None and not self._unread_body:
            exchange.body_ended()
            if exchange.is_complete:  # answered before
                self._become_idle()

    def _read_body_all_the_same(self) -> None:
        """The parser leaves out the body of a request that asks for another protocol; another parser reads it.

        Java's client asks for HTTP/2 in this way with every request, unless it is told not to.
        """
        framing, self._unread_body = self._unread_body, b""
        if framing:
            self._parser = _new_parser(self)
            self._is_in_made_up_head = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
            self._is_in_made_up_head = False

    # Called by the exchange

    def write(self, data: bytes) -> None:
        """See `ClientConnection`."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """See `ClientConnection`."""
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """See `ClientConnection`. Not while a later request waits: its bytes are what would come."""
        if self._is_paused and not self._waiting and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    def drained(self) -> asyncio.Future[None] | None:
        """See `ClientConnection`."""
        return self._drained

    def close(self) -> None:
        """See `ClientConnection`."""
        if not self.transport.is_closing():
            self.transport.close()

    def answered(self, *, keeps_alive: bool) -> None:
        """See `ClientConnection`."""
        self._server_state.total_requests += 1
        exchange, self._under_way = self._under_way, None
        if not keeps_alive:
            self.close()
        elif self._waiting:
            self._start(self._waiting.pop(0))
        elif self._error is not None:
            self._send_and_close(self._error)
        else:
            self.resume_reading()
            if exchange is not None and exchange.is_body_complete:
                self._become_idle()
            else:
                self._set_due(self._loop.time() + _LINGER_S)

    def _start(self, exchange: HttpExchange) -> None:
        self._under_way = exchange
        task = self._loop.create_task(exchange.run(self._app))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _become_idle(self) -> None:
        if self._under_way is None:
            self._set_due(self._loop.time() + self._keep_alive_s)

    def _head_bytes(self) -> int:
        return len(self._url) + sum(len(name) + len(value) for name, value in self._headers)

    def _count_head_bytes(self, num_bytes: int) -> None:
        """Bounds a head that does not end, in size and in time."""
        if not self._num_head_bytes:
            self._set_due(min(self._due_s, self._loop.time() + HEAD_TIMEOUT_S))
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _set_due(self, due_s: float) -> None:
        self._due_s = due_s
        if due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = self._loop.call_at(due_s, self._check_due)

    def _check_due(self) -> None:
        self._timer, self._timer_s = None, math.inf
        now_s = self._loop.time()
        if self._under_way is not None:
            self._set_due(now_s + HEAD_TIMEOUT_S if self._in_head else math.inf)
        elif now_s >= self._due_s - _TIMER_SLACK_S:
            self.close()
        elif self._due_s < math.inf:
            self._set_due(self._due_s)

    def _refuse(self, error: ApiError) -> None:
        """Answers what cannot be understood, when the answers before it are complete, and closes."""
        self._error = error
        exchange = self._exchange
        if exchange is not None and not exchange.is_body_complete:  # what is malformed is its body
            if exchange.is_complete:
                self.close()
                return
            is_answerable = exchange is self._under_way and not exchange.is_started
            if exchange in self._waiting:
                self._waiting.remove(exchange)
            elif exchange is self._under_way:
                exchange.client_left()
                self._under_way = None
                if not is_answerable:
                    self.close()
                    return
        if self._under_way is None:
            self._send_and_close(error)
        else:
            self.pause_reading()

    def _send_and_close(self, error: ApiError) -> None:
        body = error.body_bytes()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("latin-1") + body)
        self.transport.close()


def _new_parser(protocol: BoundedHttpProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # what follows the last request of a connection is not worth an error
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _bad_head(message: str) -> ApiError:
    return invalid_request(message, code="invalid_http")


def _head_too_large() -> ApiError:
    return ApiError(
        431,
        f"The request's head is over the limit of {MAX_HEAD_BYTES} bytes.",
        type="invalid_request_error",
        code="headers_too_large",
    )


def _parse_url(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the path as it came, and query. Raises: an error of the parser when it is no address."""
    if url.startswith(b"/") and not url.startswith(b"//") and b"?" not in url and b"%" not in url and b"#" not in url:
        return url.decode("ascii"), url, b""
    parts = httptools.parse_url(url)
    raw_path = parts.path or b"/"
    return urllib.parse.unquote(raw_path.decode("ascii")), raw_path, parts.query or b""
