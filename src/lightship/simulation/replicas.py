"""The machines of one region that are scaled together: they start, crash, drain and cost.

    target (from `scale`) up    a machine starts: its time to start is drawn, and weights are delivered the first time
    ready                       its engines take requests; a crash is drawn
    crashed                     requests on it fail; it starts again after the pause that `scaling.lifecycle` gives
    target down                 starting ones go first, then the youngest; a ready one drains before it is gone

A machine is paid for from its start to its end, crashes included. With rungs of their own it runs one engine; with
shared ones an engine of each rung, and those that compute at a time share it evenly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightship.gateway.routing.load import TokenRates, WorkLedger
from lightship.gateway.routing.outliers import ShowingTally
from lightship.gateway.routing.picking import DeviceLoad, ReplicaState
from lightship.ports.engine_profile import EngineProfile
from lightship.ports.replica_control import ReplicaPhase
from lightship.scaling import lifecycle
from lightship.scaling.lifecycle import ReplicaLife, RestartPolicy
from lightship.scaling.records import ScaleHistory, ScalePolicy
from lightship.simulation.engine.base import EngineModel
from lightship.simulation.events import EventQueue
from lightship.simulation.statistics import LevelSeries

_DAY_S = 86_400.0
_HOUR_S = 3600.0
_RESTARTS = RestartPolicy()


@dataclass(frozen=True)
class RungEngine:
    """How the engines of one rung are made, and how fast routing takes them to be."""

    rung: int
    profile: EngineProfile
    make: Callable[[EngineProfile], EngineModel]
    rates: TokenRates


class Replica:
    """One engine on one machine, as routing knows it."""

    __slots__ = (
        "ejected_in_a_row", "engine", "has_work", "ledger", "machine", "rung", "scheduled_s", "state", "tally",
    )  # fmt: skip

    def __init__(self, name: str, spec: RungEngine, machine: Machine, device: DeviceLoad) -> None:
        self.rung = spec.rung
        self.machine = machine
        self.engine = spec.make(spec.profile)
        self.state = ReplicaState(name, spec.rung, device=device)
        self.ledger = WorkLedger(self.state, spec.rates)
        self.tally = ShowingTally()
        self.scheduled_s = math.inf
        self.has_work = False
        self.ejected_in_a_row = 0


class Machine:
    """Hardware with its engines; see the module for its life."""

    __slots__ = (
        "fleet", "is_draining", "life", "name", "num_active", "number", "replicas", "rng", "slow_factor", "started_s",
    )  # fmt: skip

    def __init__(self, number: int, name: str, fleet: Fleet, rng: random.Random, now_s: float) -> None:
        self.fleet = fleet
        self.number = number
        self.name = name
        self.rng = rng
        self.started_s = now_s
        self.life = ReplicaLife()
        self.replicas: list[Replica] = []
        self.is_draining = False
        self.num_active = 0
        self.slow_factor = 1.0

    @property
    def phase(self) -> ReplicaPhase:
        """Where it stands."""
        return self.life.phase

    @property
    def num_in_flight(self) -> int:
        """Attempts under way on it."""
        return sum(replica.state.num_in_flight for replica in self.replicas)


@dataclass(frozen=True)
class FleetSpec:
    """What one fleet is made of.

    Args:
        name: For decisions and plots.
        engines: What runs on each machine.
        policy: How it is scaled.
        initial_machines: Ready at the start.
        startup_s: Median until its engines answer.
        startup_spread: Standard deviation of its logarithm.
        delivery_s: For the weights, before the first start.
        usd_per_hour: Of one machine.
        crashes_per_day: Of one machine that serves.
        seed: Text; with a machine's name it decides what happens to it.
    """

    name: str
    engines: tuple[RungEngine, ...]
    policy: ScalePolicy
    initial_machines: int
    startup_s: float
    startup_spread: float
    delivery_s: float
    usd_per_hour: float
    crashes_per_day: float
    seed: str


class Fleet:
    """See the module.

    Args:
        spec: What it is made of.
        events: Time.
        levels: Makes a series of levels over time.
        device: The one that all machines are, as routing knows them; None: each is one of its own.
    """

    def __init__(
        self,
        spec: FleetSpec,
        events: EventQueue,
        *,
        levels: Callable[[], LevelSeries],
        device: DeviceLoad | None = None,
    ) -> None:
        self.spec = spec
        self.history = ScaleHistory(replicas=spec.initial_machines)
        self.machines: dict[str, Machine] = {}
        self.alive, self.ready = levels(), levels()
        """Machines that are paid for, and those that serve."""
        self.num_ready = 0
        self.paid_s = 0.0
        """Machine-seconds of those that are gone."""
        self.num_crashes = self.num_starts = 0
        self._events = events
        self._device = device
        self._on_ready: Callable[[Machine], None]
        self._on_gone: Callable[[Machine, list[Any]], None]
        self._num_made = 0

    def begin(self, *, on_ready: Callable[[Machine], None], on_gone: Callable[[Machine, list[Any]], None]) -> None:
        """Effects: the first machines are there, and ready.

        Args:
            on_ready: Called with a machine that takes requests from now on.
            on_gone: Called with one that takes none any more, and what it had under way.
        """
        self._on_ready, self._on_gone = on_ready, on_gone
        for _ in range(self.spec.initial_machines):
            self._become_ready(self._make(0.0), 0.0)

    @property
    def num_starting(self) -> int:
        """Machines that come up, also after a crash."""
        return len(self.machines) - self.num_ready - sum(one.is_draining for one in self.machines.values())

    @property
    def status_phase(self) -> ReplicaPhase:
        """How its machines stand together, as in `RungStatus`."""
        if self.num_ready:
            return ReplicaPhase.READY
        phases = {one.phase for one in self.machines.values()}
        for phase in (ReplicaPhase.STARTING, ReplicaPhase.DRAINING, ReplicaPhase.FAILED):
            if phase in phases:
                return phase
        return ReplicaPhase.SLEEPING

    def set_target(self, target: int, now_s: float) -> None:
        """Effects: machines start, or go, until as many are there as are wanted."""
        there = [one for one in self.machines.values() if not one.is_draining]
        for _ in range(target - len(there)):
            self._start(self._make(now_s), now_s, is_first=True)
        if target < len(there):
            # those that do not serve yet first, then the youngest
            there.sort(key=lambda one: (one.phase is ReplicaPhase.READY, -one.number))
            for machine in there[: len(there) - target]:
                self._drain(machine, now_s)

    def note_idle(self, machine: Machine, now_s: float) -> None:
        """Effects: a machine that drains and has nothing under way any more is gone."""
        if machine.is_draining and not machine.num_in_flight:
            self._end(machine, now_s)

    def crash(self, machine: Machine, now_s: float) -> None:
        """Effects: everything on it is lost; it starts again after a pause, unless it was draining anyway."""
        self.num_crashes += 1
        was_ready = machine.phase is ReplicaPhase.READY
        machine.life = lifecycle.failed(machine.life, now_s, _RESTARTS, "crashed")
        lost = [handle for replica in machine.replicas for handle in replica.engine.fail()]
        self._reset(machine)
        if was_ready:
            self._note_ready(-1, now_s)
        if machine.is_draining:
            self._end(machine, now_s)
        else:
            self._events.plan(machine.life.retry_at_s, self._restart, machine)
        self._on_gone(machine, lost)

    def lose_all(self, now_s: float) -> None:
        """Effects: the whole region is away: every machine is gone, and nothing is paid for."""
        for machine in list(self.machines.values()):
            lost = [handle for replica in machine.replicas for handle in replica.engine.fail()]
            self._reset(machine)
            self._end(machine, now_s)
            self._on_gone(machine, lost)
        self._note_ready(-self.num_ready, now_s)

    def paid_machine_s(self, end_s: float) -> float:
        """Machine-seconds that were paid for up to then, added up machine by machine."""
        return self.paid_s + math.fsum(max(0.0, end_s - one.started_s) for one in self.machines.values())

    @property
    def usd_per_s(self) -> float:
        """Of one machine."""
        return self.spec.usd_per_hour / _HOUR_S

    def _make(self, now_s: float) -> Machine:
        self._num_made += 1
        name = f"{self.spec.name}-{self._num_made}"
        machine = Machine(self._num_made, name, self, random.Random(f"{self.spec.seed}/{name}"), now_s)
        device = DeviceLoad() if self._device is None else self._device
        machine.replicas = [Replica(f"{name}/{one.rung}", one, machine, device) for one in self.spec.engines]
        self.machines[name] = machine
        self.alive.set(now_s, self.alive.level + 1)
        return machine

    def _start(self, machine: Machine, now_s: float, *, is_first: bool) -> None:
        spec = self.spec
        self.num_starts += 1
        startup_s = spec.startup_s * math.exp(machine.rng.gauss(0.0, spec.startup_spread))
        machine.life = lifecycle.started(machine.life, now_s)
        self._events.plan(now_s + startup_s + spec.delivery_s * is_first, self._started, (machine, machine.life))

    def _restart(self, now_s: float, machine: Machine) -> None:
        if self.machines.get(machine.name) is machine and lifecycle.may_start(machine.life, now_s):
            self._start(machine, now_s, is_first=False)

    def _started(self, now_s: float, started: tuple[Machine, ReplicaLife]) -> None:
        machine, life = started
        if self.machines.get(machine.name) is machine and machine.life is life:
            self._become_ready(machine, now_s)

    def _become_ready(self, machine: Machine, now_s: float) -> None:
        machine.life = lifecycle.ready(machine.life, now_s)
        self._note_ready(1, now_s)
        if self.spec.crashes_per_day:
            lives_s = machine.rng.expovariate(self.spec.crashes_per_day / _DAY_S)
            self._events.plan(now_s + lives_s, self._crash_drawn, (machine, machine.life))
        self._on_ready(machine)

    def _crash_drawn(self, now_s: float, drawn: tuple[Machine, ReplicaLife]) -> None:
        machine, life = drawn
        if self.machines.get(machine.name) is machine and machine.life is life:
            self.crash(machine, now_s)

    def _drain(self, machine: Machine, now_s: float) -> None:
        machine.is_draining = True
        if machine.phase is ReplicaPhase.READY:
            self._note_ready(-1, now_s)
            machine.life = lifecycle.draining(machine.life, now_s, "fewer are wanted")
            self._on_gone(machine, [])
            self.note_idle(machine, now_s)
        else:
            self._end(machine, now_s)

    def _end(self, machine: Machine, now_s: float) -> None:
        if self.machines.pop(machine.name, None) is None:
            return
        self.paid_s += min(now_s, self.alive.end_s) - min(machine.started_s, self.alive.end_s)
        self.alive.set(now_s, self.alive.level - 1)

    def _note_ready(self, change: int, now_s: float) -> None:
        self.num_ready += change
        self.ready.set(now_s, self.num_ready)

    @staticmethod
    def _reset(machine: Machine) -> None:
        machine.num_active = 0
        machine.slow_factor = 1.0
        for replica in machine.replicas:
            replica.has_work = False
            replica.scheduled_s = math.inf
            replica.engine.set_slowdown(1.0, 0.0)


def rates_of(profile: EngineProfile, *, concurrency: int, context: float) -> TokenRates:
    """Tokens a replica takes and makes per second at a concurrency, as its profile says: what routing reckons with."""
    costs = profile.costs
    budget = profile.limits.max_batched_tokens
    step_s = costs.step_s + costs.decode_token_s * concurrency + costs.context_token_s * context * concurrency
    prompt_s = costs.step_s / budget + costs.prefill_token_s
    return TokenRates(1 / max(prompt_s, 1e-9), concurrency / max(step_s, 1e-9))
