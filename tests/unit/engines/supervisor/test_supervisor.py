"""The supervisor over real processes of thirty lines each: wake, idle, crash, displacement, roll, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.supervisor.pool import PoolSpec
from lightship.engines.supervisor.replica import ReplicaSpec
from lightship.engines.supervisor.supervisor import Supervisor
from lightship.errors import EngineError
from lightship.ports.clock import SystemClock
from lightship.ports.replica_control import ReplicaPhase, RungLoad, RungStatus
from lightship.scaling.lifecycle import RestartPolicy
from lightship.scaling.records import ScalePolicy

PROGRAM = Path(__file__).parent / "tiny_worker.py"
ZERO = ScalePolicy(min_replicas=0, max_replicas=1, idle_after_s=3600.0, in_flight_per_replica=4.0)
ONE = msgspec.structs.replace(ZERO, min_replicas=1)
QUICK = RestartPolicy(first_pause_s=0.05, longest_pause_s=0.1, max_failures=3)


class ManualClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class Machine:
    """Pools of tiny workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.changed = asyncio.Event()

    def replica(self, model: str, rung: int = 0, number: int = 0, **changes: Any) -> ReplicaSpec:
        port = free_port()
        state = self.folder / f"{model}-{rung}"
        state.mkdir(exist_ok=True)

        def make() -> WorkerProcess:
            return WorkerProcess(
                name=model,
                command=[sys.executable, "-I", "-S", str(PROGRAM), str(port), str(state)],
                base_url=f"http://127.0.0.1:{port}",
                log_path=self.folder / "log",
            )

        one = ReplicaSpec(f"{model}-{rung}-{number}", model, rung, make, startup_budget_s=20.0, drain_s=5.0)
        return replace(one, **changes)

    def pool(self, model: str, policy: ScalePolicy = ZERO, *, rung: int = 0, **changes: Any) -> PoolSpec:
        numbers = range(policy.max_replicas + 1)
        return PoolSpec(model, rung, policy, tuple(self.replica(model, rung, number, **changes) for number in numbers))

    @asynccontextmanager
    async def running(self, *pools: PoolSpec, **options: Any) -> AsyncIterator[Supervisor]:
        supervisor = Supervisor(
            pools, clock=self.clock, restart=QUICK, on_change=self.changed.set, num_gateways=0, **options
        )
        async with asyncio.timeout(60), supervisor.running():
            yield supervisor

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns when it is so; looks again after every change of a replica."""
        while not is_so():
            self.changed.clear()
            await self.changed.wait()

    def starts(self, model: str, rung: int = 0) -> int:
        """Processes that were started so far."""
        return len(list((self.folder / f"{model}-{rung}" / "marks").glob("*")))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def phase(supervisor: Supervisor, model: str, rung: int = 0) -> ReplicaPhase:
    return supervisor.rung_status(model, rung).phase


def busy(model: str, *, rung: int = 0, num_in_flight: int = 1) -> RungLoad:
    return RungLoad(served_model=model, rung=rung, num_in_flight=num_in_flight)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_supervisor_least_of_one_runs_without_being_asked_and_stops_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m", ONE)) as supervisor:
            await supervisor.until_ready("m", 0)
            pid = supervisor.pools["m", 0].replicas[0].status().pid
            assert is_alive(pid)
        assert not is_alive(pid)
        assert phase(supervisor, "m") is ReplicaPhase.SLEEPING

    run(main)


def test_supervisor_sleeping_model_wakes_once_however_often_it_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m")) as supervisor:
            assert phase(supervisor, "m") is ReplicaPhase.SLEEPING
            for _ in range(50):
                supervisor.wake("m", 0)
            await supervisor.until_ready("m", 0)
            assert machine.starts("m") == 1

    run(main)


def test_supervisor_unknown_model_is_nobodys_and_waking_it_does_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m")) as supervisor:
            supervisor.wake("other", 0)
            assert supervisor.rung_status("other", 0) == RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False)

    run(main)


def test_supervisor_idle_model_goes_to_sleep_and_its_process_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m")) as supervisor:
            supervisor.wake("m", 0)
            await supervisor.until_ready("m", 0)
            pid = supervisor.pools["m", 0].replicas[0].status().pid
            machine.clock.ahead_s += 4000.0
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.SLEEPING)
            assert not is_alive(pid)
            assert supervisor.rung_status("m", 0).detail.startswith("idle for")

    run(main)


def test_supervisor_busy_model_stays_awake(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m")) as supervisor:
            supervisor.note_loads("gateway", [busy("m")])
            await supervisor.until_ready("m", 0)
            machine.clock.ahead_s += 4000.0
            supervisor.decide()
            assert phase(supervisor, "m") is ReplicaPhase.READY

    run(main)


def test_supervisor_killed_replica_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m", ONE)) as supervisor:
            await supervisor.until_ready("m", 0)
            first = supervisor.pools["m", 0].replicas[0].status().pid
            os.kill(first, signal.SIGKILL)
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.FAILED)
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.READY)
            assert supervisor.pools["m", 0].replicas[0].status().pid not in {0, first}

    run(main)


def test_supervisor_replica_that_cannot_start_is_hopeless_after_three_times_and_others_serve(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = machine.pool("bad", ONE), machine.pool("good", ONE)
        (tmp_path / "bad-0" / "broken").touch()
        async with machine.running(*pools) as supervisor:
            await machine.until(lambda: not supervisor.rung_status("bad", 0).can_wake)
            status = supervisor.rung_status("bad", 0)
            assert status.phase is ReplicaPhase.FAILED
            assert "status 3" in status.detail
            assert "failed 3 times in a row" in status.detail
            await supervisor.until_ready("good", 0)
            # the spare one was not tried in its stead
            assert {one.num_starts for one in supervisor.pools["bad", 0].replicas[1:]} == {0}

    run(main)


def test_supervisor_until_ready_of_one_that_fails_says_where_its_log_is(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pool = machine.pool("bad", ONE)
        (tmp_path / "bad-0" / "broken").touch()
        async with machine.running(pool) as supervisor:
            with pytest.raises(EngineError, match="status 3") as failed:
                await supervisor.until_ready("bad", 0)
            assert failed.value.where == str(tmp_path / "log")

    run(main)


def test_supervisor_ladder_serves_without_a_rung_that_cannot_start(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = machine.pool("m", ONE), machine.pool("m", ONE, rung=1)
        (tmp_path / "m-0" / "broken").touch()
        async with machine.running(*pools) as supervisor:
            await supervisor.until_serving()
            assert phase(supervisor, "m", 0) is not ReplicaPhase.READY
            assert phase(supervisor, "m", 1) is ReplicaPhase.READY

    run(main)


def test_supervisor_model_none_of_whose_rungs_starts_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = machine.pool("m", ONE), machine.pool("m", ONE, rung=1), machine.pool("good", ONE)
        for rung in (0, 1):
            (tmp_path / f"m-{rung}" / "broken").touch()
        async with machine.running(*pools) as supervisor:
            with pytest.raises(EngineError, match="m cannot be served"):
                await supervisor.until_serving()

    run(main)


def test_supervisor_more_load_starts_more_replicas_up_to_the_most(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        policy = msgspec.structs.replace(ZERO, max_replicas=2)
        async with machine.running(machine.pool("m", policy)) as supervisor:
            supervisor.note_loads("gateway", [busy("m", num_in_flight=100)])
            await machine.until(lambda: supervisor.rung_status("m", 0).num_ready == 2)
            assert machine.starts("m") == 2

    run(main)


def test_supervisor_lower_rung_wakes_with_its_model_after_the_one_that_was_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = machine.pool("m"), machine.pool("m", rung=1)
        (tmp_path / "m-0" / "slow").touch()
        async with machine.running(*pools) as supervisor:
            supervisor.wake("m", 0)
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.STARTING)
            supervisor.decide()
            assert phase(supervisor, "m", 1) is ReplicaPhase.SLEEPING
            (tmp_path / "m-0" / "slow").unlink()
            await supervisor.until_ready("m", 1)
            machine.clock.ahead_s += 4000.0
            await machine.until(lambda: {phase(supervisor, "m", rung) for rung in (0, 1)} == {ReplicaPhase.SLEEPING})

    run(main)


def test_supervisor_second_model_displaces_the_idle_one(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = [machine.pool(name, memory_bytes=600) for name in ("old", "new")]
        async with machine.running(*pools, memory_budget_bytes=1000) as supervisor:
            supervisor.wake("old", 0)
            await supervisor.until_ready("old", 0)
            machine.clock.ahead_s += 10.0  # the wake is forgotten, the model idle, but not for long
            supervisor.wake("new", 0)
            await supervisor.until_ready("new", 0)
            assert phase(supervisor, "old") is ReplicaPhase.SLEEPING
            assert supervisor.rung_status("old", 0).detail == "idle longest, and new needs its memory"

    run(main)


def test_supervisor_busy_model_is_not_displaced_and_the_other_says_what_it_lacks(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pools = [machine.pool(name, memory_bytes=600) for name in ("old", "new")]
        async with machine.running(*pools, memory_budget_bytes=1000) as supervisor:
            supervisor.note_loads("gateway", [busy("old")])
            await supervisor.until_ready("old", 0)
            supervisor.wake("new", 0)
            await machine.until(lambda: "missing" in supervisor.rung_status("new", 0).detail)
            assert phase(supervisor, "old") is ReplicaPhase.READY
            assert phase(supervisor, "new") is ReplicaPhase.SLEEPING
            supervisor.note_loads("gateway", [])
            machine.clock.ahead_s += 10.0
            supervisor.wake("new", 0)
            await supervisor.until_ready("new", 0)

    run(main)


def test_supervisor_replica_over_its_memory_limit_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m", ONE, memory_limit_bytes=1)) as supervisor:
            await supervisor.until_ready("m", 0)
            machine.clock.ahead_s += 10.0
            await machine.until(lambda: machine.starts("m") > 1)

    run(main)


def test_supervisor_roll_replaces_each_only_once_its_successor_is_ready(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m", ONE)) as supervisor:
            await supervisor.until_ready("m", 0)
            least_ready: list[int] = []
            machine_changed = machine.changed

            async def watch() -> None:
                while True:
                    least_ready.append(supervisor.rung_status("m", 0).num_ready)
                    machine_changed.clear()
                    await machine_changed.wait()

            watching = asyncio.create_task(watch())
            old = supervisor.pools["m", 0].replicas[0].status().pid
            assert await supervisor.roll() == 1
            watching.cancel()
            await asyncio.wait([watching])
            assert min(least_ready) == 1
            assert not is_alive(old)
            assert [one.status().phase for one in supervisor.pools["m", 0].replicas] == [
                ReplicaPhase.SLEEPING,
                ReplicaPhase.READY,
            ]

    run(main)


def test_supervisor_roll_whose_successor_fails_keeps_the_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m", ONE)) as supervisor:
            await supervisor.until_ready("m", 0)
            (tmp_path / "m-0" / "broken").touch()
            with pytest.raises(EngineError, match="successor does not come up"):
                await supervisor.roll()
            assert phase(supervisor, "m") is ReplicaPhase.READY

    run(main)


def test_supervisor_roll_without_memory_for_both_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pool = machine.pool("m", ONE, memory_bytes=600)
        async with machine.running(pool, memory_budget_bytes=1000) as supervisor:
            await supervisor.until_ready("m", 0)
            with pytest.raises(EngineError, match="more than the memory budget"):
                await supervisor.roll()
            assert phase(supervisor, "m") is ReplicaPhase.READY

    run(main)


def test_supervisor_draining_waits_until_the_gateway_has_seen_it(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        async with machine.running(machine.pool("m")) as supervisor:
            supervisor.note_loads("gateway", [busy("m")])
            await supervisor.until_ready("m", 0)
            pid = supervisor.pools["m", 0].replicas[0].status().pid
            supervisor.note_loads("gateway", [])
            machine.clock.ahead_s += 4000.0
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.DRAINING)
            assert is_alive(pid), "nobody has said that it gets nothing new"
            supervisor.note_seen("gateway", supervisor.snapshot().version)
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.SLEEPING)
            assert not is_alive(pid)

    run(main)


def test_supervisor_without_the_gateway_s_counts_lets_nobody_go(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        supervisor = Supervisor([machine.pool("m")], clock=machine.clock, on_change=machine.changed.set, num_gateways=1)
        async with asyncio.timeout(60), supervisor.running():
            supervisor.wake("m", 0)
            await supervisor.until_ready("m", 0)
            machine.clock.ahead_s += 4000.0
            supervisor.decide()
            assert phase(supervisor, "m") is ReplicaPhase.READY
            supervisor.note_loads("gateway", [])
            await machine.until(lambda: phase(supervisor, "m") is not ReplicaPhase.READY)

    run(main)


def test_supervisor_stop_while_a_replica_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        machine = Machine(tmp_path)
        pool = machine.pool("m", ONE)
        (tmp_path / "m-0" / "slow").touch()
        async with machine.running(pool) as supervisor:
            await machine.until(lambda: phase(supervisor, "m") is ReplicaPhase.STARTING)
        process = supervisor.pools["m", 0].replicas[0].process
        assert process is None or not process.is_running

    run(main)
