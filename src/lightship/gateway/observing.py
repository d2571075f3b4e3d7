"""The layer that counts attempts and measures how long each replica took to its first byte."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from lightship.gateway.telemetry import AttemptResult, GatewayTelemetry
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, AttemptFailure, Engine, EngineCall, EngineReply


class ObservedEngine:
    """Another engine, each call of which is counted once, however it ends."""

    def __init__(self, inner: Engine, *, telemetry: GatewayTelemetry, clock: Clock) -> None:
        self._inner = inner
        self._telemetry = telemetry
        self._clock = clock

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """See `Engine`. The reply's `upstream_s` is filled in."""
        started_s = self._clock.monotonic_s()
        result: AttemptResult | AttemptFailure = AttemptResult.BROKEN
        replica = ""
        try:
            async with self._inner.open(call) as reply:
                replica = reply.replica
                yield replace(reply, upstream_s=self._clock.monotonic_s() - started_s)
            result = AttemptResult.COMPLETE
        except AttemptError as error:
            result, replica = error.failure, error.replica
            raise
        except CancelledError:
            result = AttemptResult.CANCELLED
            raise
        finally:
            self._telemetry.record_attempt(replica=replica, result=result)
