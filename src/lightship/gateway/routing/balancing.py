"""The layer that gives a call to a replica, and counts it there until it is over."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

from lightship.gateway.config import ReplicaConfig
from lightship.gateway.headers import trusted_reply_headers
from lightship.gateway.request_body import with_model
from lightship.gateway.routing.breaker import Verdict
from lightship.gateway.routing.failures import verdict_of_answer, verdict_of_failure
from lightship.gateway.routing.pool import Placement, ReplicaPool
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply


class BalancedEngine:
    """The replicas of a pool as one engine: the call's rung decides among whom, `pick_replica` who."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool

    def open(self, call: EngineCall) -> ReplicaAttempt:
        """See `Engine`.

        Raises: AttemptError: NO_REPLICA when none is left to try, or what the replica's engine raised.
        """
        return ReplicaAttempt(self._pool, call)


class ReplicaAttempt:
    """One attempt at one replica: the one context that owns what is counted in flight, on every path out of it.

    It may be entered in one task and left in another.
    """

    __slots__ = ("_call", "_inner", "_placement", "_pool", "_status")

    def __init__(self, pool: ReplicaPool, call: EngineCall) -> None:
        self._pool = pool
        self._call = call
        self._inner: AbstractAsyncContextManager[EngineReply]
        self._placement: Placement | None = None
        self._status = 0

    @property
    def replica(self) -> str:
        """The name of the replica; "" until one is chosen, which is the first thing that happens."""
        return "" if self._placement is None else self._placement.replica.config.name

    async def __aenter__(self) -> EngineReply:
        placement = self._placement = self._pool.place(self._call)
        replica, verdict = placement.replica, Verdict.NEITHER
        config = replica.config
        reply: EngineReply | None = None
        try:
            self._inner = replica.engine.open(_addressed(self._call, config))
            reply = await self._first_byte(placement)
        except AttemptError as error:
            verdict = verdict_of_failure(error)
            error.replica = config.name
            self._pool.note_failed_attempt(placement, error)
            raise
        finally:
            if reply is None:
                self._pool.end(placement, verdict)
        self._status = reply.status
        self._pool.note_first_byte(placement, reply)
        reply.headers = trusted_reply_headers(reply.headers, variant_digest=config.variant_digest)
        reply.replica, reply.rung = config.name, config.rung
        return reply

    async def _first_byte(self, placement: Placement) -> EngineReply:
        """The reply, unless the pool gives up waiting for it.

        Raises: AttemptError: it did.
        """
        wait = placement.wait = asyncio.timeout(None)
        try:
            async with wait:
                return await self._inner.__aenter__()
        except TimeoutError as error:
            if not wait.expired():
                raise
            name = placement.replica.config.name
            message = f"{name}: it did not answer its probes any more"
            raise AttemptError(AttemptFailure.FIRST_TOKEN_TIMEOUT, message, replica=name) from error
        finally:
            placement.wait = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        placement = self._placement
        assert placement is not None
        verdict = verdict_of_answer(self._status) if error is None else verdict_of_failure(error)
        try:
            return await self._inner.__aexit__(kind, error, trace)
        finally:
            self._pool.end(placement, verdict)


def _addressed(call: EngineCall, replica: ReplicaConfig) -> EngineCall:
    """The call as the replica wants it: with its own name for the model."""
    if call.model == replica.model_name:
        return call
    return replace(call, model=replica.model_name, body=with_model(call.body, replica.model_name))
