"""The layer that counts attempts and measures how long each replica took to its first byte."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from lightship.gateway.telemetry import AttemptResult, GatewayTelemetry
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, Engine, EngineCall, EngineReply


class ObservedEngine:
    """Another engine, each call of which is counted once, however it ends. The reply's `upstream_s` is filled in."""

    def __init__(self, inner: Engine, *, telemetry: GatewayTelemetry, clock: Clock) -> None:
        self._inner = inner
        self._telemetry = telemetry
        self._clock = clock

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`."""
        return _Observed(self._inner.open(call), self._telemetry, self._clock)


class _Observed:
    __slots__ = ("_clock", "_inner", "_replica", "_telemetry")

    def __init__(
        self, inner: AbstractAsyncContextManager[EngineReply], telemetry: GatewayTelemetry, clock: Clock
    ) -> None:
        self._inner = inner
        self._telemetry = telemetry
        self._clock = clock
        self._replica = ""

    async def __aenter__(self) -> EngineReply:
        started_s = self._clock.monotonic_s()
        try:
            reply = await self._inner.__aenter__()
        except BaseException as error:
            self._record(error)
            raise
        self._replica = reply.replica
        reply.upstream_s = self._clock.monotonic_s() - started_s
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        failed: BaseException | None = error
        try:
            return await self._inner.__aexit__(kind, error, trace)
        except BaseException as new_error:
            failed = new_error
            raise
        finally:
            self._record(failed)

    def _record(self, error: BaseException | None) -> None:
        if isinstance(error, AttemptError):
            self._telemetry.record_attempt(replica=error.replica, result=error.failure)
            return
        result = AttemptResult.COMPLETE if error is None else AttemptResult.BROKEN
        if isinstance(error, CancelledError):
            result = AttemptResult.CANCELLED
        self._telemetry.record_attempt(replica=self._replica, result=result)
