"""A streaming load client for OpenAI-compatible `/v1/completions` endpoints.

It times events where they arrive and takes token counts from the server's usage chunk, never by guessing from text.
Not a general API client: one kind of request, no retries, because a retried request hides the failure it measures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.performance.records import ErrorKind, RequestRecord
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts
from lightship.wire.sse import SseDecoder

# Bytes of an error body that are kept for the message.
_MAX_DETAIL_BYTES = 400


class EndpointError(Exception):
    """A transport failure, already named."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class OpenedStream:
    """A response whose headers are there; `chunks` yields the body as it arrives."""

    status: int
    chunks: AsyncIterator[bytes]


class CompletionEndpoint(Protocol):
    """Where completion requests go: HTTP in use, memory in tests."""

    def open(self, body: bytes) -> AbstractAsyncContextManager[OpenedStream]:
        """Sends one request body.

        Raises: EndpointError: on entering or while the body is read.
        """
        ...


class HttpCompletions:
    """`POST {base_url}/v1/completions` over one connection pool without a connection limit.

    aiohttp's default of 100 connections would silently turn a load of 200 into a queue inside the client.
    """

    def __init__(self, base_url: str, *, connect_timeout_s: float = 5.0, headers: dict[str, str] | None = None) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._url = f"{self.base_url}/v1/completions"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._headers = {**(headers or {}), "content-type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=self._timeout, headers=self._headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def open(self, body: bytes) -> AsyncIterator[OpenedStream]:
        """See `CompletionEndpoint`."""
        assert self._session is not None, "used outside its context"
        try:
            async with self._session.post(self._url, data=body) as response:
                yield OpenedStream(response.status, response.content.iter_any())
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            kind = ErrorKind.CONNECT if isinstance(error, aiohttp.ClientConnectorError) else ErrorKind.TRUNCATED
            raise EndpointError(kind, f"{self._url}: {error}") from error
        except aiohttp.ClientError as error:
            raise EndpointError(ErrorKind.CONNECT, f"{self._url}: {error}") from error


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _CachedTokens | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_EVENT_DECODER = msgspec.json.Decoder(_Event)


@dataclass
class _Reading:
    """What has been read of one answer so far."""

    token_times_s: list[float] = field(default_factory=list)
    usage: _Usage | None = None
    is_done: bool = False

    def take(self, payload: bytes, now_s: float) -> None:
        """Adds one event.

        Raises: EndpointError: it is not an event of a completion.
        """
        if payload == b"[DONE]":
            self.is_done = True
            return
        try:
            event = _EVENT_DECODER.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EndpointError(ErrorKind.MALFORMED, f"not a completion event: {payload[:80]!r} ({error})") from error
        if event.error is not None:
            raise EndpointError(ErrorKind.ERROR_EVENT, _shortened(msgspec.json.encode(event.error)))
        self.usage = event.usage or self.usage
        # A last event with a finish reason and no text carries no token; a token may well have no text of its own.
        if any(choice.text or choice.finish_reason is None or not self.token_times_s for choice in event.choices):
            self.token_times_s.append(now_s)

    def verify(self, decoder: SseDecoder) -> None:
        """Raises: EndpointError: the stream has ended and the answer is not complete and countable."""
        if not self.is_done or decoder.has_partial_event:
            raise EndpointError(ErrorKind.TRUNCATED, "the stream ended without [DONE]")
        if self.usage is None:
            raise EndpointError(ErrorKind.NO_USAGE, "no usage chunk although stream_options.include_usage was set")
        if not self.token_times_s or self.usage.completion_tokens < 1:
            raise EndpointError(ErrorKind.NO_TOKENS, "the answer has no output tokens")


async def _beginning(chunks: AsyncIterator[bytes]) -> str:
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) >= _MAX_DETAIL_BYTES:
            break
    return _shortened(body)


def _shortened(body: bytes) -> str:
    return body[:_MAX_DETAIL_BYTES].decode("utf-8", "replace")


@dataclass(frozen=True)
class EndpointTraits:
    """What a trial request showed. `has_fixed_length`: `ignore_eos` is honoured, so each answer has all its tokens."""

    has_fixed_length: bool
    chars_per_token: float


class LoadClient:
    """Sends completion requests and records what it sees; it never raises for what a server does.

    Args:
        limits: `connect_s` belongs to the endpoint; the others are enforced here.
        has_fixed_length: Whether to ask for `ignore_eos`; `probe_endpoint` finds out.
    """

    def __init__(
        self, endpoint: CompletionEndpoint, model: str, *, clock: Clock, limits: HopTimeouts, has_fixed_length: bool
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._clock = clock
        self._limits = limits
        self._has_fixed_length = has_fixed_length

    async def complete(
        self, prompt: str, *, max_tokens: int, scheduled_s: float | None = None, cut_off_s: float | None = None
    ) -> RequestRecord:
        """The record of one request.

        Args:
            prompt: Text to continue.
            max_tokens: Output tokens to ask for.
            scheduled_s: When it should have been sent; None where there is no schedule.
            cut_off_s: Clock time at which the run ends and with it this request.
        """
        body = msgspec.json.encode(self._body(prompt, max_tokens))
        reading = _Reading()
        sent_s = self._clock.monotonic_s()
        error: ErrorKind | None = None
        detail = ""
        try:
            await self._read(body, reading, None if cut_off_s is None else max(0.0, cut_off_s - sent_s))
        except EndpointError as failure:
            error, detail = failure.kind, failure.detail
        usage = reading.usage or _Usage(0, 0)
        cached = usage.prompt_tokens_details
        return RequestRecord(
            scheduled_s=sent_s if scheduled_s is None else scheduled_s,
            sent_s=sent_s,
            token_times_s=tuple(reading.token_times_s),
            ended_s=self._clock.monotonic_s(),
            num_prompt_tokens=usage.prompt_tokens,
            num_output_tokens=usage.completion_tokens,
            num_cached_tokens=(cached.cached_tokens or 0) if cached else 0,
            error=error,
            error_detail=detail,
        )

    def _body(self, prompt: str, max_tokens: int) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return {**body, "ignore_eos": True} if self._has_fixed_length else body

    async def _read(self, body: bytes, reading: _Reading, cut_off_after_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = [began + self._limits.total_s]
        if cut_off_after_s is not None:
            ends.append(began + cut_off_after_s)
        decoder = SseDecoder()
        deadline = asyncio.timeout_at(min(*ends, began + self._limits.first_token_s))
        try:
            async with deadline, self._endpoint.open(body) as stream:
                if stream.status != 200:
                    raise EndpointError(ErrorKind.STATUS, f"HTTP {stream.status}: {await _beginning(stream.chunks)}")
                async for chunk in stream.chunks:
                    now_s = self._clock.monotonic_s()
                    for payload in decoder.feed(chunk):
                        reading.take(payload, now_s)
                    deadline.reschedule(min(*ends, loop.time() + self._limits.next_token_s))
        except TimeoutError as error:
            is_cut_off = cut_off_after_s is not None and deadline.when() == ends[-1]
            kind = ErrorKind.CUT_OFF if is_cut_off else ErrorKind.TIMEOUT
            raise EndpointError(kind, "the run ended" if is_cut_off else "no output within the time limit") from error
        except ValueError as error:  # an event over the decoder's bound
            raise EndpointError(ErrorKind.MALFORMED, str(error)) from error
        reading.verify(decoder)


async def probe_endpoint(
    endpoint: CompletionEndpoint, model: str, *, prompt: str, clock: Clock, limits: HopTimeouts
) -> EndpointTraits:
    """What the endpoint can do, found with one or two short requests.

    Raises: MeasurementError: no countable answer came.
    """
    for has_fixed_length in (True, False):
        client = LoadClient(endpoint, model, clock=clock, limits=limits, has_fixed_length=has_fixed_length)
        record = await client.complete(prompt, max_tokens=2)
        if record.error is None:
            return EndpointTraits(has_fixed_length, len(prompt) / max(1, record.num_prompt_tokens))
        if record.error is not ErrorKind.STATUS or "ignore_eos" not in record.error_detail:
            break
    raise MeasurementError(
        f"a trial request failed ({record.error}): {record.error_detail}",
        where=f"model {model}",
        hint="Check that the worker is ready and serves /v1/completions with streaming and usage.",
    )
