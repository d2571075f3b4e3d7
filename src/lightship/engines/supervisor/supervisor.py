"""Owns the replicas of one machine: decides how many run, starts, drains and replaces them, within a memory budget.

    load of the gateways --scale--> replicas per rung --make_room--> who is started, who makes room
    a replica ended by itself --> started again after a pause that doubles
    a memory limit passed     --> drained, and started again

All state belongs to the one loop in `running`; every replica that runs has a task of its own in its group.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from lightship.engines.supervisor.messages import Replicas, ReplicaStatus
from lightship.engines.supervisor.pool import PoolSpec, ReplicaPool
from lightship.engines.supervisor.replica import ManagedReplica, ReplicaSpec
from lightship.engines.supervisor.status import rung_status
from lightship.errors import EngineError
from lightship.ports.clock import Clock
from lightship.ports.replica_control import ReplicaPhase, RungLoad, RungStatus
from lightship.scaling.displacement import Resident, make_room
from lightship.scaling.lifecycle import RestartPolicy
from lightship.scaling.records import ScaleDecision
from lightship.units import format_bytes

_LOGGER = logging.getLogger(__name__)
# Seconds between two looks at everything where nothing happens.
_TICK_S = 0.5
# Seconds gateways have to say that they send nothing more to a replica before it is told to end.
_SEEN_TIMEOUT_S = 1.0
_KEPT_DECISIONS = 64
# Seconds between two looks at the memory of all replicas: each reads every process of the system.
_MEMORY_CHECK_S = 5.0


class Supervisor:
    """All replicas of this machine.

    Args:
        pools: What there is; a model has one for each of its rungs.
        clock: Time.
        memory_budget_bytes: Of all replicas together; None sets none.
        restart: Pauses after failures.
        num_gateways: Gateway processes that tell their load; with fewer nothing is decided but to wake.
        on_change: Called when a replica came into another phase.

    Concurrency: one event loop, while `running`.
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        *,
        clock: Clock,
        memory_budget_bytes: int | None = None,
        restart: RestartPolicy | None = None,
        num_gateways: int = 1,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._budget_bytes = memory_budget_bytes
        self._restart = restart or RestartPolicy()
        self._num_gateways = num_gateways
        self._on_change = on_change
        self._version = 0
        self._loads: dict[str, tuple[RungLoad, ...]] = {}
        self._seen: dict[str, int] = {}
        self._poked = asyncio.Event()
        self._moved = asyncio.Event()
        self._blocked: dict[str, str] = {}
        self._memory_checked_s = clock.monotonic_s()
        self._group: asyncio.TaskGroup | None = None
        self._is_stopping = False
        self._runs: dict[str, asyncio.Task[None]] = {}
        self.decisions: deque[tuple[tuple[str, int], ScaleDecision]] = deque(maxlen=_KEPT_DECISIONS)
        self.pools = {
            (pool.served_model, pool.rung): ReplicaPool(
                pool, [ManagedReplica(one, self._restart, clock, self._note_change) for one in pool.replicas]
            )
            for pool in pools
        }

    @property
    def replicas(self) -> Iterable[ManagedReplica]:
        """All of them."""
        return (one for pool in self.pools.values() for one in pool.replicas)

    def snapshot(self) -> Replicas:
        """How all of them stand."""
        return Replicas(self._version, tuple(self._status(one) for one in self.replicas))

    def rung_status(self, served_model: str, rung: int) -> RungStatus:
        """How one rung stands."""
        pool = self.pools.get((served_model, rung))
        return rung_status(self._status(one) for one in pool.replicas) if pool else rung_status(())

    def _status(self, one: ManagedReplica) -> ReplicaStatus:
        status = one.status()
        why = self._blocked.get(one.spec.name)
        return replace(status, detail=why) if why and status.phase is ReplicaPhase.SLEEPING else status

    def wake(self, served_model: str, rung: int) -> None:
        """A request wants this rung; one that is not known is none of ours."""
        pool = self.pools.get((served_model, rung))
        if pool is not None:
            pool.wake(self._clock.monotonic_s())
            self._poked.set()

    def note_loads(self, gateway: str, loads: Sequence[RungLoad]) -> None:
        """How the rungs stand in one gateway process."""
        self._loads[gateway] = tuple(loads)
        self._seen.setdefault(gateway, 0)
        self._poked.set()

    def note_seen(self, gateway: str, version: int) -> None:
        """A gateway process uses this version of `snapshot`."""
        self._seen[gateway] = max(version, self._seen.get(gateway, 0))
        self._moved.set()

    def forget(self, gateway: str) -> None:
        """A gateway process is gone; nobody waits for it."""
        self._loads.pop(gateway, None)
        self._seen.pop(gateway, None)
        self._moved.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the replicas as they should be until the block ends; then all are drained side by side."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            background = [group.create_task(self._tick()), group.create_task(self._decide_for_ever())]
            try:
                yield
            finally:
                for task in background:
                    task.cancel()
                self._is_stopping = True
                await self._stop_all()

    async def until_ready(self, served_model: str, rung: int) -> None:
        """Returns when a replica of the rung serves.

        Raises: EngineError: it failed more often than anyone should wait for.
        """
        pool = self.pools[served_model, rung]
        while not pool.num_ready:
            status = self.rung_status(served_model, rung)
            if status.phase is ReplicaPhase.FAILED:
                raise EngineError(
                    f"{served_model} cannot be served: {status.detail}",
                    where=str(pool.replicas[0].process.log_path) if pool.replicas[0].process else served_model,
                    hint="Its log has the reason.",
                )
            await self._next_move()

    async def until_serving(self) -> None:
        """Returns when each rung that never sleeps serves or has failed, and each such model has one that serves.

        Raises: EngineError: no rung of a model comes up.
        """
        always = [key for key, pool in self.pools.items() if pool.spec.policy.min_replicas]
        results = await asyncio.gather(*(self.until_ready(*key) for key in always), return_exceptions=True)
        for model in dict.fromkeys(model for model, _ in always):
            failures = [result for (name, _), result in zip(always, results, strict=True) if name == model]
            errors = [failure for failure in failures if failure is not None]
            if len(errors) == len(failures):
                raise errors[0]
            for error in errors:
                _LOGGER.error("%s: its ladder serves without that rung, which is tried again", error)

    async def roll(self, replacements: Mapping[str, ReplicaSpec] = {}) -> int:
        """Replaces every replica that serves by a new one, each only once its successor is ready; how many.

        Args:
            replacements: What replicas are from now on, by name; the others are started anew as they are.

        Raises: EngineError: a successor does not come up, or there is no memory for it beside the old one. What was
            replaced so far stays so, and everything else serves on.
        """
        num_rolled = 0
        for pool in self.pools.values():
            old = [one for one in pool.replicas if one.life.phase is ReplicaPhase.READY]
            for one in pool.replicas:
                if one not in old:
                    one.spec = replacements.get(one.spec.name, one.spec)
            pool.is_rolling = True
            try:
                for one in old:
                    await self._replace(pool, one)
                    one.spec = replacements.get(one.spec.name, one.spec)
                    num_rolled += 1
            finally:
                pool.is_rolling = False
        return num_rolled

    async def _replace(self, pool: ReplicaPool, old: ManagedReplica) -> None:
        new = next((one for one in pool.replicas if not one.is_running), None)
        if new is None:
            raise EngineError("no replica is free to take its place", where=old.spec.name)
        if (missing_bytes := self._missing_bytes(new)) > 0:
            what = f"a second one beside it needs {format_bytes(missing_bytes)} more than the memory budget"
            raise EngineError(what, where=old.spec.name, hint="Raise replicas.memory, or restart instead.")
        self._start(new)
        while new.life.phase is ReplicaPhase.STARTING:
            await self._next_move()
        if new.life.phase is not ReplicaPhase.READY:
            raise EngineError(f"its successor does not come up: {new.life.detail}", where=old.spec.name)
        await self._drain(old, "replaced")

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK_S)
            self._poked.set()

    async def _decide_for_ever(self) -> None:
        while True:
            self.decide()
            self._poked.clear()
            await self._poked.wait()

    def decide(self) -> None:
        """Effects: starts and stops what should be."""
        now_s = self._clock.monotonic_s()
        is_complete = len(self._loads) >= self._num_gateways
        for key, pool in self.pools.items():
            loads = [one for told in self._loads.values() for one in told if (one.served_model, one.rung) == key]
            if pool.decide(loads, now_s, is_complete=is_complete) and pool.decision is not None:
                self.decisions.append((key, pool.decision))
                _LOGGER.info("%s rung %d: %d replicas (%s: %s)", *key, *_words(pool.decision))
        self._wake_companions()
        for pool in self.pools.values():
            if pool.is_rolling:
                continue
            for one in pool.surplus():
                reason = pool.decision.detail if pool.decision else "not wanted"
                self._begin_drain(one, reason)
            while (starting := pool.next_to_start(now_s)) is not None and self._has_room(pool, starting):
                self._start(starting)
        self._enforce_memory_limits(now_s)

    def _wake_companions(self) -> None:
        """The other rungs of a model that serves run too, or its ladder would have no steps; one by one, after it."""
        for model in {model for model, _ in self.pools}:
            pools = [pool for (served_model, _), pool in self.pools.items() if served_model == model]
            is_awake = any(pool.history.replicas for pool in pools)
            is_serving = any(pool.num_ready for pool in pools)
            for pool in pools:
                pool.is_companion = is_awake and (is_serving or pool.is_companion)

    def _has_room(self, pool: ReplicaPool, starting: ManagedReplica) -> bool:
        """Whether it may be started now. Effects: idle replicas that have to make room begin to drain."""
        name = starting.spec.name
        if self._budget_bytes is None:
            return True
        room = make_room(
            self._residents(may_go=pool.history.replicas > 0),  # a companion displaces nobody
            needed_bytes=starting.spec.memory_bytes,
            budget_bytes=self._budget_bytes,
        )
        if room.missing_bytes:
            why = f"{format_bytes(room.missing_bytes)} of memory are missing; what runs is in use"
            if self._blocked.get(name) != why:
                self._blocked[name] = why
                self._note_change()
            return False
        self._blocked.pop(name, None)
        for other in self.pools.values():
            for one in other.replicas:
                if one.spec.name in room.names:
                    other.give_up_one()
                    self._begin_drain(one, f"idle longest, and {starting.spec.served_model} needs its memory")
        return self._missing_bytes(starting) <= 0

    def _residents(self, *, may_go: bool) -> list[Resident]:
        found = []
        for pool in self.pools.values():
            is_busy = any(other.is_busy for other in self.pools.values() if other.key[0] == pool.key[0])
            for one in pool.replicas:
                if one.counts:
                    last_used_s = pool.history.last_busy_s or one.life.since_s
                    is_kept = pool.spec.policy.min_replicas > 0 or not may_go
                    found.append(Resident(one.spec.name, one.spec.memory_bytes, last_used_s, is_busy, is_kept))
        return found

    def _missing_bytes(self, starting: ManagedReplica) -> int:
        """What is missing beside everything that holds memory at this moment, draining ones included."""
        if self._budget_bytes is None:
            return 0
        held_bytes = sum(one.spec.memory_bytes for one in self.replicas if one.is_running and one is not starting)
        return held_bytes + starting.spec.memory_bytes - self._budget_bytes

    def _enforce_memory_limits(self, now_s: float) -> None:
        if now_s - self._memory_checked_s < _MEMORY_CHECK_S:
            return
        self._memory_checked_s = now_s
        for one in self.replicas:
            limit_bytes = one.spec.memory_limit_bytes
            if not limit_bytes or one.process is None or one.life.phase is not ReplicaPhase.READY:
                continue
            if (used_bytes := one.process.rss_bytes()) > limit_bytes:
                what = f"took {format_bytes(used_bytes)}, more than its limit of {format_bytes(limit_bytes)}"
                _LOGGER.error("%s %s; it is started again", one.spec.name, what)
                self._begin_drain(one, what)

    def _start(self, one: ManagedReplica) -> None:
        assert self._group is not None, "replicas are started while the supervisor runs"
        one.begin()
        self._runs[one.spec.name] = self._group.create_task(self._run(one))

    async def _run(self, one: ManagedReplica) -> None:
        await one.run()
        if one.life.phase is ReplicaPhase.FAILED:
            _LOGGER.warning("%s %s", one.spec.name, one.life.detail)

    def _begin_drain(self, one: ManagedReplica, reason: str) -> None:
        assert self._group is not None, "replicas are stopped while the supervisor runs"
        if one.counts:
            one.begin_stop(reason)
            self._group.create_task(self._finish_drain(one))

    async def _drain(self, one: ManagedReplica, reason: str) -> None:
        one.begin_stop(reason)
        await self._finish_drain(one)

    async def _finish_drain(self, one: ManagedReplica) -> None:
        """Waits until no gateway sends anything new there, then ends it."""
        version = self._version
        try:
            async with asyncio.timeout(_SEEN_TIMEOUT_S):
                while any(seen < version for seen in self._seen.values()):
                    await self._next_move()
        except TimeoutError:
            _LOGGER.warning("a gateway did not say that %s gets nothing new; it is stopped all the same", one.spec.name)
        await one.finish_stop()
        if (run := self._runs.get(one.spec.name)) is not None:
            await asyncio.wait([run])

    async def _stop_all(self) -> None:
        running = [one for one in self.replicas if one.is_running]
        for one in running:
            if one.counts:
                one.begin_stop("stopping")
        self._seen.clear()  # the gateway has ended before
        async with asyncio.TaskGroup() as group:
            for one in running:
                group.create_task(self._finish_drain(one))

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _note_change(self) -> None:
        self._version += 1
        self._moved.set()
        self._poked.set()
        self._on_change()


def _words(decision: ScaleDecision) -> tuple[int, str, str]:
    return decision.replicas, decision.reason.value, decision.detail
