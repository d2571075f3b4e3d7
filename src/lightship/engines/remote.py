"""The engine behind one OpenAI-compatible base URL: the HTTP leaf every gateway request ends in.

Bytes go through as they are: nothing is decompressed, parsed or re-framed. Why not a client library: see `transport`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType

import msgspec

from lightship.engines.misreported import clients_fault
from lightship.ports.engine import (
    AttemptError,
    AttemptFailure,
    EngineCall,
    EngineReply,
    HopTimeouts,
    StreamBrokenError,
)
from lightship.transport.connection import ResponseHead
from lightship.transport.errors import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    ResponseTimeoutError,
    TransportError,
)
from lightship.transport.origin import parse_origin
from lightship.transport.pool import ConnectionPool
from lightship.transport.response import StreamedResponse
from lightship.wire.errors import ApiError

# Before the first byte another replica may do better on these; every other status is the answer.
RETRYABLE_STATUSES = frozenset({500, 502, 503, 504})
# Connection headers belong to one hop. Source: RFC 9110 section 7.6.1, with the two RFC 2616 names still in use.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
# Seconds. A connection that was in use less long ago did not end because it was idle: what ends it ended the request,
# and another replica is the better place for the next try.
_DIED_IDLE_AFTER_S = 0.5
# An error object is a few hundred bytes; what is longer is not one.
_ERROR_BODY_BYTES = 64 * 2**10
# Engines' metrics are some hundred kilobytes at most; what is longer is not read to its end.
_METRICS_BYTES = 4 * 2**20
# Where an endpoint says whether it wants requests: our own workers and gateways, then most engines (vLLM, SGLang,
# llama.cpp), whose `/health` is 503 while a model loads or when their engine has died.
_READY_PATHS = ("/health/ready", "/health")
_NO_SUCH_PATH = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_ERROR_HEADERS = ("retry-after", "retry-after-ms", "x-reject-reason", "x-should-retry")


class ProbeResult(StrEnum):
    """What a readiness probe found."""

    READY = "ready"
    NOT_READY = "not_ready"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"


def upstream_session(*, ssl_context: ssl.SSLContext | None = None) -> ConnectionPool:
    """Connections for any number of `RemoteEngine`s: used again, never limited here, and without state of their own.

    Not limited, because a request that waits in a client's pool is invisible; what limits requests is above.
    """
    return ConnectionPool(ssl_context=ssl_context)


def root_url(base_url: str) -> str:
    """The base URL without a trailing slash and without the `/v1` every path here begins with."""
    return base_url.rstrip("/").removesuffix("/v1")


class RemoteEngine:
    """One OpenAI-compatible endpoint as an `Engine`.

    A whole (not streamed) answer has its first byte only when it is complete, so `total_s` bounds that wait, and
    `first_token_s` bounds it for streams. A request on a connection that was idle for a while, and that ends before any
    byte of the answer, goes out once more on a new one: the server was closing it.

    Args:
        name: The replica's name, for replies and errors.
        base_url: Scheme, host, port and path, with or without `/v1`.
        session: Open connections, see `upstream_session`; the caller closes them.
        timeouts: Limits of this hop.
        headers: Sent with each request, and stronger than a call's own; where an API key belongs.

    Raises: ValueError: the address or a header makes no sense.
    Concurrency: safe for any number of calls at a time from one event loop.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        session: ConnectionPool,
        timeouts: HopTimeouts,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._root = root_url(base_url)
        origin = parse_origin(self._root)
        self._base_path = origin.base_path
        self._connections = session.to(origin)
        self._timeouts = timeouts
        self._fixed_headers = {
            "host": origin.authority,
            **{name.lower(): value for name, value in (headers or {}).items()},
            "content-type": "application/json",
            "accept-encoding": "identity",  # the gateway may have to add an event to a stream
        }
        self._fixed_lines = _header_lines(self._fixed_headers)
        self._heads: dict[str, str] = {}
        self._ready_path = _READY_PATHS[0]

    def open(self, call: EngineCall) -> _OpenCall:
        """See `Engine`. Leaving the context before the end of the body closes the connection: the replica stops."""
        return _OpenCall(self, call)

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """Whether the endpoint wants requests, by the first of the usual paths that it has; one that has none does."""
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._status_of(self._ready_path, limit_s=timeout_s)
                if status in _NO_SUCH_PATH and self._ready_path != _READY_PATHS[-1]:
                    self._ready_path = _READY_PATHS[-1]  # from now on: it stays the same program
                    status = await self._status_of(self._ready_path, limit_s=timeout_s)
        except (TimeoutError, ConnectTimeoutError, ResponseTimeoutError):
            return ProbeResult.TIMED_OUT
        except TransportError:
            return ProbeResult.UNREACHABLE
        is_ready = status < HTTPStatus.INTERNAL_SERVER_ERROR or status in _NO_SUCH_PATH
        return ProbeResult.READY if is_ready else ProbeResult.NOT_READY

    async def _status_of(self, path: str, *, limit_s: float) -> int:
        """The status a GET is answered with. Raises: TransportError."""
        request = f"GET {self._base_path}{path} HTTP/1.1\r\n{self._fixed_lines}\r\n".encode("ascii")
        response = await self.exchange(request, limit_s=limit_s)
        try:
            await response.read()
        finally:
            response.close()
        return response.head.status if response.head is not None else 0

    async def read_metrics(self, *, timeout_s: float) -> bytes | None:
        """What the endpoint says on `/metrics`, as much as is read of it; None where it says nothing. Never raises."""
        request = f"GET {self._base_path}/metrics HTTP/1.1\r\n{self._fixed_lines}\r\n".encode("ascii")
        response: StreamedResponse | None = None
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(timeout_s):
                response = await self.exchange(request, limit_s=timeout_s)
                while (piece := await response.read()) and sum(map(len, pieces)) < _METRICS_BYTES:
                    pieces.append(piece)
        except (TimeoutError, TransportError):
            return None
        finally:
            if response is not None:
                response.close()
        is_ok = response.head is not None and response.head.status == HTTPStatus.OK
        return b"".join(pieces) if is_ok else None

    async def first_byte(self, call: EngineCall) -> tuple[StreamedResponse, bytes]:
        """The answer to a call, committed to with its first bytes.

        Raises: AttemptError. ApiError: the client is at fault, whatever status the engine says.
        """
        timeouts = self._timeouts
        started_s = asyncio.get_running_loop().time()
        limit_s = timeouts.first_token_s if call.is_streaming else timeouts.total_s
        response: StreamedResponse | None = None
        try:
            response = await self.exchange(self._request(call), limit_s=limit_s)
            chunk = await self._committed_chunk(response)
        except TransportError as error:
            if response is not None:
                response.close()
            raise AttemptError(attempt_failure(error), f"{self._root}: {error}", replica=self.name) from error
        except BaseException:  # cancellation too: the connection must not outlive the attempt
            if response is not None:
                response.close()
            raise
        response.set_limits(wait_s=timeouts.next_token_s, ends_at_s=started_s + timeouts.total_s)
        return response, chunk

    async def exchange(self, request: bytes, *, limit_s: float) -> StreamedResponse:
        """The answer to a request as far as its first bytes; the caller closes it.

        Raises: TransportError.
        """
        connections = self._connections
        now_s = asyncio.get_running_loop().time()
        ends_at_s = now_s + limit_s
        connection = connections.take_idle()
        was_idle = connection is not None and now_s - connection.idle_since_s >= _DIED_IDLE_AFTER_S
        while True:
            if connection is None:
                connection = await connections.connect(timeout_s=min(self._timeouts.connect_s, limit_s))
            response = StreamedResponse(ends_at_s=ends_at_s)
            try:
                response.send(connection, request)
                await response.wait()
            except ConnectionLostError:
                if not was_idle or connection.has_received:
                    raise
                connection, was_idle = None, False
            except BaseException:
                response.close()
                raise
            else:
                return response

    def _request(self, call: EngineCall) -> bytes:
        start = self._heads.get(call.path)
        if start is None:
            start = f"POST {self._base_path}{call.path} HTTP/1.1\r\n{self._fixed_lines}"
            self._heads[call.path] = start
        own = _header_lines(
            {
                "x-request-id": call.request_id,
                **{name: value for name, value in call.headers.items() if name not in self._fixed_headers},
            }
        )
        head = f"{start}{own}content-length: {len(call.body)}\r\n\r\n"
        return head.encode("ascii") + call.body

    async def _committed_chunk(self, response: StreamedResponse) -> bytes:
        """The first bytes of an answer, which are empty only where the status says everything.

        Raises: AttemptError. ApiError: the client is at fault, whatever status the engine says.
        """
        chunk = await response.read()
        head = response.head
        assert head is not None
        status = head.status
        if status in RETRYABLE_STATUSES or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            error = await _error_object(head, chunk, response)
            if error is not None and (fault := clients_fault(error, server=_header(head, b"server"))) is not None:
                raise fault
            raise AttemptError(
                AttemptFailure.BAD_STATUS,
                f"{self._root} answered {status}",
                replica=self.name,
                status=status,
                api_error=error,
            )
        if not chunk and status < HTTPStatus.MULTIPLE_CHOICES:
            message = f"{self._root} answered {status} without a body"
            raise AttemptError(AttemptFailure.CLOSED_EARLY, message, replica=self.name, status=status)
        return chunk


class _OpenCall:
    """The context of one call. A class, because it is entered for every request and a generator costs more."""

    __slots__ = ("_call", "_engine", "_response")

    def __init__(self, engine: RemoteEngine, call: EngineCall) -> None:
        self._engine = engine
        self._call = call

    async def __aenter__(self) -> EngineReply:
        self._response, chunk = await self._engine.first_byte(self._call)
        head = self._response.head
        assert head is not None
        return EngineReply(
            status=head.status,
            headers=_end_to_end_headers(head.headers),
            chunks=_Chunks(chunk, self._response),
            replica=self._engine.name,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()


class _Chunks:
    """The body as it arrives. A class, so that one that is never read to its end leaves no generator behind."""

    __slots__ = ("_first", "_response")

    def __init__(self, first: bytes, response: StreamedResponse) -> None:
        self._first = first
        self._response = response

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            chunk = await self._response.read()
        except ResponseTimeoutError as error:
            raise StreamBrokenError("the engine stopped sending, or took too long in all") from error
        except TransportError as error:
            raise StreamBrokenError(f"the engine broke off: {error}") from error
        if not chunk:
            raise StopAsyncIteration
        return chunk


class _ErrorFields(msgspec.Struct, frozen=True):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    origin: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorFields


async def _error_object(head: ResponseHead, body: bytes, response: StreamedResponse) -> ApiError | None:
    try:
        while len(body) <= _ERROR_BODY_BYTES and (chunk := await response.read()):
            body += chunk
        fields = msgspec.json.decode(body, type=_ErrorBody).error
    except (TransportError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # not an error object; the status alone says enough
    headers = _end_to_end_headers(head.headers)
    return ApiError(
        head.status,
        fields.message,
        type=fields.type or "server_error",
        code=None if fields.code is None else str(fields.code),
        param=fields.param,
        headers={name: headers[name] for name in _ERROR_HEADERS if name in headers},
        origin=fields.origin,
    )


def _header(head: ResponseHead, name: bytes) -> str:
    return next((value.decode("latin-1") for one, value in head.headers if one == name), "")


def attempt_failure(error: TransportError) -> AttemptFailure:
    """The kind of failure behind anything that goes wrong before the first byte."""
    if isinstance(error, ConnectTimeoutError):
        return AttemptFailure.CONNECT_TIMEOUT
    if isinstance(error, ConnectError):
        return AttemptFailure.CONNECT
    if isinstance(error, ResponseTimeoutError):
        return AttemptFailure.FIRST_TOKEN_TIMEOUT
    return AttemptFailure.CLOSED_EARLY


def _header_lines(headers: Mapping[str, str]) -> str:
    """The lines of a head. Raises: ValueError: a header holds what could end it early."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    for line in lines:
        if not line.isprintable() or not line.isascii():
            name = line.partition(":")[0]
            raise ValueError(f"the header {name!r} holds characters that no header may have")
    return "\r\n".join([*lines, ""])


@lru_cache(maxsize=1024)
def _name(raw_name: bytes) -> str:
    return raw_name.decode("latin-1")


def _end_to_end_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        name = _name(raw_name)
        value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if (connection := headers.get("connection")) is not None:
        for token in connection.lower().split(","):
            headers.pop(token.strip(), None)
    for name in HOP_BY_HOP & headers.keys():
        del headers[name]
    return headers
