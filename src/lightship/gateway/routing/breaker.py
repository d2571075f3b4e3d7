"""The breaker of one replica: a state machine without clock or randomness of its own.

    closed --failures in a row, or a share of the window--> open
    open --pause is over, an attempt is given--> half-open     (that attempt is the probe; one at a time)
    half-open --probe fails--> open, for twice the pause
    half-open --enough probes in a row succeed--> closed

With its first byte a probe lets the next one through, so that a long answer does not hold up the recovery; it has
succeeded when its answer is complete, or a replica whose streams all break would recover again and again. Attempts from
before the last change of state count for nothing. What the client did, what it asked wrongly and a replica that says it
is full are neither success nor failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from lightship.gateway.routing.config import BreakerConfig


class Phase(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Verdict(StrEnum):
    """What an attempt says about its replica."""

    GOOD = "good"
    BAD = "bad"
    NEITHER = "neither"


@dataclass(slots=True, eq=False)
class Ticket:
    """One attempt, as its breaker knows it."""

    generation: int
    is_probe: bool = False


class Breaker:
    """See above.

    Concurrency: one owner; every attempt calls `begin` once, `first_byte` at most once and `end` once.
    """

    __slots__ = (
        "_config",
        "_generation",
        "_has_probe",
        "_num_in_a_row",
        "_num_opened",
        "_num_probes_good",
        "_open_until_s",
        "_window",
        "phase",
    )

    def __init__(self, config: BreakerConfig) -> None:
        self.phase = Phase.CLOSED
        self._config = config
        self._generation = 0
        self._num_in_a_row = 0
        self._num_opened = 0
        self._num_probes_good = 0
        self._open_until_s = 0.0
        self._has_probe = False
        self._window = _Window()

    @property
    def has_probe(self) -> bool:
        """Whether a probe is waiting for its first byte."""
        return self._has_probe

    @property
    def blocked_until_s(self) -> float:
        """Until when it lets nothing through: 0 when it does, infinite while a probe waits for its first byte."""
        if self.phase is Phase.CLOSED:
            return 0.0
        if self._has_probe:
            return math.inf
        return self._open_until_s if self.phase is Phase.OPEN else 0.0

    def apply(self, config: BreakerConfig) -> None:
        """From now on these numbers hold."""
        self._config = config

    def shorten_pause(self) -> None:
        """The replica is known to have started anew: the next probe need not wait."""
        self._open_until_s = 0.0

    def begin(self, *, now_s: float) -> Ticket:
        """An attempt is given to the replica; where all replicas are out that may be one that is blocked."""
        if self.phase is Phase.OPEN and now_s >= self._open_until_s:
            self._enter(Phase.HALF_OPEN)
        is_probe = self.phase is Phase.HALF_OPEN and not self._has_probe
        if is_probe:
            self._has_probe = True
        return Ticket(self._generation, is_probe)

    def first_byte(self, ticket: Ticket) -> None:
        """The attempt has an answer, complete or not."""
        self._release(ticket)

    def end(self, ticket: Ticket, verdict: Verdict, *, now_s: float, jitter: float) -> None:
        """The attempt is over.

        Args:
            ticket: From `begin`.
            verdict: What it says about the replica.
            now_s: Monotonic time.
            jitter: Random number in [0, 1): spreads the probes of many gateways.
        """
        is_current = ticket.generation == self._generation
        self._release(ticket)
        if not is_current or verdict is Verdict.NEITHER:
            return
        if self.phase is Phase.CLOSED:
            self._count(verdict, now_s=now_s, jitter=jitter)
        elif verdict is Verdict.GOOD:
            self._num_probes_good += 1
            if self._num_probes_good >= self._config.successes_to_close:
                self._num_opened = 0
                self._enter(Phase.CLOSED)
        elif self.phase is Phase.HALF_OPEN:
            self._open(now_s=now_s, jitter=jitter)

    def _count(self, verdict: Verdict, *, now_s: float, jitter: float) -> None:
        config = self._config
        num_bad, num_all = self._window.count(verdict is Verdict.BAD, now_s=now_s, window_s=config.window_s)
        if verdict is Verdict.GOOD:
            self._num_in_a_row = 0
            return
        self._num_in_a_row += 1
        is_share_bad = num_all >= config.min_attempts and num_bad >= config.error_share * num_all
        if is_share_bad or self._num_in_a_row >= config.failures_in_a_row:
            self._open(now_s=now_s, jitter=jitter)

    def _open(self, *, now_s: float, jitter: float) -> None:
        # Doubling ends by the configured longest pause; the bound on the exponent only keeps the number small.
        pause_s = self._config.first_pause_s * 2 ** min(self._num_opened, 30)
        pause_s = min(pause_s, self._config.longest_pause_s)
        self._num_opened += 1
        self._open_until_s = now_s + pause_s * (0.5 + 0.5 * jitter)
        self._enter(Phase.OPEN)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._generation += 1
        self._num_in_a_row = self._num_probes_good = 0
        self._has_probe = False
        self._window = _Window()

    def _release(self, ticket: Ticket) -> None:
        if ticket.is_probe and ticket.generation == self._generation:
            self._has_probe = False
        ticket.is_probe = False


class _Window:
    """Counts of the last window or two: whole halves are forgotten at a time, so that nothing is kept per attempt."""

    __slots__ = ("_all", "_bad", "_since_s", "_was_all", "_was_bad")

    def __init__(self) -> None:
        self._since_s = -math.inf
        self._bad = self._all = self._was_bad = self._was_all = 0

    def count(self, is_bad: bool, *, now_s: float, window_s: float) -> tuple[int, int]:
        """Adds one attempt. Returns how many were bad, and how many there were."""
        age_s = now_s - self._since_s
        if age_s >= window_s / 2:
            is_recent = age_s < window_s
            self._was_bad, self._was_all = (self._bad, self._all) if is_recent else (0, 0)
            self._bad = self._all = 0
            self._since_s = now_s
        self._bad += is_bad
        self._all += 1
        return self._bad + self._was_bad, self._all + self._was_all
