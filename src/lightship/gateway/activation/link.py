"""The connection of one gateway process to the supervisor of this machine's replicas; see `engines/supervisor`.

While it is cut nothing changes: what was known last stays, requests go to replicas that answer probes, and the link is
made again with pauses that double.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from lightship.engines.supervisor.messages import (
    MAX_LINE_BYTES,
    Loads,
    Replicas,
    ReplicaStatus,
    Seen,
    ToSupervisor,
    Wake,
)
from lightship.engines.supervisor.status import rung_status
from lightship.ports.clock import Clock
from lightship.ports.replica_control import ReplicaPhase, RungLoad, RungStatus

_log = logging.getLogger("lightship.gateway.activation")
_DECODER = msgspec.json.Decoder(Replicas)
_ENCODER = msgspec.json.Encoder()
# Seconds between two reports of the load: well below the time that any replica takes to start.
_REPORT_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0


class SupervisorLink:
    """What the gateway knows of its replicas' lives, and asks of them. It is a `ReplicaControl`.

    Args:
        path: Of the supervisor's socket.
        clock: Time.

    Concurrency: one event loop, while `running`.
    """

    def __init__(self, path: str, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._note_phase: Callable[[str, ReplicaPhase], None] = lambda name, phase: None
        self._loads: Callable[[], Sequence[RungLoad]] = tuple
        self._on_change: Callable[[], None] = lambda: None
        self._rungs: dict[tuple[str, int], list[ReplicaStatus]] = {}
        self._statuses: dict[tuple[str, int], RungStatus] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._changed = asyncio.Event()
        self._noted_s = 0.0

    @property
    def rungs(self) -> dict[tuple[str, int], RungStatus]:
        """All rungs that are known."""
        return dict(self._statuses)

    def status(self, served_model: str, rung: int) -> RungStatus:
        """See `ReplicaControl`. The estimate of the time left goes on while nothing is heard."""
        status = self._statuses.get((served_model, rung))
        if status is None:
            return rung_status(())
        if not status.start_remaining_s or status.phase is not ReplicaPhase.STARTING:
            return status
        passed_s = self._clock.monotonic_s() - self._noted_s
        return msgspec.structs.replace(status, start_remaining_s=max(0.0, status.start_remaining_s - passed_s))

    def wake(self, served_model: str, rung: int) -> None:
        """See `ReplicaControl`."""
        self._send(Wake(served_model, rung))

    async def changed(self) -> None:
        """See `ReplicaControl`."""
        self._changed.clear()
        await self._changed.wait()

    def apply_phases(self) -> None:
        """Effects: tells again where every replica stands: some may be new to the gateway."""
        for replicas in self._rungs.values():
            for one in replicas:
                self._note_phase(one.name, one.phase)

    @asynccontextmanager
    async def running(
        self,
        *,
        note_phase: Callable[[str, ReplicaPhase], None],
        loads: Callable[[], Sequence[RungLoad]],
        on_change: Callable[[], None],
    ) -> AsyncIterator[None]:
        """Connected, as far as the supervisor is there, until the block ends.

        Args:
            note_phase: Told where each replica stands, at every change.
            loads: How the rungs stand here.
            on_change: Called after a change was noted.
        """
        self._note_phase, self._loads, self._on_change = note_phase, loads, on_change
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._stay_connected()), group.create_task(self._report())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE_BYTES)
            except OSError as error:
                if pause_s == _LONGEST_PAUSE_S:
                    _log.warning("the supervisor is not there (%s); it is tried again every %g s", error, pause_s)
            else:
                pause_s = _FIRST_PAUSE_S
                self._writer = writer
                try:
                    self._send(Loads(tuple(self._loads())))
                    await self._listen(reader)
                finally:
                    self._writer = None
                    writer.close()
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = _DECODER.decode(line)
                self._take(message)
                self._send(Seen(message.version))

    def _take(self, message: Replicas) -> None:
        self._noted_s = self._clock.monotonic_s()
        rungs: dict[tuple[str, int], list[ReplicaStatus]] = {}
        for one in message.replicas:
            rungs.setdefault((one.served_model, one.rung), []).append(one)
        self._rungs = rungs
        self._statuses = {key: rung_status(replicas) for key, replicas in rungs.items()}
        self.apply_phases()
        self._changed.set()
        self._on_change()

    async def _report(self) -> None:
        last: tuple[RungLoad, ...] = ()
        while True:
            await self._clock.sleep(_REPORT_S)
            loads = tuple(self._loads())
            if loads != last:  # the supervisor keeps what it was told
                self._send(Loads(loads))
                last = loads

    def _send(self, message: ToSupervisor) -> None:
        # a few hundred bytes each, and never to a peer that does not read: the supervisor's reader waits for nothing
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_ENCODER.encode(message) + b"\n")
