"""The layer that gives a call to a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from lightship.gateway.headers import trusted_reply_headers
from lightship.gateway.replicas import Replica, ReplicaPool
from lightship.gateway.request_body import with_model
from lightship.gateway.routing import pick_replica
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply

_CONNECT_FAILURES = frozenset({AttemptFailure.CONNECT, AttemptFailure.CONNECT_TIMEOUT})


class BalancedEngine:
    """The replicas of a pool as one engine: the call's rung decides among whom, `pick_replica` who."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """See `Engine`.

        Raises: AttemptError: NO_REPLICA when none is left to try, or what the replica's engine raised.
        """
        choice = pick_replica(self._pool.states, rung=call.rung, excluded=call.excluded)
        if choice.replica is None:
            raise AttemptError(AttemptFailure.NO_REPLICA, f"no replica for rung {call.rung}: {choice.reason}")
        replica = self._pool[choice.replica.name]
        with self._pool.attempt(replica):
            try:
                async with replica.engine.open(_addressed(call, replica)) as reply:
                    self._pool.note_connected(replica)
                    headers = trusted_reply_headers(dict(reply.headers), variant_digest=replica.config.variant_digest)
                    yield replace(reply, headers=headers, replica=replica.config.name)
            except AttemptError as error:
                if error.failure in _CONNECT_FAILURES:
                    self._pool.note_failed_connect(replica)
                else:
                    self._pool.note_connected(replica)
                raise


def _addressed(call: EngineCall, replica: Replica) -> EngineCall:
    """The call as the replica wants it: with its own name for the model."""
    if call.model == replica.config.model_name:
        return call
    return replace(call, model=replica.config.model_name, body=with_model(call.body, replica.config.model_name))
