"""Both ends of the control socket, over a real one: the supervisor's server and the gateway's link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.engines.supervisor.test_supervisor import Machine

from lightship.engines.supervisor.control import ControlServer, control_folder
from lightship.engines.supervisor.pool import PoolSpec
from lightship.engines.supervisor.supervisor import Supervisor
from lightship.gateway.activation.link import SupervisorLink
from lightship.ports.clock import SystemClock
from lightship.ports.replica_control import ReplicaPhase, RungLoad
from lightship.scaling.records import ScalePolicy

ZERO = ScalePolicy(min_replicas=0, max_replicas=1, idle_after_s=3600.0)


class Gateway:
    """What a gateway does with a link: it notes phases and has loads."""

    def __init__(self, path: Path) -> None:
        self.link = SupervisorLink(str(path), clock=SystemClock())
        self.phases: dict[str, ReplicaPhase] = {}
        self.loads: list[RungLoad] = []
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.link.running(
            note_phase=self.phases.__setitem__, loads=lambda: self.loads, on_change=self.changed.set
        ):
            yield

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def controlled(machine: Machine, *pools: PoolSpec) -> AsyncIterator[tuple[Supervisor, ControlServer]]:
    async with control_folder() as folder:
        control = ControlServer(folder / "s")

        def note_change() -> None:
            control.note_change()
            machine.changed.set()

        supervisor = Supervisor(pools, clock=machine.clock, on_change=note_change, num_gateways=1)
        async with asyncio.timeout(60), supervisor.running(), control.running(supervisor):
            yield supervisor, control


def test_control_wake_over_the_socket_starts_and_both_sides_know(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with controlled(machine, machine.pool("m", ZERO)) as (supervisor, control):
            gateway = Gateway(control.path)
            async with gateway.running():
                await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.SLEEPING)
                gateway.link.wake("m", 0)
                await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.READY)
                assert gateway.phases["m-0-0"] is ReplicaPhase.READY
                assert supervisor.rung_status("m", 0).num_ready == 1

    asyncio.run(main())


def test_control_load_told_by_the_gateway_keeps_its_model_awake_and_its_end_takes_it_along(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with controlled(machine, machine.pool("m", ZERO)) as (supervisor, control):
            gateway = Gateway(control.path)
            gateway.loads = [RungLoad(served_model="m", rung=0, num_in_flight=3)]
            async with gateway.running():
                await supervisor.until_ready("m", 0)
                assert supervisor.pools["m", 0].is_busy
            await machine.until(lambda: supervisor.pools["m", 0].decision is not None)
            other = Gateway(control.path)
            async with other.running():
                await other.until(lambda: other.link.status("m", 0).phase is ReplicaPhase.READY)
                await machine.until(lambda: not supervisor.pools["m", 0].is_busy)

    asyncio.run(main())


def test_control_idle_model_drains_as_soon_as_the_gateway_has_seen_it(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with controlled(machine, machine.pool("m", ZERO)) as (_, control):
            gateway = Gateway(control.path)
            async with gateway.running():
                gateway.link.wake("m", 0)
                await gateway.until(lambda: gateway.link.status("m", 0).phase is not ReplicaPhase.UNKNOWN)
                gateway.link.wake("m", 0)
                await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.READY)
                machine.clock.ahead_s += 4000.0
                await gateway.until(lambda: gateway.phases["m-0-0"] is ReplicaPhase.DRAINING)
                await gateway.until(lambda: gateway.phases["m-0-0"] is ReplicaPhase.SLEEPING)

    asyncio.run(main())


def test_link_supervisor_that_comes_later_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with control_folder() as folder:
            gateway = Gateway(folder / "s")
            async with asyncio.timeout(60), gateway.running():
                assert gateway.link.status("m", 0).phase is ReplicaPhase.UNKNOWN
                control = ControlServer(folder / "s")
                pool = machine.pool("m", ZERO)
                supervisor = Supervisor([pool], clock=machine.clock, on_change=control.note_change)
                async with supervisor.running(), control.running(supervisor):
                    await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.SLEEPING)

    asyncio.run(main())


@pytest.mark.parametrize("line", [b"no json\n", b'{"type":"Sing"}\n', b'{"type":"Wake"}\n', b"x" * 2**20 + b"\n"])
def test_control_line_that_cannot_be_read_ends_that_connection_and_no_other(tmp_path: Path, line: bytes) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with controlled(machine, machine.pool("m", ZERO)) as (_, control):
            gateway = Gateway(control.path)
            async with gateway.running():
                await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.SLEEPING)
                reader, writer = await asyncio.open_unix_connection(control.path, limit=2**22)
                writer.write(line)
                while await reader.readline():  # what it is told of the replicas, then the end
                    pass
                writer.close()
                gateway.link.wake("m", 0)
                await gateway.until(lambda: gateway.link.status("m", 0).phase is ReplicaPhase.READY)

    asyncio.run(main())


def test_control_folder_is_for_this_user_only_and_gone_afterwards() -> None:
    async def main() -> tuple[int, bool]:
        async with control_folder() as folder:
            mode = folder.stat().st_mode & 0o777
        return mode, folder.exists()

    assert asyncio.run(main()) == (0o700, False)
