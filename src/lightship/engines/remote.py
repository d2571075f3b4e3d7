"""The engine behind one OpenAI-compatible base URL: the HTTP leaf every gateway request ends in.

Bytes go through as they are: nothing is decompressed, parsed or re-framed. Why aiohttp: the fastest maintained client
for asyncio with per-connection control, which cancelling an upstream at once needs.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus

import aiohttp
import msgspec
from yarl import URL

from lightship.ports.engine import (
    AttemptError,
    AttemptFailure,
    EngineCall,
    EngineReply,
    HopTimeouts,
    StreamBrokenError,
)
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
# Seconds. Below the 5 s after which common servers close an idle connection, so that a request never meets the close.
_IDLE_CONNECTION_S = 4.0
# aiohttp wants larger bodies as files, to send them in pieces.
_WHOLE_BODY_BYTES = 2**20
# An error object is a few hundred bytes; what is longer is not one.
_ERROR_BODY_BYTES = 64 * 2**10
_ERROR_HEADERS = ("retry-after", "retry-after-ms", "x-reject-reason", "x-should-retry")


class ProbeResult(StrEnum):
    """What a readiness probe found."""

    READY = "ready"
    NOT_READY = "not_ready"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"


def upstream_session() -> aiohttp.ClientSession:
    """A session for any number of `RemoteEngine`s: connections are reused, never limited here, and keep no state.

    Not limited, because a request that waits in a client's pool is invisible; what limits requests is above.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent",),
    )


def root_url(base_url: str) -> str:
    """The base URL without a trailing slash and without the `/v1` every path here begins with."""
    return base_url.rstrip("/").removesuffix("/v1")


class RemoteEngine:
    """One OpenAI-compatible endpoint as an `Engine`.

    A whole (not streamed) answer has its first byte only when it is complete, so `total_s` bounds that wait, and
    `first_token_s` bounds it for streams.

    Args:
        name: The replica's name, for replies and errors.
        base_url: Scheme, host, port and path, with or without `/v1`.
        session: Open session, see `upstream_session`; the caller closes it.
        timeouts: Limits of this hop.

    Concurrency: safe for any number of calls at a time from one event loop.
    """

    def __init__(self, *, name: str, base_url: str, session: aiohttp.ClientSession, timeouts: HopTimeouts) -> None:
        self.name = name
        self._root = root_url(base_url)
        self._session = session
        self._timeouts = timeouts
        self._connect_timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s)
        self._urls: dict[str, URL] = {}

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """See `Engine`. Leaving the context before the end of the body closes the connection: the replica stops."""
        deadline_s = asyncio.get_running_loop().time() + self._timeouts.total_s
        response, first_chunk = await self._first_byte(call)
        try:
            yield EngineReply(
                status=response.status,
                headers=_end_to_end_headers(response.raw_headers),
                chunks=_Chunks(first_chunk, response, timeouts=self._timeouts, deadline_s=deadline_s),
                replica=self.name,
            )
        finally:
            response.close()  # after the end of the body this keeps the connection for the next call

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """Whether the endpoint wants requests. One that has no `/health/ready` does: most engines have none."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(URL(self._root + "/health/ready"), allow_redirects=False) as response,
            ):
                is_ready = response.status < HTTPStatus.INTERNAL_SERVER_ERROR or response.status == 501
                return ProbeResult.READY if is_ready else ProbeResult.NOT_READY
        except TimeoutError:
            return ProbeResult.TIMED_OUT
        except (aiohttp.ClientError, OSError):
            return ProbeResult.UNREACHABLE

    async def _first_byte(self, call: EngineCall) -> tuple[aiohttp.ClientResponse, bytes]:
        limit_s = self._timeouts.first_token_s if call.is_streaming else self._timeouts.total_s
        try:
            async with asyncio.timeout(limit_s):
                response = await self._send(call)
                try:
                    return response, await self._committed_chunk(response)
                except BaseException:  # cancellation too: the connection must not outlive the attempt
                    response.close()
                    raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = attempt_failure(error)
            raise AttemptError(failure, f"{self._root}: {_said(error)}", replica=self.name) from error

    async def _send(self, call: EngineCall) -> aiohttp.ClientResponse:
        url = self._urls.get(call.path)
        if url is None:
            url = self._urls[call.path] = URL(self._root + call.path)
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",  # the gateway may have to add an event to a stream
            "x-request-id": call.request_id,
            **call.headers,
        }
        body = call.body if len(call.body) <= _WHOLE_BODY_BYTES else io.BytesIO(call.body)
        return await self._session.request(
            "POST", url, data=body, headers=headers, timeout=self._connect_timeout, allow_redirects=False
        )

    async def _committed_chunk(self, response: aiohttp.ClientResponse) -> bytes:
        """The first bytes of an answer, which are empty only where the status says everything."""
        status = response.status
        if status in RETRYABLE_STATUSES or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise AttemptError(
                AttemptFailure.BAD_STATUS,
                f"{self._root} answered {status}",
                replica=self.name,
                status=status,
                api_error=await _error_object(response),
            )
        chunk = await response.content.readany()
        if not chunk and status < HTTPStatus.MULTIPLE_CHOICES:
            message = f"{self._root} answered {status} without a body"
            raise AttemptError(AttemptFailure.CLOSED_EARLY, message, replica=self.name, status=status)
        return chunk


class _Chunks:
    """The body as it arrives. A class, so that one that is never read to its end leaves no generator behind."""

    __slots__ = ("_content", "_deadline_s", "_first", "_loop", "_next_token_s")

    def __init__(
        self, first: bytes, response: aiohttp.ClientResponse, *, timeouts: HopTimeouts, deadline_s: float
    ) -> None:
        self._first = first
        self._content = response.content
        self._next_token_s = timeouts.next_token_s
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            chunk = await self._next()
        except TimeoutError as error:
            raise StreamBrokenError("the engine stopped sending, or took too long in all") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StreamBrokenError(f"the engine broke off: {_said(error)}") from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes:
        now_s = self._loop.time()
        if now_s >= self._deadline_s:
            raise TimeoutError
        chunk = self._content.read_nowait()
        if chunk or self._content.at_eof():
            return chunk
        async with asyncio.timeout_at(min(now_s + self._next_token_s, self._deadline_s)):
            return await self._content.readany()


class _ErrorFields(msgspec.Struct, frozen=True):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    origin: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorFields


async def _error_object(response: aiohttp.ClientResponse) -> ApiError | None:
    body = b""
    try:
        while len(body) <= _ERROR_BODY_BYTES and (chunk := await response.content.readany()):
            body += chunk
        fields = msgspec.json.decode(body, type=_ErrorBody).error
    except (aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # not an error object; the status alone says enough
    headers = _end_to_end_headers(response.raw_headers)
    return ApiError(
        response.status,
        fields.message,
        type=fields.type or "server_error",
        code=None if fields.code is None else str(fields.code),
        param=fields.param,
        headers={name: headers[name] for name in _ERROR_HEADERS if name in headers},
        origin=fields.origin,
    )


def attempt_failure(error: aiohttp.ClientError | TimeoutError | OSError) -> AttemptFailure:
    """The kind of failure behind any exception the client library raises before the first byte."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return AttemptFailure.CONNECT_TIMEOUT
    if isinstance(error, aiohttp.ClientConnectorError):
        return AttemptFailure.CONNECT
    if isinstance(error, TimeoutError):
        return AttemptFailure.FIRST_TOKEN_TIMEOUT
    return AttemptFailure.CLOSED_EARLY


def _end_to_end_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    listed = headers.get("connection", "").lower().split(",")
    for name in [*HOP_BY_HOP, *(token.strip() for token in listed)]:
        headers.pop(name, None)
    return headers


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
