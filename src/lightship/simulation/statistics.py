"""What came of the requests, counted while they go by: memory grows with bins and kinds, never with requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from lightship.ports.engine import Outcome

# Two bins of a histogram are so far apart: a quantile is right to half of that.
_RATIO = 1.02
_LOG_RATIO = math.log(_RATIO)
_LEAST = 1e-5
_MOST_BINS = 1500  # up to about eight years in seconds


class LogHistogram:
    """Positive numbers in bins of equal ratio; quantiles are right to one percent.

    >>> histogram = LogHistogram()
    >>> for value in range(1, 1001): histogram.add(value / 1000)
    >>> round(histogram.quantile(0.5), 2)
    0.5
    """

    __slots__ = ("_bins", "count", "total")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one number."""
        index = int(math.log(value / _LEAST) / _LOG_RATIO) if value > _LEAST else 0
        index = min(index, _MOST_BINS)
        self._bins[index] = self._bins.get(index, 0) + 1
        self.count += 1
        self.total += value

    def merge(self, other: LogHistogram) -> None:
        """Counts all that the other has counted."""
        for index, count in other._bins.items():
            self._bins[index] = self._bins.get(index, 0) + count
        self.count += other.count
        self.total += other.total

    @property
    def mean(self) -> float | None:
        """Of all numbers; None without any."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The number that so many are not above; None without any."""
        left = share * self.count
        for index in sorted(self._bins):
            left -= self._bins[index]
            if left <= 0:
                return float(_LEAST * _RATIO ** (index + 0.5))
        return None


class Tally:
    """The requests of one kind."""

    __slots__ = (
        "loss", "num_good", "num_good_tokens", "num_prompt_tokens", "num_requests", "num_spilled", "num_tokens",
        "num_trimmed", "outcomes", "reasons", "rungs", "tpot_s", "ttft_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_requests = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        """Why not served, or not as asked."""
        self.rungs: Counter[str] = Counter()
        self.num_good = self.num_spilled = self.num_trimmed = 0
        self.num_prompt_tokens = self.num_tokens = self.num_good_tokens = 0
        self.loss = 0.0
        self.ttft_s = LogHistogram()
        self.tpot_s = LogHistogram()

    def merge(self, other: Tally) -> None:
        """Adds all of the other."""
        for name in ("num_requests", "num_good", "num_spilled", "num_trimmed", "num_prompt_tokens", "num_tokens",
                     "num_good_tokens", "loss"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("outcomes", "reasons", "rungs"):
            getattr(self, name).update(getattr(other, name))
        self.ttft_s.merge(other.ttft_s)
        self.tpot_s.merge(other.tpot_s)

    @property
    def num_answered(self) -> int:
        """Served as asked or degraded."""
        return self.outcomes[Outcome.SERVED] + self.outcomes[Outcome.DEGRADED]

    @property
    def attainment(self) -> float | None:
        """Share of all requests but those whose client left that met the promise; what was refused did not."""
        num_judged = self.num_requests - self.outcomes[Outcome.CANCELLED]
        return self.num_good / num_judged if num_judged else None

    @property
    def degraded_share(self) -> float | None:
        """Of the answers."""
        return self.outcomes[Outcome.DEGRADED] / self.num_answered if self.num_answered else None

    @property
    def mean_loss(self) -> float | None:
        """Share of the reference's quality that was lost over all answers."""
        return self.loss / self.num_answered if self.num_answered else None


def together(tallies: Iterable[Tally]) -> Tally:
    """The sum of several."""
    found = Tally()
    for one in tallies:
        found.merge(one)
    return found


class Series:
    """Counts over time in equal bins; what comes after the last one counts there."""

    __slots__ = ("_bin_s", "values")

    def __init__(self, *, bin_s: float, num_bins: int) -> None:
        self._bin_s = bin_s
        self.values = [0.0] * num_bins

    def add(self, at_s: float, amount: float = 1.0) -> None:
        """Counts at a time."""
        index = int(at_s / self._bin_s)
        self.values[min(index, len(self.values) - 1)] += amount


class LevelSeries:
    """The mean of a level (replicas, a ladder's step) over each bin, and its integral; counting ends at `end_s`."""

    __slots__ = ("_bin_s", "_since_s", "end_s", "integrals", "level")

    def __init__(self, *, bin_s: float, num_bins: int, end_s: float) -> None:
        self._bin_s = bin_s
        self.end_s = end_s
        self._since_s = 0.0
        self.level = 0.0
        self.integrals = [0.0] * num_bins

    def set(self, at_s: float, level: float) -> None:
        """From now on it is so high."""
        if level == self.level:
            return
        self._pass_to(at_s)
        self.level = level

    def total(self) -> float:
        """Level times seconds, up to the end; to be asked when time is over."""
        self._pass_to(self.end_s)
        return math.fsum(self.integrals)

    def means(self) -> list[float]:
        """Of each bin; to be asked when time is over."""
        self._pass_to(self.end_s)
        found = []
        for index, integral in enumerate(self.integrals):
            length_s = min(self._bin_s, self.end_s - index * self._bin_s)
            found.append(integral / length_s if length_s > 1e-9 else 0.0)
        return found

    def _pass_to(self, at_s: float) -> None:
        at_s = min(at_s, self.end_s)
        now_s, level = self._since_s, self.level
        last = len(self.integrals) - 1
        while now_s < at_s:
            index = min(last, int(now_s / self._bin_s))
            if index < last and (index + 1) * self._bin_s <= now_s:  # rounding put the border behind us
                index += 1
            border_s = at_s if index == last else min(at_s, (index + 1) * self._bin_s)
            self.integrals[index] += level * (border_s - now_s)
            now_s = border_s
        self._since_s = max(self._since_s, at_s)
