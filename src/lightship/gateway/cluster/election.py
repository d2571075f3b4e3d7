"""One leader among several gateways.

A leader counts its time from the moment *before* it asked to renew, and stops `renew_deadline_s` after that by itself;
others wait the whole, longer `lease_duration_s` from the moment *after* they saw it renewed. So there are never two who
may decide, whatever is slow in between, as long as clocks run equally fast.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import NoReturn

from lightship.gateway.cluster.config import ClusterConfig
from lightship.gateway.cluster.lease import Move, Sighting, held, next_move, released, sighted
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import ConflictError, KubernetesError, NotFoundError
from lightship.kubernetes.resources import LEASES, JsonObject
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)

# Candidates try at different times, or they would meet in conflicts.
_JITTER = 0.2


class LeaderElection:
    """One candidate.

    Args:
        client: The way to the server.
        config: Name and durations of the Lease.
        identity: Of this candidate, unlike any other's.
        clock: Time.
        on_change: Called when this candidate begins or ends to lead.
        on_error: Called with each failed call, for counting.
        draw: Random numbers in [0, 1).

    Concurrency: one task (`run`); everything else only reads.
    """

    def __init__(
        self,
        client: KubernetesClient,
        config: ClusterConfig,
        *,
        namespace: str,
        identity: str,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[KubernetesError], None] = lambda _: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._config = config
        self._namespace = namespace
        self.identity = identity
        self._clock = clock
        self._on_change = on_change
        self._on_error = on_error
        self._draw = draw
        self._seen: Sighting | None = None
        self._leads_until_s = float("-inf")
        self._led = False
        self._failing_since_s: float | None = None
        self.error: KubernetesError | None = None

    @property
    def failing_for_s(self) -> float:
        """Seconds since the Lease could last be read or held; 0 while it can."""
        return 0.0 if self._failing_since_s is None else self._clock.monotonic_s() - self._failing_since_s

    @property
    def leads_for_s(self) -> float:
        """Seconds for which this candidate may go on deciding; 0 when it does not lead."""
        return max(0.0, self._leads_until_s - self._clock.monotonic_s())

    @property
    def is_leader(self) -> bool:
        """Whether this candidate may decide now."""
        return self.leads_for_s > 0

    @property
    def leader(self) -> str:
        """Who led when the Lease was last seen; "" where nobody did, or it was never seen."""
        return self._seen.holder if self._seen is not None else ""

    async def run(self) -> NoReturn:
        """Effects: leads as often as it can, until it is cancelled."""
        while True:
            try:
                await self._step()
                self.error = self._failing_since_s = None
            except KubernetesError as error:
                if self.error is None or type(self.error) is not type(error):
                    _log.warning("the Lease %s cannot be held or read: %s", self._config.lease_name, error)
                self.error = error
                if self._failing_since_s is None:
                    self._failing_since_s = self._clock.monotonic_s()
                self._on_error(error)
            self._note_change()
            period_s = self._config.retry_period_s
            await self._clock.sleep(period_s if self.is_leader else period_s * (1 + _JITTER * self._draw()))
            self._note_change()

    async def release(self) -> None:
        """Effects: another may lead at once. To be called when `run` has ended; a failure only costs time."""
        was_leading, self._leads_until_s = self.is_leader, float("-inf")
        self._note_change()
        if not was_leading or self._seen is None:
            return
        try:
            await self._write(released(self._seen.obj, unix_s=self._clock.unix_s()))
        except KubernetesError as error:
            _log.info("the Lease was not released, so the next leader comes when it ends: %s", error)

    async def _step(self) -> None:
        if not self.is_leader or self._seen is None:
            await self._look()
        try:
            await self._move()
        except ConflictError:
            # Somebody else wrote: whether that was a new leader or a mere label, until we have looked we do not lead.
            self._leads_until_s = float("-inf")
            await self._look()
            assert self._seen is not None
            if self._seen.holder == self.identity:
                await self._move()

    async def _look(self) -> None:
        config = self._config
        try:
            obj = await self._client.get(LEASES, config.lease_name, namespace=self._namespace)
        except NotFoundError:
            obj = await self._client.create(
                LEASES,
                {
                    "apiVersion": LEASES.api_version,
                    "kind": LEASES.kind,
                    "metadata": {"name": config.lease_name},
                    "spec": {"leaseDurationSeconds": int(config.lease_duration_s)},
                },
                namespace=self._namespace,
            )
        self._seen = sighted(self._seen, obj, now_s=self._clock.monotonic_s())

    async def _move(self) -> None:
        assert self._seen is not None
        started_s = self._clock.monotonic_s()
        move = next_move(self._seen, identity=self.identity, now_s=started_s)
        if move is Move.WAIT:
            self._leads_until_s = float("-inf")
            return
        wanted = held(
            self._seen,
            identity=self.identity,
            duration_s=self._config.lease_duration_s,
            unix_s=self._clock.unix_s(),
            move=move,
        )
        obj = await self._write(wanted)
        self._seen = sighted(self._seen, obj, now_s=self._clock.monotonic_s())
        self._leads_until_s = started_s + self._config.renew_deadline_s

    async def _write(self, obj: JsonObject) -> JsonObject:
        # An answer that comes after the deadline is of no use.
        limit_s = min(self._config.request_limit_s, self._config.renew_deadline_s)
        return await self._client.replace(
            LEASES, self._config.lease_name, obj, namespace=self._namespace, limit_s=limit_s
        )

    def _note_change(self) -> None:
        leads = self.is_leader
        if leads is not self._led:
            self._led = leads
            _log.info("this gateway (%s) %s", self.identity, "leads" if leads else "does not lead any more")
            self._on_change()
