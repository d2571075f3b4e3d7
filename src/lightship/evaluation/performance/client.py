"""A streaming load client for OpenAI-compatible `/v1/completions` endpoints.

It times events where they arrive and takes token counts from the server's usage chunk, never by guessing from text.
Not a general API client: one kind of request, no retries, because a retried request hides the failure it measures.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.performance.answers import AnswerReading, EndpointError, Usage
from lightship.evaluation.performance.connections import CompletionEndpoint, HttpCompletions
from lightship.evaluation.performance.records import ErrorKind, RequestRecord
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts

__all__ = ["CompletionEndpoint", "EndpointError", "EndpointTraits", "HttpCompletions", "LoadClient", "probe_endpoint"]


@dataclass(frozen=True)
class EndpointTraits:
    """What a trial request showed. `has_fixed_length`: `ignore_eos` is honoured, so each answer has all its tokens."""

    has_fixed_length: bool
    chars_per_token: float


class _TimeLimit:
    """The time limits of one request on a single timer, which moves on only when it fires.

    A timer moved at every event would cost more than reading the event.
    """

    def __init__(self, reading: AnswerReading, limits: HopTimeouts, *, end_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = reading
        self._limits = limits
        self._end_s = end_s
        self._began_s = self._loop.time()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def deadline_s(self) -> float:
        """When to give up, on the loop's clock, by what has come so far."""
        arrived_s = self._reading.last_arrival_s
        if arrived_s is None:
            return min(self._end_s, self._began_s + self._limits.first_token_s)
        return min(self._end_s, arrived_s + self._limits.next_token_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._timer = self._loop.call_at(self.deadline_s, self._check)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _check(self) -> None:
        deadline_s = self.deadline_s
        if deadline_s <= self._loop.time():
            self._timeout.reschedule(deadline_s)
        else:
            self._timer = self._loop.call_at(deadline_s, self._check)


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
        reading = AnswerReading(self._clock.monotonic_s, asyncio.get_running_loop().time)
        sent_s = self._clock.monotonic_s()
        error: ErrorKind | None = None
        detail = ""
        try:
            await self._read(body, reading, None if cut_off_s is None else max(0.0, cut_off_s - sent_s))
        except EndpointError as failure:
            error, detail = failure.kind, failure.detail
        usage = reading.usage or Usage(0, 0)
        return RequestRecord(
            scheduled_s=sent_s if scheduled_s is None else scheduled_s,
            sent_s=sent_s,
            token_times_s=tuple(reading.times_s),
            ended_s=self._clock.monotonic_s(),
            num_prompt_tokens=usage.prompt_tokens,
            num_output_tokens=usage.completion_tokens,
            num_cached_tokens=usage.num_cached_tokens,
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

    async def _read(self, body: bytes, reading: AnswerReading, cut_off_after_s: float | None) -> None:
        began_s = asyncio.get_running_loop().time()
        total_end_s = began_s + self._limits.total_s
        cut_off_s = None if cut_off_after_s is None else began_s + cut_off_after_s
        limit = _TimeLimit(
            reading, self._limits, end_s=total_end_s if cut_off_s is None else min(total_end_s, cut_off_s)
        )
        try:
            async with limit:
                await self._endpoint.exchange(body, reading)
        except TimeoutError as error:
            if limit.deadline_s == cut_off_s:
                raise EndpointError(ErrorKind.CUT_OFF, "the run ended") from error
            raise EndpointError(ErrorKind.TIMEOUT, "no output within the time limit") from error
        reading.finish()


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
