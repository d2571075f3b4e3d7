"""What goes on in the background of a pool: probes, engines' metrics, the judgement of outliers.

One task per replica, so that one that hangs delays nobody's probe. Nothing here touches what is counted in flight.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

from lightship.engines.remote import ProbeResult
from lightship.gateway.routing.config import RoutingConfig
from lightship.gateway.routing.engine_metrics import parse_engine_metrics
from lightship.gateway.routing.health import Health, health_after_probe
from lightship.gateway.routing.outliers import EjectionReason, choose_ejected
from lightship.gateway.routing.replica import Replica
from lightship.ports.clock import Clock

PROBE_TIMEOUT_S = 2.0
# An engine that has no metrics is asked again only now and then.
_PROBES_WITHOUT_METRICS = 60


class Watched(Protocol):
    """What the watch needs of a pool, which owns all state."""

    clock: Clock
    routing: RoutingConfig

    def __iter__(self) -> Iterator[Replica]:
        """The replicas there are."""
        ...

    def set_health(self, replica: Replica, health: Health, *, has_lost_cache: bool = False) -> None:
        """See `ReplicaPool`."""
        ...

    def eject(self, replica: Replica, reason: EjectionReason, *, now_s: float) -> None:
        """See `ReplicaPool`."""
        ...


class Watch:
    """The background tasks of one pool.

    Concurrency: one event loop; the tasks live in one group, from `running` to its end.
    """

    def __init__(self, pool: Watched, *, interval_s: float) -> None:
        self._pool = pool
        self._interval_s = interval_s
        self._group: asyncio.TaskGroup | None = None
        self._watchers: dict[Replica, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `ReplicaPool.watching`."""
        await self.probe(iter(self._pool))
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.follow(interval_s=self._interval_s)
            judging = group.create_task(self._judge_for_ever())
            try:
                yield
            finally:
                self._group = None
                for task in [judging, *self._watchers.values()]:
                    task.cancel()
                self._watchers.clear()

    async def probe(self, replicas: Iterable[Replica]) -> None:
        """Effects: brings the readiness of these replicas up to date."""
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                group.create_task(self._probe(replica))

    def follow(self, *, interval_s: float) -> None:
        """Effects: watches the replicas the pool has now, and no other."""
        self._interval_s = interval_s
        if self._group is None:
            return
        there = set(self._pool)
        for replica in [replica for replica in self._watchers if replica not in there]:
            self._watchers.pop(replica).cancel()
        for replica in there - self._watchers.keys():
            self._watchers[replica] = self._group.create_task(self._watch(replica))

    async def _watch(self, replica: Replica) -> None:
        num_to_skip = 0
        while True:
            await self._pool.clock.sleep(self._interval_s)
            await self._probe(replica)
            replica.ledger.refresh()
            if num_to_skip:
                num_to_skip -= 1
            elif not await self._read_metrics(replica) and not replica.view.has_ever_been_read:
                num_to_skip = _PROBES_WITHOUT_METRICS
            self._correct(replica)

    async def _probe(self, replica: Replica) -> None:
        result = await replica.engine.probe_ready(timeout_s=PROBE_TIMEOUT_S)
        health = health_after_probe(replica.health, result)
        self._pool.set_health(replica, health, has_lost_cache=result is ProbeResult.UNREACHABLE)

    async def _read_metrics(self, replica: Replica) -> bool:
        """Whether there was something to read. Effects: the replica's view is up to date."""
        if replica.metrics is None or not self._pool.routing.reads_engine_metrics or not replica.health.is_ready:
            return replica.metrics is not None
        exposition = await replica.metrics.read_metrics(timeout_s=PROBE_TIMEOUT_S)
        gauges = parse_engine_metrics(exposition) if exposition is not None else None
        if gauges is None:
            return False
        now_s = self._pool.clock.monotonic_s()
        replica.view.note(gauges, num_ours=replica.state.num_in_flight, now_s=now_s)
        return True

    def _correct(self, replica: Replica) -> None:
        routing = self._pool.routing
        replica.state.foreign_us = replica.view.foreign_us(
            now_s=self._pool.clock.monotonic_s(),
            max_age_s=routing.metrics_max_age_s,
            mean_us=replica.ledger.mean_us,
            full_us=int(routing.load_gate_s * 1e6),
        )

    async def _judge_for_ever(self) -> None:
        while True:
            await self._pool.clock.sleep(self._pool.routing.outliers.interval_s)
            self.judge()

    def judge(self) -> None:
        """Effects: takes out the replicas that did much worse than their peers since the last time."""
        config, now_s = self._pool.routing.outliers, self._pool.clock.monotonic_s()
        rungs: defaultdict[tuple[str, int], list[Replica]] = defaultdict(list)
        for replica in self._pool:
            rungs[replica.state.served_model, replica.state.rung].append(replica)
        for replicas in rungs.values():
            showings = {replica: replica.tally.take(min_timed=config.min_attempts) for replica in replicas}
            inside = [r for r in replicas if r.state.is_ready and r.state.blocked_until_s <= now_s]
            ejected = choose_ejected(
                {replica.config.name: showings[replica] for replica in inside},
                num_on_rung=len(replicas),
                num_out=len(replicas) - len(inside),
                config=config,
            )
            for replica in inside:
                if reason := ejected.get(replica.config.name):
                    self._pool.eject(replica, reason, now_s=now_s)
                elif showings[replica].num_attempts >= config.min_attempts:
                    replica.num_ejections_in_a_row = 0
