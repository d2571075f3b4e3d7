"""What a controller calls, where that is made only after the controller: the layers of the gateway round it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from lightship.gateway.config import ReplicaConfig
from lightship.ports.replica_control import RungLoad


class LateCalls:
    """The calls; until they are connected loads are none, and replicas wait."""

    def __init__(self) -> None:
        self._loads: Callable[[], Iterable[RungLoad]] = tuple
        self._place: Callable[[Sequence[ReplicaConfig]], Awaitable[None]] | None = None
        self._is_connected = asyncio.Event()

    def connect(
        self,
        loads: Callable[[], Iterable[RungLoad]],
        place: Callable[[Sequence[ReplicaConfig]], Awaitable[None]],
    ) -> None:
        """From now on these are called."""
        self._loads, self._place = loads, place
        self._is_connected.set()

    def loads(self) -> Iterable[RungLoad]:
        """How the rungs stand here."""
        return self._loads()

    async def place(self, found: Sequence[ReplicaConfig]) -> None:
        """Takes these replicas."""
        await self._is_connected.wait()
        assert self._place is not None, "it is set before the event is"
        await self._place(found)
