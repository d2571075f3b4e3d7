"""The replicas of one rung: how many should run, who is started next and who goes first. Decides; starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from lightship.engines.supervisor.replica import ManagedReplica, ReplicaSpec
from lightship.ports.replica_control import ReplicaPhase, RungLoad
from lightship.scaling.decide import scale
from lightship.scaling.lifecycle import may_start
from lightship.scaling.records import ScaleDecision, ScaleHistory, ScaleLoad, ScalePolicy

# Seconds a wake counts as one waiting request: until the gateway that sent it has told its load.
_WAKE_S = 5.0


@dataclass(frozen=True)
class PoolSpec:
    """The replicas of one rung.

    Args:
        served_model: The name clients send.
        rung: Its place on that ladder.
        policy: How many there should be.
        replicas: One more than the policy's most, so that one can be replaced without a gap.
    """

    served_model: str
    rung: int
    policy: ScalePolicy
    replicas: tuple[ReplicaSpec, ...]


class ReplicaPool:
    """One rung's replicas and what was decided about them last."""

    def __init__(self, spec: PoolSpec, replicas: Sequence[ManagedReplica]) -> None:
        self.spec = spec
        self.replicas = list(replicas)
        self.history = ScaleHistory(replicas=spec.policy.min_replicas)
        self.decision: ScaleDecision | None = None
        self.is_rolling = False
        self.is_companion = False
        """Whether one runs because the model is awake, and not because this rung was asked for."""
        self._woken_s: float | None = None
        self._num_busy = 0

    @property
    def key(self) -> tuple[str, int]:
        """Model and rung."""
        return self.spec.served_model, self.spec.rung

    @property
    def num_counting(self) -> int:
        """Replicas that serve or come up."""
        return sum(one.counts for one in self.replicas)

    @property
    def num_ready(self) -> int:
        """Replicas that serve."""
        return sum(one.life.phase is ReplicaPhase.READY for one in self.replicas)

    @property
    def is_busy(self) -> bool:
        """Whether requests wait or are under way, as far as is known."""
        return self._num_busy > 0

    @property
    def wanted(self) -> int:
        """Replicas that should run."""
        return max(self.history.replicas, int(self.is_companion))

    def wake(self, now_s: float) -> None:
        """A request wants this rung."""
        self._woken_s = now_s

    def decide(self, loads: Iterable[RungLoad], now_s: float, *, is_complete: bool) -> bool:
        """Brings the number of replicas that should run up to date; whether that changed it."""
        loads = list(loads)
        num_queued = sum(one.num_held + one.num_queued for one in loads)
        if self._woken_s is not None and now_s - self._woken_s > _WAKE_S:
            self._woken_s = None
        if self._woken_s is not None:
            num_queued = max(1, num_queued)
            is_complete = True  # whoever waits is known, whatever else is not
        attainments = [one.attainment for one in loads if one.attainment is not None]
        load = ScaleLoad(
            now_s=now_s,
            num_queued=num_queued,
            num_in_flight=sum(one.num_in_flight for one in loads),
            num_degraded=sum(one.num_degraded for one in loads),
            num_ready=self.num_ready,
            num_starting=self.num_counting - self.num_ready,
            attainment=min(attainments) if attainments else None,
            is_complete=is_complete,
        )
        self._num_busy = load.num_queued + load.num_in_flight
        before = self.history.replicas
        self.decision = scale(load, self.history, self.spec.policy)
        self.history = self.decision.history
        return self.history.replicas != before

    def give_up_one(self) -> None:
        """One of its replicas makes room for another model: it is not wanted until a request asks for it again."""
        self.history = replace(self.history, replicas=max(0, self.history.replicas - 1))

    def next_to_start(self, now_s: float) -> ManagedReplica | None:
        """Who is started next; None where enough run, or the one that failed must wait.

        One that failed keeps its place until its pause is over: else its neighbour would fail in its stead at once.
        """
        num_paused = sum(
            one.life.phase is ReplicaPhase.FAILED and not may_start(one.life, now_s) for one in self.replicas
        )
        if self.num_counting + num_paused >= self.wanted:
            return None
        startable = [one for one in self.replicas if may_start(one.life, now_s)]
        return min(startable, key=lambda one: one.life.phase is not ReplicaPhase.FAILED, default=None)

    def surplus(self) -> list[ManagedReplica]:
        """Who is too many: first those that do not serve yet, then the youngest."""
        running = [one for one in self.replicas if one.counts]
        running.sort(key=lambda one: (one.life.phase is ReplicaPhase.STARTING, one.life.since_s), reverse=True)
        return running[: max(0, len(running) - self.wanted)]
