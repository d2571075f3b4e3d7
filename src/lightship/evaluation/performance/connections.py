"""HTTP/1.1 to one endpoint for thousands of streams from one thread: no task is woken for a piece of a body.

A load client must not be what it measures. Bytes go from the socket through the parser straight into the receiver, in
one callback; the task that waits for an answer wakes once, at its end. Why not aiohttp: there each piece of a body
wakes a task through a queue, which costs several times what reading the event itself does.

Not a general HTTP client: one method and path, no redirects, no proxies, no compression, no retries.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from types import TracebackType
from typing import Any, Protocol, Self, cast
from urllib.parse import urlsplit

import httptools

from lightship.errors import MeasurementError
from lightship.evaluation.performance.answers import EndpointError
from lightship.evaluation.performance.records import ErrorKind

# Seconds. Below the shortest keep-alive time of servers in use (2 s), so that none closes a connection in the very
# moment in which it is used again; that would look like a failed request.
_MAX_IDLE_S = 1.0
# What this machine refuses, not the server: no figure can come of it.
_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})


class Receiver(Protocol):
    """Takes an answer as it comes; called from the event loop, so it must be quick.

    Either may raise EndpointError, which ends the exchange and closes its connection.
    """

    def start(self, status: int) -> None:
        """The headers are there."""
        ...

    def receive(self, chunk: bytes) -> None:
        """A part of the body, never empty."""
        ...


class CompletionEndpoint(Protocol):
    """Where completion requests go: HTTP in use, memory in tests."""

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        """Sends one request body and returns when the answer has ended.

        Raises: EndpointError: no connection, or the answer broke off; also whatever the receiver raised.
        """
        ...


class _Connection(asyncio.Protocol):
    """One connection, and the exchange it carries.

    CONNECTED --exchange--> BUSY --answer complete--> CONNECTED (or CLOSED, if either side wants that)
    any --lost, or the receiver raised--> CLOSED
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: asyncio.Future[None]) -> None:
        self._loop = loop
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._receiver: Receiver | None = None
        self._ended: asyncio.Future[None] | None = None
        self._ends_with_connection = False
        self._has_headers = False
        self.is_reusable = False
        self.idle_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it

    def send(self, request: bytes, receiver: Receiver) -> asyncio.Future[None]:
        """Starts an exchange; the future ends with it."""
        assert self._transport is not None
        assert self._ended is None, "one exchange at a time"
        self._parser = httptools.HttpResponseParser(self)
        self._receiver = receiver
        self._ended = self._loop.create_future()
        self._ends_with_connection = True
        self._has_headers = self.is_reusable = False
        self._transport.write(request)
        return self._ended

    def abort(self) -> None:
        """Closes at once, whatever is under way."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._parser is None or self._ended is None:  # nobody asked for anything
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # after the end of an answer this is rubbish behind it; the answer itself was good
            self._end(EndpointError(ErrorKind.MALFORMED, f"not an HTTP answer: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.is_reusable = False
        if self._has_headers and self._ends_with_connection and exc is None:
            self._end(None)
        else:
            what = f"the connection broke: {exc}" if exc else "the server closed the connection"
            self._end(EndpointError(ErrorKind.TRUNCATED, f"{what} before the answer was complete"))
        if not self._lost.done():
            self._lost.set_result(None)

    def on_message_begin(self) -> None:
        """Called by the parser. An answer nobody asked for, behind ours, makes the connection useless."""
        self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        lower = name.lower()
        if lower in {b"content-length", b"transfer-encoding"}:
            self._ends_with_connection = False
        elif lower == b"content-encoding" and value.strip().lower() != b"identity":
            self._refuse(EndpointError(ErrorKind.MALFORMED, f"the answer is compressed, unasked: {value!r}"))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200 or self._receiver is None:  # an interim answer; the real one follows
            return
        self._has_headers = True
        self._receiver.start(status)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._receiver is not None:
            try:
                self._receiver.receive(body)
            except EndpointError as error:
                self._refuse(error)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        assert self._parser is not None
        if not self._has_headers:
            self._ends_with_connection = True
            return
        self.is_reusable = self._ended is not None and self._parser.should_keep_alive()
        self._end(None)

    def _refuse(self, error: EndpointError) -> None:
        self._end(error)
        self.abort()

    def _end(self, error: EndpointError | None) -> None:
        ended, self._ended, self._receiver = self._ended, None, None
        if ended is None or ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)


class HttpCompletions:
    """`POST {base_url}/v1/completions` over as many connections as there are requests at a time.

    Connections are used again, the last one first. The host's addresses are looked up once, so that name service plays
    no part in latencies.

    Raises: MeasurementError: on making one: the address or a header makes no sense.
    """

    def __init__(self, base_url: str, *, connect_timeout_s: float = 5.0, headers: dict[str, str] | None = None) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._url = f"{self.base_url}/v1/completions"
        self._connect_timeout_s = connect_timeout_s
        self._host, self._port, self._ssl = _address(self.base_url)
        self._head = _request_head(self._url, headers or {})
        self._addresses: list[tuple[Any, ...]] = []
        self._idle: list[_Connection] = []
        self._open: dict[asyncio.Future[None], _Connection] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._open.values():
            connection.abort()
        if self._open:
            await asyncio.wait(self._open)

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        """See `CompletionEndpoint`.

        Raises: MeasurementError: this machine has no more descriptors or ports, which is not the server's failure.
        """
        loop = asyncio.get_running_loop()
        connection = self._take_idle(loop.time()) or await self._connect(loop)
        try:
            await connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), receiver)
        except BaseException:  # also a cancelled wait: whatever comes now on this connection is nobody's
            connection.abort()
            raise
        if connection.is_reusable:
            connection.idle_since_s = loop.time()
            self._idle.append(connection)
        else:
            connection.abort()

    def _take_idle(self, now_s: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and now_s - connection.idle_since_s < _MAX_IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect_to_any(loop)
        except TimeoutError as error:
            detail = f"{self._url}: no connection within {self._connect_timeout_s:g} s"
            raise EndpointError(ErrorKind.CONNECT, detail) from error
        except OSError as error:  # refused, unreachable, unknown host, or TLS
            if error.errno in _OWN_LIMITS:
                raise MeasurementError(
                    f"this machine opens no more connections, at {len(self._open)} of them: {error.strerror}",
                    where=self._url,
                    hint="Raise the limit on open files (ulimit -n) or use fewer streams at a time.",
                ) from error
            raise EndpointError(ErrorKind.CONNECT, f"{self._url}: {error}") from error

    async def _connect_to_any(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        if not self._addresses:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = [address for *_, address in found]
        for index, address in enumerate(self._addresses):
            try:
                connection = await self._connect_to(loop, address)
            except OSError:
                if index + 1 == len(self._addresses):
                    raise
                continue
            self._addresses = self._addresses[index:]  # those before did not answer
            return connection
        raise OSError(errno.EADDRNOTAVAIL, "the host has no address")

    async def _connect_to(self, loop: asyncio.AbstractEventLoop, address: tuple[Any, ...]) -> _Connection:
        lost: asyncio.Future[None] = loop.create_future()
        name = self._host if self._ssl is not None else None
        _, connection = await loop.create_connection(
            lambda: _Connection(loop, lost), address[0], address[1], ssl=self._ssl, server_hostname=name
        )
        self._open[lost] = connection
        lost.add_done_callback(self._open.pop)
        return connection


def _address(base_url: str) -> tuple[str, int, ssl.SSLContext | None]:
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise MeasurementError(f"not an address: {error}", where=base_url) from error
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise MeasurementError("not the address of an endpoint", where=base_url, hint="Give http://HOST:PORT.")
    if parts.username is not None or parts.password is not None:
        shown = f"{parts.scheme}://…@{host}"
        raise MeasurementError("the address holds credentials", where=shown, hint="Send them as a header.")
    if parts.scheme == "http":
        return host, port or 80, None
    return host, port or 443, ssl.create_default_context()


def _request_head(url: str, headers: dict[str, str]) -> bytes:
    """Request line and headers up to the value of the last one, `content-length`."""
    parts = urlsplit(url)
    fields = {
        "host": parts.netloc,
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        **{name.lower(): value for name, value in headers.items()},
        "content-type": "application/json",
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    for line in lines:
        if not line.isprintable() or not line.isascii():
            name = line.partition(":")[0]
            raise MeasurementError(f"the header {name!r} holds characters that no header may have", where=url)
    return "\r\n".join([*lines, "content-length: "]).encode("ascii")
