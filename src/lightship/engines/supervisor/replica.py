"""One replica of this machine: a process at a fixed address, started and stopped many times, and its life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lightship.engines.process import WorkerProcess
from lightship.engines.supervisor.messages import ReplicaStatus
from lightship.errors import EngineError
from lightship.ports.clock import Clock
from lightship.ports.replica_control import ReplicaPhase
from lightship.scaling import lifecycle
from lightship.scaling.lifecycle import ReplicaLife, RestartPolicy


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is.

    Args:
        name: Of its entry in the gateway's configuration.
        served_model: The name clients send.
        rung: Its place on that ladder.
        make: Gives a fresh, unstarted process for its address.
        startup_budget_s: Longest time until it is ready.
        startup_s: What a start usually takes.
        memory_bytes: What it holds while it runs, for the budget of the machine; 0 where that is not known.
        memory_limit_bytes: It is stopped when it takes more; 0 sets no limit.
        drain_s: Longest time that requests under way take to end.
    """

    name: str
    served_model: str
    rung: int
    make: Callable[[], WorkerProcess]
    startup_budget_s: float
    startup_s: float = 1.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    drain_s: float = 30.0


@dataclass
class ManagedReplica:
    """A replica and its life. It belongs to the supervisor; nobody else changes it.

    `stop_reason` is set while it is being stopped on purpose.
    """

    spec: ReplicaSpec
    restart: RestartPolicy
    clock: Clock
    on_change: Callable[[], None]
    life: ReplicaLife = field(default_factory=ReplicaLife)
    process: WorkerProcess | None = None
    num_starts: int = 0
    stop_reason: str = ""
    last_startup_s: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it holds memory: it starts, serves or drains."""
        return self.life.phase in {ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.DRAINING}

    @property
    def counts(self) -> bool:
        """Whether it is there for requests now or soon."""
        return self.life.phase in {ReplicaPhase.STARTING, ReplicaPhase.READY}

    def status(self) -> ReplicaStatus:
        """As the gateway is told."""
        now_s, life = self.clock.monotonic_s(), self.life
        usual_s = self.spec.startup_s if self.last_startup_s is None else self.last_startup_s
        remaining_s = {
            ReplicaPhase.SLEEPING: usual_s,
            ReplicaPhase.STARTING: max(0.0, usual_s - (now_s - life.since_s)),
            ReplicaPhase.FAILED: max(0.0, life.retry_at_s - now_s) + usual_s,
            ReplicaPhase.DRAINING: self.spec.drain_s + usual_s,
        }.get(life.phase, 0.0)
        pid = self.process.pid if self.process is not None and self.process.is_running else None
        return ReplicaStatus(
            name=self.spec.name,
            served_model=self.spec.served_model,
            rung=self.spec.rung,
            phase=life.phase,
            start_remaining_s=remaining_s,
            can_wake=not life.is_hopeless(self.restart),
            detail=life.detail,
            pid=pid or 0,
        )

    def begin(self) -> None:
        """It is going to be started: `run` comes next."""
        self.stop_reason = ""
        self._move(lifecycle.started(self.life, self.clock.monotonic_s()))

    async def run(self) -> None:
        """Starts its process and stays until that has ended, for whatever reason."""
        if self._is_unwanted():  # before it began
            self._ended("")
            return
        self.num_starts += 1
        process = self.process = self.spec.make()
        try:
            self.last_startup_s = await process.start(startup_timeout_s=self.spec.startup_budget_s)
        except EngineError as error:
            self._ended(str(error).partition("\n")[0])
            return
        if self._is_unwanted():  # while it was being spawned, when there was nothing to stop yet
            await process.stop(drain_timeout_s=0.0)
        else:
            self._move(lifecycle.ready(self.life, self.clock.monotonic_s()))
        code = await process.wait()
        await process.stop(drain_timeout_s=0.0)  # helpers that outlived it go with it
        self._ended(f"ended with status {code}")

    def begin_stop(self, reason: str) -> None:
        """From now on nothing new is sent to it; `finish_stop` comes next."""
        self.stop_reason = reason
        self._move(lifecycle.draining(self.life, self.clock.monotonic_s(), reason))

    async def finish_stop(self) -> None:
        """Ends its process once what is under way has ended, at the latest after its drain time."""
        if self.process is not None:
            await self.process.stop(drain_timeout_s=self.spec.drain_s)

    def _is_unwanted(self) -> bool:
        return bool(self.stop_reason)

    def _ended(self, what: str) -> None:
        now_s = self.clock.monotonic_s()
        if self.stop_reason:
            self._move(lifecycle.stopped(self.life, now_s, self.stop_reason))
        else:
            self._move(lifecycle.failed(self.life, now_s, self.restart, what))

    def _move(self, life: ReplicaLife) -> None:
        self.life = life
        self.on_change()
