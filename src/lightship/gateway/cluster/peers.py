"""Reads the counts of every gateway Pod, side by side, within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from lightship.engines.remote import RemoteEngine, upstream_session
from lightship.gateway.cluster.config import ClusterConfig
from lightship.gateway.cluster.loads import GatewayCounts, counts_in, counts_of
from lightship.kubernetes.pods import PodState, belongs, pod_state
from lightship.kubernetes.resources import JsonObject
from lightship.ports.engine import HopTimeouts
from lightship.ports.replica_control import ReplicaPhase, RungLoad

ReadMetrics = Callable[[str], Awaitable[bytes | None]]
# Gateways whose connections are kept.
_MOST_ADDRESSES = 256
LocalLoads = Callable[[], Iterable[RungLoad]]


async def gateway_counts(
    pods: Iterable[JsonObject],
    config: ClusterConfig,
    *,
    own_pod: str,
    local_loads: LocalLoads | None,
    read: ReadMetrics,
) -> list[GatewayCounts]:
    """The counts of all gateways that may have requests.

    A gateway that is ready and does not answer is in the list with a problem. One that starts or ends counts where it
    can be read, and is left out where it cannot: nobody sends it anything, or no longer.

    Args:
        pods: All Pods that are followed.
        config: Which of them are gateways, and where they serve metrics.
        own_pod: The name of this gateway's Pod.
        local_loads: Its own counts; None reads them like everybody's (several processes share one Pod).
        read: Metrics at an address; None where nothing came.
    """
    gateways = [pod_state(pod) for pod in pods if belongs(pod, config.gateway_selector)]
    others = [state for state in gateways if state.ip and (local_loads is None or state.name != own_pod)]
    async with asyncio.TaskGroup() as group:
        tasks = [(state, group.create_task(_read_one(state, config, read))) for state in others]
    counts = [counts_of(local_loads(), gateway=own_pod)] if local_loads is not None else []
    counts += [task.result() for state, task in tasks if state.phase is ReplicaPhase.READY or not task.result().problem]
    return counts


async def _read_one(state: PodState, config: ClusterConfig, read: ReadMetrics) -> GatewayCounts:
    host = f"[{state.ip}]" if ":" in state.ip else state.ip
    try:
        async with asyncio.timeout(config.peer_limit_s):
            exposition = await read(f"http://{host}:{config.gateway_port}")
    except TimeoutError:
        return GatewayCounts(state.name, problem=f"no metrics within {config.peer_limit_s:g} s")
    if exposition is None:
        return GatewayCounts(state.name, problem="no metrics")
    return counts_in(exposition, gateway=state.name)


class MetricsReader:
    """Reads `/metrics` over kept connections; an async context manager. Calling it with an address reads there."""

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._session = upstream_session()
        self._readers: dict[str, RemoteEngine] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)

    async def __call__(self, address: str) -> bytes | None:
        """See `ReadMetrics`."""
        limit_s = self._limit_s
        reader = self._readers.get(address)
        if reader is None:
            if len(self._readers) >= _MOST_ADDRESSES:  # Pods come and go, each with an address of its own
                old, self._session = self._session, upstream_session()
                self._readers.clear()
                await old.__aexit__(None, None, None)
            timeouts = HopTimeouts(connect_s=limit_s, first_token_s=limit_s, next_token_s=limit_s, total_s=limit_s)
            reader = RemoteEngine(name="gateway", base_url=address, session=self._session, timeouts=timeouts)
            self._readers[address] = reader
        return await reader.read_metrics(timeout_s=limit_s)
