"""How much work replicas have in flight, by own accounting: the load signal of routing.

    work of an attempt = uncached prompt tokens / prefill rate + expected output tokens / decode rate     (seconds)

The rates are those of the whole replica at its usual concurrency, so the sum over its attempts is the time it needs to
work off what it has. The prompt's part ends with the first byte, the rest when the attempt is over; in between,
`refresh` takes off what was generated. Everything is counted in whole microseconds: sums of them end at exactly zero.

What an engine's own metrics say is a correction (`engine_metrics`), never the basis: they lag, and a replica that died
looks idle in them. Health checks count nothing here.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from lightship.gateway.routing.picking import DeviceLoad, ReplicaState
from lightship.gateway.routing.recent import RecentValues
from lightship.ports.engine import TokenUsage

# Taken as the length of answers before a route has told enough of them.
UNKNOWN_OUTPUT_TOKENS = 256
_ENOUGH_ANSWERS = 20
# An answer longer than was expected has at least this much to come.
_LEAST_REMAINING_TOKENS = 16
# Own attempts that make up the mean to which foreign ones are compared.
_MEAN_OVER = 64


class OutputLengths:
    """How long answers of each route are: a quantile of the last ones.

    A route is a path and a rung of a model's ladder, so there are as many as are configured.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._recent: dict[tuple[str, str, int], RecentValues] = {}

    def note(self, path: str, *, served_model: str, rung: int, num_tokens: int) -> None:
        """An answer came to its end."""
        key = (path, served_model, rung)
        recent = self._recent.get(key)
        if recent is None:
            recent = self._recent[key] = RecentValues(self._quantile)
        recent.add(num_tokens)

    def keep(self, rungs: Container[tuple[str, int]]) -> None:
        """Effects: forgets the routes to rungs that are not among these (model, rung) pairs."""
        self._recent = {route: recent for route, recent in self._recent.items() if route[1:] in rungs}

    def expected(self, path: str, *, served_model: str, rung: int, most: int) -> int:
        """Tokens a new answer is taken to have; `most` is the request's own bound, 0 where there is none."""
        recent = self._recent.get((path, served_model, rung))
        usual = recent.quantile(at_least=_ENOUGH_ANSWERS) if recent is not None else None
        expected = UNKNOWN_OUTPUT_TOKENS if usual is None else int(usual)
        return min(expected, most) if most > 0 else expected


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Tokens a whole replica takes and makes per second."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float

    def prefill_us(self, num_tokens: float) -> int:
        """Time for that many uncached prompt tokens, in microseconds."""
        return int(num_tokens * 1e6 / self.prefill_tokens_per_s)

    def decode_us(self, num_tokens: float) -> int:
        """Time for that many output tokens, in microseconds."""
        return int(num_tokens * 1e6 / self.decode_tokens_per_s)


@dataclass(slots=True, eq=False)
class AttemptWork:
    """What one attempt still has to do, as it is counted now."""

    prefill_us: int
    decode_us: int
    num_expected_tokens: int
    usage: TokenUsage | None = None

    @property
    def total_us(self) -> int:
        """All of it."""
        return self.prefill_us + self.decode_us


class WorkLedger:
    """The attempts under way at one replica and their work, kept in its state and that of its device.

    Concurrency: one owner; every attempt that is added is removed, once.
    """

    __slots__ = ("_attempts", "_mean_us", "_rates", "_state")

    def __init__(self, state: ReplicaState, rates: TokenRates) -> None:
        self._state = state
        self._rates = rates
        self._attempts: set[AttemptWork] = set()
        self._mean_us = rates.prefill_us(UNKNOWN_OUTPUT_TOKENS) + rates.decode_us(UNKNOWN_OUTPUT_TOKENS)

    @property
    def work_us(self) -> int:
        """All work under way."""
        return sum(work.total_us for work in self._attempts)

    @property
    def mean_us(self) -> int:
        """Work of a usual attempt when it begins."""
        return self._mean_us

    def add(self, *, num_uncached_tokens: float, num_expected_tokens: int) -> AttemptWork:
        """Counts an attempt in."""
        rates, state = self._rates, self._state
        work = AttemptWork(
            rates.prefill_us(num_uncached_tokens), rates.decode_us(num_expected_tokens), num_expected_tokens
        )
        self._attempts.add(work)
        state.num_in_flight += 1
        state.device.work_us += work.total_us
        self._mean_us += (work.total_us - self._mean_us) // _MEAN_OVER
        return work

    def note_first_byte(self, work: AttemptWork, usage: TokenUsage) -> None:
        """The prompt is done; `usage` says from now on how much of the answer is."""
        self._state.device.work_us -= work.prefill_us
        work.prefill_us = 0
        work.usage = usage

    def remove(self, work: AttemptWork) -> None:
        """Counts an attempt out, however it ended."""
        self._attempts.remove(work)
        self._state.num_in_flight -= 1
        self._state.device.work_us -= work.total_us

    def refresh(self) -> None:
        """Effects: takes off what was generated since; once in a while is enough."""
        for work in self._attempts:
            if work.usage is None:
                continue
            remaining = max(_LEAST_REMAINING_TOKENS, work.num_expected_tokens - work.usage.num_output_tokens)
            decode_us = self._rates.decode_us(min(remaining, work.num_expected_tokens))
            self._state.device.work_us += decode_us - work.decode_us
            work.decode_us = decode_us

    def apply(self, rates: TokenRates, device: DeviceLoad) -> None:
        """Effects: new attempts are counted by these rates; all of them on this device."""
        self._rates = rates
        if device is not self._state.device:
            work_us = self.work_us
            self._state.device.work_us -= work_us
            device.work_us += work_us
            self._state.device = device
