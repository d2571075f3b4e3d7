"""The load client's HTTP: thousands of streams from one thread, and no task is woken for a piece of a body.

A load client must not be what it measures. Bytes go from the socket through the parser straight into the receiver, in
one callback (see `transport`); the task that waits for an answer wakes once, at its end.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from lightship.errors import MeasurementError
from lightship.evaluation.performance.answers import EndpointError
from lightship.evaluation.performance.records import ErrorKind
from lightship.transport.connection import Connection, ResponseHead
from lightship.transport.errors import ConnectTimeoutError, MalformedResponseError, TransportError
from lightship.transport.origin import CredentialsInAddressError, Origin, parse_origin
from lightship.transport.pool import OriginConnections

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


class _Exchange:
    """One request's answer on its way to the receiver; a `ResponseReceiver` of `transport`."""

    __slots__ = ("_connection", "_receiver", "ended")

    def __init__(self, connection: Connection, receiver: Receiver) -> None:
        self._connection = connection
        self._receiver = receiver
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head_received(self, head: ResponseHead) -> None:
        """Status and headers are there."""
        for name, value in head.headers:
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                self._refuse(EndpointError(ErrorKind.MALFORMED, f"the answer is compressed, unasked: {value!r}"))
                return
        self._receiver.start(head.status)

    def body_received(self, chunk: bytes) -> None:
        """A part of the body."""
        try:
            self._receiver.receive(chunk)
        except EndpointError as error:
            self._refuse(error)

    def response_ended(self, error: TransportError | None) -> None:
        """The end, good or bad."""
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        elif isinstance(error, MalformedResponseError):
            self.ended.set_exception(EndpointError(ErrorKind.MALFORMED, f"not an HTTP answer: {error}"))
        else:
            self.ended.set_exception(EndpointError(ErrorKind.TRUNCATED, str(error)))

    def _refuse(self, error: EndpointError) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
        self._connection.drop()


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
        origin = _origin(self.base_url)
        self._head = _request_head(self._url, headers or {})
        self._connections = OriginConnections(
            origin, idle_limit_s=_MAX_IDLE_S, max_idle=sys.maxsize, resolves_once=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.aclose()

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        """See `CompletionEndpoint`.

        Raises: MeasurementError: this machine has no more descriptors or ports, which is not the server's failure.
        """
        connection = self._connections.take_idle() or await self._connect()
        exchange = _Exchange(connection, receiver)
        try:
            connection.request(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), exchange)
            await exchange.ended
        except BaseException:  # also a cancelled wait: whatever comes now on this connection is nobody's
            connection.drop()
            raise

    async def _connect(self) -> Connection:
        try:
            return await self._connections.connect(timeout_s=self._connect_timeout_s)
        except ConnectTimeoutError as error:
            detail = f"{self._url}: no connection within {self._connect_timeout_s:g} s"
            raise EndpointError(ErrorKind.CONNECT, detail) from error
        except TransportError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _OWN_LIMITS:
                raise MeasurementError(
                    f"this machine opens no more connections, at {self._connections.num_open} of them: "
                    f"{cause.strerror}",
                    where=self._url,
                    hint="Raise the limit on open files (ulimit -n) or use fewer streams at a time.",
                ) from error
            raise EndpointError(ErrorKind.CONNECT, f"{self._url}: {cause or error}") from error


def _origin(base_url: str) -> Origin:
    try:
        return parse_origin(base_url)
    except CredentialsInAddressError as error:
        shown = f"{urlsplit(base_url).scheme}://…@{urlsplit(base_url).hostname}"
        raise MeasurementError("the address holds credentials", where=shown, hint="Send them as a header.") from error
    except ValueError as error:
        raise MeasurementError(
            f"not the address of an endpoint: {error}", where=base_url, hint="Give http://HOST:PORT."
        ) from error


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
