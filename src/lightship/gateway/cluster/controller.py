"""The gateway's side of a cluster: a `ReplicaControl`, and the tasks that make its answers true.

    Pods (list and watch) --> status, replicas to route to
    the leader, every `interval_s` or as soon as a request wants a rung:
        counts of all gateways + Pods --> scale (pure) --> patch of deployments/scale
    a follower's wake is seen by the leader in the follower's count of held requests

When the API server is away, the last Pods known stay, requests are served, and nothing is decided.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from lightship.gateway.cluster.autoscalers import other_writers
from lightship.gateway.cluster.config import ClusterConfig, PoolConfig
from lightship.gateway.cluster.decisions import DecisionLog
from lightship.gateway.cluster.election import LeaderElection
from lightship.gateway.cluster.loads import GatewayCounts, Place, pool_load
from lightship.gateway.cluster.peers import LocalLoads, ReadMetrics, gateway_counts
from lightship.gateway.cluster.pods import rung_status, start_remaining_s
from lightship.gateway.cluster.problems import problem_of, word_for
from lightship.gateway.cluster.replicas import replicas_of
from lightship.gateway.cluster.scaler import PoolScaler, ScaleFunction
from lightship.gateway.config import ReplicaConfig
from lightship.kubernetes.backoff import Backoff
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import KubernetesError
from lightship.kubernetes.mirror import ObjectMirror
from lightship.kubernetes.pods import PodState, belongs, common_selector, pod_state
from lightship.kubernetes.resources import PODS
from lightship.ports.clock import Clock
from lightship.ports.replica_control import ReplicaPhase, RungStatus
from lightship.scaling.records import ScaleLoad

_log = logging.getLogger(__name__)

OnReplicas = Callable[[list[ReplicaConfig]], Awaitable[None]]
_AUTOSCALERS_EVERY_S = 60.0
_AUTOSCALERS_DENIED_EVERY_S = 600.0
# A wake that led to nothing for so long is forgotten; a request that still waits is in the counts.
_WAKE_LASTS_S = 30.0


class ClusterController:
    """One gateway Pod's part in its cluster.

    Args:
        client: The way to the API server; closed by whoever made it.
        config: See `ClusterConfig`; its namespace is set.
        pod_name: Of the Pod this gateway runs in.
        identity: Of this process among all candidates; unlike any other's.
        scale: Decides on the replicas of one rung.
        clock: Time.
        local_loads: This gateway's own counts; None reads them from its `/metrics` like everybody's, as it has to be
            where several processes serve in one Pod.
        read_metrics: Reads a gateway's metrics at an address (`peers.MetricsReader`).
        on_replicas: Called with the replicas to route to, at first and whenever they change; calls never overlap.
        draw: Random numbers in [0, 1).

    Concurrency: one event loop. `status`, `wake` and `changed` from any task.
    """

    def __init__(
        self,
        client: KubernetesClient,
        config: ClusterConfig,
        *,
        pod_name: str,
        identity: str,
        scale: ScaleFunction,
        clock: Clock,
        read_metrics: ReadMetrics,
        local_loads: LocalLoads | None = None,
        on_replicas: OnReplicas | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self._client = client
        self._pod_name = pod_name
        self._clock = clock
        self._read_metrics = read_metrics
        self._local_loads = local_loads
        self._on_replicas = on_replicas
        self._draw = draw
        self._pools: dict[Place, PoolConfig] = {(pool.served_model, pool.rung): pool for pool in config.pools}
        self._states: dict[Place, list[PodState]] = {}
        self._starting_since_s: dict[str, float] = {}
        self._woken: dict[Place, float] = {}
        self._busy_s: dict[str, float] = {}
        self._poked = asyncio.Event()
        self._change: asyncio.Event = asyncio.Event()
        self._ask_autoscalers_at_s = float("-inf")
        self._autoscalers_backoff = Backoff(first_s=1.0, draw=draw)
        self._knows_autoscalers = False
        self._missing = ""
        self.decisions = DecisionLog()
        self.num_errors: Counter[str] = Counter()
        self.pods = ObjectMirror(
            client,
            PODS,
            clock=clock,
            namespace=config.namespace,
            label_selector=common_selector(
                [*(pool.selector for pool in config.pools), *([config.gateway_selector] if config.scales else [])]
            ),
            on_change=self._pods_changed,
            on_error=self._count,
            draw=draw,
        )
        self.election = LeaderElection(
            client,
            config,
            namespace=config.namespace,
            identity=identity,
            clock=clock,
            on_change=self._leadership_changed,
            on_error=self._count,
            draw=draw,
        )
        self.scalers = {
            place: PoolScaler(
                client,
                pool,
                namespace=config.namespace,
                scale=scale,
                log=self.decisions,
                clock=clock,
                refresh_s=config.scale_refresh_s,
                request_limit_s=config.request_limit_s,
                may_act_for_s=lambda: self.election.leads_for_s,
                on_error=self._count,
                backoff=Backoff(first_s=1.0, most_s=60.0, draw=draw),
            )
            for place, pool in self._pools.items()
        }

    # See `ReplicaControl`

    def status(self, served_model: str, rung: int) -> RungStatus:
        """See `ReplicaControl`."""
        place = (served_model, rung)
        pool = self._pools.get(place)
        if pool is None:
            return RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False, detail="not a rung of this cluster")
        now_s = self._clock.monotonic_s()
        if not self.pods.is_listed:
            detail = "the cluster has not been read yet"
            if self.pods.error is not None:
                detail = problem_of(self.pods.error, namespace=self.config.namespace)
            return RungStatus(
                phase=ReplicaPhase.SLEEPING,
                start_remaining_s=start_remaining_s(pool, starting_for_s=0),
                can_wake=self.pods.error is None,
                detail=detail,
            )
        states = self._states.get(place, [])
        starting_for_s = max((now_s - self._starting_since_s.get(one.name, now_s) for one in states), default=0.0)
        status = rung_status(
            states, pool, wanted_replicas=self.scalers[place].asked_replicas, starting_for_s=starting_for_s
        )
        if status.phase is not ReplicaPhase.READY and status.can_wake and (why := self._cannot_wake(place, now_s)):
            return msgspec.structs.replace(status, can_wake=False, detail=f"{status.detail}; {why}")
        return status

    def wake(self, served_model: str, rung: int) -> None:
        """See `ReplicaControl`. In a follower the count of held requests tells the leader."""
        place = (served_model, rung)
        if place in self._pools and place not in self._woken and self.election.is_leader:
            self._woken[place] = self._clock.monotonic_s()
            self._poked.set()

    async def changed(self) -> None:
        """See `ReplicaControl`."""
        await self._change.wait()

    def pod_states(self, served_model: str, rung: int) -> list[PodState]:
        """The Pods of a rung, as far as they are known."""
        return self._states.get((served_model, rung), [])

    # Tasks

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ClusterController]:
        """Follows the cluster, and decides while it leads, until the block ends; then another may lead at once."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks: list[asyncio.Task[Any]] = [group.create_task(self.pods.run())]
                if self._on_replicas is not None:
                    tasks.append(group.create_task(self._tell_replicas(self._on_replicas)))
                if self.config.scales:
                    tasks.append(group.create_task(self.election.run()))
                    tasks.append(group.create_task(self._poke_for_ever()))
                    tasks.append(group.create_task(self._decide_for_ever()))
                try:
                    yield self
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            await self.election.release()

    async def _poke_for_ever(self) -> None:
        while True:
            await self._clock.sleep(self.config.interval_s)
            self._poked.set()

    async def _decide_for_ever(self) -> None:
        while True:
            await self._poked.wait()
            self._poked.clear()
            if not self.election.is_leader or not self.pods.is_listed:
                continue
            try:
                await self._decide()
            except Exception:  # noqa: BLE001 # a fault in deciding must not end serving
                self.num_errors["fault"] += 1
                _log.exception("deciding on replicas failed; requests are served on")

    async def _decide(self) -> None:
        counts = await gateway_counts(
            self.pods.objects.values(),
            self.config,
            own_pod=self._pod_name,
            local_loads=self._local_loads,
            read=self._read_metrics,
        )
        await self._look_for_autoscalers()
        now_s = self._clock.monotonic_s()
        for place in self._pools:
            load = pool_load(place, counts)
            if load.num_queued + load.num_in_flight or place in self._woken:
                self._busy_s[place[0]] = now_s
        for place, woken_s in list(self._woken.items()):
            if now_s - woken_s > _WAKE_LASTS_S:
                del self._woken[place]
        async with asyncio.TaskGroup() as group:
            for place in self.scalers:
                group.create_task(self._step(place, counts, now_s=now_s))

    async def _step(self, place: Place, counts: list[GatewayCounts], *, now_s: float) -> None:
        scaler, states = self.scalers[place], self._states.get(place, [])
        total = pool_load(place, counts)
        silent_s = self.pods.silent_s(now_s)
        stale = f"Pods could not be followed for {silent_s:.0f} s" if silent_s > self.config.stale_after_s else ""
        num_queued = max(total.num_queued, int(place in self._woken))
        # Counts that are missing can only add to the demand. So a sleeping rung is woken by the demand that is known:
        # one gateway on a node that died must not keep every model asleep.
        is_enough = scaler.asked_replicas == 0 and num_queued > 0
        missing = stale or self._missing or ("" if is_enough else total.problem)
        load = ScaleLoad(
            now_s=now_s,
            num_queued=num_queued,
            num_in_flight=total.num_in_flight,
            num_degraded=total.num_degraded,
            num_ready=sum(one.phase is ReplicaPhase.READY for one in states),
            num_starting=sum(one.is_coming for one in states),
            attainment=total.attainment,
            is_complete=not missing,
        )
        before = scaler.asked_replicas
        await scaler.step(load, missing=missing, least=int(self._has_companion(place, now_s)))
        if scaler.asked_replicas:
            self._woken.pop(place, None)
        if scaler.asked_replicas != before:
            self._note_change()

    def _has_companion(self, place: Place, now_s: float) -> bool:
        """Whether another rung of its ladder serves: then this one runs, too, or there would be no step to go down.

        It comes after the rung that was asked for, and goes when nobody has asked for any of them long enough.
        """
        model, idle_after_s = place[0], self._pools[place].policy.idle_after_s
        if now_s - self._busy_s.get(model, float("-inf")) >= idle_after_s:
            return False
        others = (states for other, states in self._states.items() if other[0] == model and other != place)
        return any(one.phase is ReplicaPhase.READY for states in others for one in states)

    async def _look_for_autoscalers(self) -> None:
        """Effects: every scaler knows whether somebody else writes to its Deployment, as far as that can be asked."""
        now_s = self._clock.monotonic_s()
        if now_s < self._ask_autoscalers_at_s:
            return
        try:
            found = await other_writers(self._client, namespace=self.config.namespace)
        except KubernetesError as error:
            self._count(error)
            self._ask_autoscalers_at_s = now_s + self._autoscalers_backoff.next_s()
            if not self._knows_autoscalers:
                problem = problem_of(error, namespace=self.config.namespace)
                self._missing = f"whether an autoscaler scales it, too, is not known: {problem}"
            return
        self._autoscalers_backoff.reset()
        self._knows_autoscalers, self._missing = True, ""
        self._ask_autoscalers_at_s = now_s + (_AUTOSCALERS_DENIED_EVERY_S if found is None else _AUTOSCALERS_EVERY_S)
        for scaler in self.scalers.values():
            scaler.other_writer = (found or {}).get(scaler.pool.deployment, "")

    async def _tell_replicas(self, on_replicas: OnReplicas) -> None:
        told: list[ReplicaConfig] | None = None
        backoff = Backoff(draw=self._draw)
        while True:
            change = self._change
            if self.pods.is_listed:
                found = replicas_of(self.pods.objects.values(), self.config)
                if found != told:
                    try:
                        await on_replicas(found)
                        told = found
                        backoff.reset()
                    except Exception:  # noqa: BLE001 # the replicas there were go on serving
                        self.num_errors["fault"] += 1
                        _log.exception("%d replicas could not be taken over", len(found))
                        await self._clock.sleep(backoff.next_s())
                    continue
            await change.wait()

    # What the tasks tell

    def _pods_changed(self) -> None:
        pods = list(self.pods.objects.values())
        self._states = {
            place: [pod_state(pod) for pod in pods if belongs(pod, pool.selector)]
            for place, pool in self._pools.items()
        }
        now_s = self._clock.monotonic_s()
        starting = {one.name for states in self._states.values() for one in states if one.is_coming}
        self._starting_since_s = {name: self._starting_since_s.get(name, now_s) for name in starting}
        self._note_change()

    def _leadership_changed(self) -> None:
        leads = self.election.is_leader
        self._ask_autoscalers_at_s, self._knows_autoscalers = float("-inf"), False
        self._woken.clear()
        for scaler in self.scalers.values():
            if leads:
                scaler.begin_term()
            else:
                scaler.end_term()
        if leads:
            self._poked.set()
        self._note_change()

    def _cannot_wake(self, place: Place, now_s: float) -> str:
        """Why a request would wait in vain; "" where it would not."""
        silent_s = self.pods.silent_s(now_s)
        if silent_s > self.config.stale_after_s:
            error = self.pods.error
            why = problem_of(error, namespace=self.config.namespace) if error is not None else "it is silent"
            return f"the cluster could not be followed for {silent_s:.0f} s: {why}"
        election = self.election
        if election.error is not None and election.failing_for_s > self.config.renew_deadline_s:
            why = problem_of(election.error, namespace=self.config.namespace)
            return f"nobody may be deciding on replicas: {why}"
        return self.scalers[place].problem

    def _count(self, error: KubernetesError) -> None:
        self.num_errors[word_for(error)] += 1

    def _note_change(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()
