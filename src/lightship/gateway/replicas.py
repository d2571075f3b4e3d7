"""The replicas of a gateway: what is in flight at each, and which are ready.

    not ready --probe says ready--> ready --probe says not ready, or nobody listens--> not ready
                                    ready --several probes without an answer---------> not ready
                                    ready --several attempts in a row cannot connect-> not ready

A replica that has no readiness endpoint counts as ready (see `RemoteEngine.probe_ready`). A busy one that answers a
probe late stays ready for a while: taking it out would only press the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from lightship.engines.remote import ProbeResult
from lightship.gateway.config import ReplicaConfig
from lightship.gateway.routing import ReplicaState
from lightship.ports.clock import Clock
from lightship.ports.engine import Engine

PROBES_WITHOUT_ANSWER = 3
FAILED_CONNECTS = 2
PROBE_TIMEOUT_S = 2.0


class ProbedEngine(Engine, Protocol):
    """An engine that can be asked whether it wants requests."""

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """What a readiness probe found; never raises."""
        ...


@dataclass(frozen=True)
class Health:
    """What is known of a replica's readiness."""

    is_ready: bool = False
    num_unanswered: int = 0
    num_failed_connects: int = 0


def health_after_probe(health: Health, result: ProbeResult) -> Health:
    """The next state after a probe."""
    if result is ProbeResult.READY:
        return Health(is_ready=True)
    if result is ProbeResult.TIMED_OUT:
        num_unanswered = health.num_unanswered + 1
        is_ready = health.is_ready and num_unanswered < PROBES_WITHOUT_ANSWER
        return replace(health, is_ready=is_ready, num_unanswered=num_unanswered)
    return Health(is_ready=False)


def health_after_failed_connect(health: Health) -> Health:
    """The next state after an attempt that could not connect."""
    num_failed = health.num_failed_connects + 1
    return replace(health, is_ready=health.is_ready and num_failed < FAILED_CONNECTS, num_failed_connects=num_failed)


class Replica:
    """One replica: what it is, the engine that reaches it, and what the pool knows of it."""

    def __init__(self, config: ReplicaConfig, engine: ProbedEngine) -> None:
        self.config = config
        self.engine = engine
        self.state = ReplicaState(config.name, config.rung)
        self.health = Health()


class ReplicaPool:
    """Owns every replica's state; nobody else changes it.

    Concurrency: one event loop.
    """

    def __init__(self, replicas: Iterable[Replica], *, clock: Clock, interval_s: float) -> None:
        self._replicas = {replica.config.name: replica for replica in replicas}
        self._clock = clock
        self._interval_s = interval_s
        self._num_starts = 0
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.states = [replica.state for replica in self._replicas.values()]

    def __getitem__(self, name: str) -> Replica:
        return self._replicas[name]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def has_ready(self, rung: int) -> bool:
        """Whether a replica of the rung is ready."""
        return any(state.is_ready and state.rung == rung for state in self.states)

    @contextmanager
    def attempt(self, replica: Replica) -> Iterator[None]:
        """Counts one attempt at the replica while the block runs, on every path out of it."""
        state = replica.state
        self._num_starts += 1
        state.last_start = self._num_starts
        state.num_in_flight += 1
        try:
            yield
        finally:
            state.num_in_flight -= 1

    def note_connected(self, replica: Replica) -> None:
        """An attempt reached the replica: failed connects no longer count as in a row."""
        if replica.health.num_failed_connects:
            self._set_health(replica, replace(replica.health, num_failed_connects=0))

    def note_failed_connect(self, replica: Replica) -> None:
        """An attempt could not reach the replica."""
        self._set_health(replica, health_after_failed_connect(replica.health))

    async def apply(self, replicas: Iterable[Replica], *, interval_s: float) -> None:
        """Effects: from now on these are the replicas.

        One that is configured as before keeps all that is known of it, and gets the new engine. New ones are probed
        before the change, which is one step. Requests under way end where they began.
        """
        kept: dict[str, Replica] = {}
        fresh: list[Replica] = []
        for replica in replicas:
            known = self._replicas.get(replica.config.name)
            if known is not None and known.config == replica.config:
                kept[known.config.name] = known
                known.engine = replica.engine
            else:
                kept[replica.config.name] = replica
                fresh.append(replica)
        async with asyncio.TaskGroup() as group:
            for replica in fresh:
                group.create_task(self._probe(replica))
        self._interval_s = interval_s
        self._replicas = kept
        self.states = [replica.state for replica in kept.values()]
        self._watch_all()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Probes every replica once before the block runs, then in the background until it ends."""
        await self.probe_all()
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._watch_all()
            try:
                yield
            finally:
                self._group = None
                for watcher in self._watchers.values():
                    watcher.cancel()
                self._watchers.clear()

    def _watch_all(self) -> None:
        """Effects: one watcher per replica there is, and none for those that are gone."""
        if self._group is None:
            return
        for name in [name for name in self._watchers if name not in self._replicas]:
            self._watchers.pop(name).cancel()
        for name in self._replicas:
            if name not in self._watchers:
                self._watchers[name] = self._group.create_task(self._watch(name))

    async def probe_all(self) -> None:
        """Effects: brings the readiness of every replica up to date."""
        async with asyncio.TaskGroup() as group:
            for replica in self:
                group.create_task(self._probe(replica))

    async def _watch(self, name: str) -> None:
        while True:
            await self._clock.sleep(self._interval_s)
            await self._probe(self._replicas[name])

    async def _probe(self, replica: Replica) -> None:
        result = await replica.engine.probe_ready(timeout_s=PROBE_TIMEOUT_S)
        self._set_health(replica, health_after_probe(replica.health, result))

    def _set_health(self, replica: Replica, health: Health) -> None:
        replica.health = health
        replica.state.is_ready = health.is_ready
