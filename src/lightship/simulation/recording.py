"""How requests end, what was decided and how things stood over time: the one place that judges and counts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from lightship.ports.engine import Outcome
from lightship.simulation.requests import Request
from lightship.simulation.scenario import RequestKind, Scenario
from lightship.simulation.statistics import LevelSeries, LogHistogram, Series, Tally

# Bins of a time series: five minutes of a day.
MOST_BINS = 288
_LEAST_BIN_S = 1.0
# Decisions that are kept word for word; the others are counted.
_MOST_DECISIONS = 5000
# Requests below which a share of them says little.
_LEAST_JUDGED = 50
# What a decision is about, where it is not a fleet.
LADDER = "ladder"

_ANSWERED = frozenset({Outcome.SERVED, Outcome.DEGRADED})
_REFUSED = frozenset({Outcome.REJECTED, Outcome.EVICTED})


class Decision(msgspec.Struct, frozen=True):
    """One decision with its reason: a number of replicas (`what` is the fleet), or a step of a ladder (`LADDER`)."""

    at_s: float
    region: str
    what: str
    before: int
    after: int
    reason: str
    detail: str


class DecisionList:
    """The first decisions whole, and counts of all of them."""

    def __init__(self, *, most_kept: int = _MOST_DECISIONS) -> None:
        self._most_kept = most_kept
        self.kept: list[Decision] = []
        self.by_reason: Counter[str] = Counter()
        self.num_ladder_moves = self.num_replica_changes = 0

    def note(self, decision: Decision) -> None:
        """One was made."""
        self.by_reason[decision.reason] += 1
        if decision.what == LADDER:
            self.num_ladder_moves += 1
        else:
            self.num_replica_changes += 1
        if len(self.kept) < self._most_kept:
            self.kept.append(decision)


@dataclass(frozen=True)
class Bins:
    """How time is cut."""

    bin_s: float
    num_bins: int
    end_s: float

    def series(self) -> Series:
        """Counts over it."""
        return Series(bin_s=self.bin_s, num_bins=self.num_bins)

    def levels(self) -> LevelSeries:
        """Levels over it."""
        return LevelSeries(bin_s=self.bin_s, num_bins=self.num_bins, end_s=self.end_s)


def bins_of(duration_s: float) -> Bins:
    """At most `MOST_BINS` equal ones, no shorter than a second."""
    bin_s = max(_LEAST_BIN_S, duration_s / MOST_BINS)
    return Bins(bin_s, max(1, math.ceil(duration_s / bin_s - 1e-9)), duration_s)


@dataclass
class RegionSeries:
    """What is counted over time in one region, by when a request came; `level` is the ladder's step."""

    bins: Bins
    arrivals: Series = field(init=False)
    good: Series = field(init=False)
    degraded: Series = field(init=False)
    refused: Series = field(init=False)
    failed: Series = field(init=False)
    level: LevelSeries = field(init=False)
    ttft_s: list[LogHistogram] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("arrivals", "good", "degraded", "refused", "failed"):
            setattr(self, name, self.bins.series())
        self.level = self.bins.levels()
        self.ttft_s = [LogHistogram() for _ in range(self.bins.num_bins)]

    def worst(self, *, from_s: float) -> tuple[float, float] | None:
        """(least share of one bin's requests that were good, when it began); None where no bin had enough of them."""
        shares = [
            (good / arrived, index * self.bins.bin_s)
            for index, (good, arrived) in enumerate(zip(self.good.values, self.arrivals.values, strict=True))
            if arrived >= _LEAST_JUDGED and index * self.bins.bin_s >= from_s
        ]
        return min(shares, default=None)


class Recorder:
    """Counts the requests of one region.

    Args:
        scenario: What was promised.
        client_rtt_s: Between its clients and its gateway.
    """

    def __init__(self, scenario: Scenario, *, client_rtt_s: float, bins: Bins) -> None:
        self._slo = scenario.slo
        self._priorities = scenario.priorities
        self._client_rtt_s = client_rtt_s
        self._losses = [rung.quality_loss for rung in scenario.ladder]
        self._names = [rung.name for rung in scenario.ladder]
        self._bins = bins
        self.series = RegionSeries(bins)
        self._tallies: dict[int, tuple[RequestKind, Tally]] = {}  # by identity: a kind takes long to hash
        self.num_open = 0
        """Requests that have come and not ended."""

    def tally(self, kind: RequestKind) -> Tally:
        """Of one kind of requests."""
        found = self._tallies.get(id(kind))
        if found is None:
            found = self._tallies[id(kind)] = (kind, Tally())
        return found[1]

    @property
    def tallies(self) -> list[tuple[RequestKind, Tally]]:
        """Of all kinds that have come."""
        return list(self._tallies.values())

    def arrived(self, request: Request) -> None:
        """A client's request has come."""
        self.num_open += 1
        self.series.arrivals.add(request.arrival.at_s)

    def ended(self, request: Request, outcome: Outcome, reason: str, now_s: float, *, num_tokens: int = 0) -> None:
        """The one end of a request.

        Raises: AssertionError: it has ended before.
        """
        assert not request.is_over, "a request ends once"
        request.is_over = True
        if request.on_end is not None:
            request.on_end(request, outcome, now_s)
            return  # it is counted where its client is
        self.num_open -= 1
        at_s, series = request.arrival.at_s, self.series
        is_good = outcome in _ANSWERED and self._judge(request, now_s, num_tokens)
        if is_good:
            series.good.add(at_s)
        if outcome is Outcome.DEGRADED:
            series.degraded.add(at_s)
        elif outcome in _REFUSED:
            series.refused.add(at_s)
        elif outcome is Outcome.FAILED:
            series.failed.add(at_s)
        if not request.is_counted:
            return
        tally = request.tally
        tally.num_requests += 1
        tally.outcomes[outcome] += 1
        if reason:
            tally.reasons[reason] += 1
        if outcome in _ANSWERED:
            self._count_answer(request, tally, num_tokens, is_good=is_good)

    def _count_answer(self, request: Request, tally: Tally, num_tokens: int, *, is_good: bool) -> None:
        ticket = request.ticket
        assert ticket is not None, "only what started is answered"
        tally.num_good += is_good
        tally.num_tokens += num_tokens
        tally.num_prompt_tokens += request.arrival.num_prompt_tokens
        tally.num_good_tokens += num_tokens * is_good
        tally.num_trimmed += ticket.is_trimmed
        if request.spilled_loss is not None:
            tally.num_spilled += 1
            tally.loss += request.spilled_loss
            tally.rungs["elsewhere"] += 1
        else:
            tally.loss += self._losses[ticket.rung]
            tally.rungs[self._names[ticket.rung]] += 1

    def _judge(self, request: Request, now_s: float, num_tokens: int) -> bool:
        """Whether an answer met its promise as its client saw it; notes its times.

        A stream's first token and its pace count; a whole answer's time has to be within what both would add up to.
        A class that may wait longer has so much more time to its first token.
        """
        arrival, slo = request.arrival, self._slo
        rtt_s = self._client_rtt_s + request.extra_rtt_s
        own = self._priorities.get(arrival.kind.priority)
        most_ttft_s = slo.ttft_s + ((own.max_wait_s or 0.0) if own is not None else 0.0)
        if not arrival.kind.is_streamed:
            return now_s - arrival.at_s + rtt_s <= most_ttft_s + slo.tpot_s * max(0, num_tokens - 1)
        first_s = request.first_s
        assert first_s is not None, "an answered stream has a first token"
        ttft_s = first_s - arrival.at_s + rtt_s
        index = min(int(arrival.at_s / self._bins.bin_s), self._bins.num_bins - 1)
        self.series.ttft_s[index].add(ttft_s)
        tpot_s = (now_s - first_s) / (num_tokens - 1) if num_tokens > 1 else 0.0
        if request.is_counted:
            request.tally.ttft_s.add(ttft_s)
            if num_tokens > 1:
                request.tally.tpot_s.add(tpot_s)
        return ttft_s <= most_ttft_s and tpot_s <= slo.tpot_s
