"""What the next request will see, from what the last ones saw: straight lines with a short memory. Pure.

Time to first token grows with the prompt tokens that have to be computed before it, time per output token with the
number of sequences that are decoded together. Both are close to linear over the range an engine is used in, and a line
is learned from a few dozen requests. A table of past loads would need one request per cell and could not say what
happens one step further.
"""

from __future__ import annotations

from math import exp

# A past observation counts half after this many later ones: enough to smooth, short enough to follow a change of load.
_HALF_LIFE = 64
_KEEP = 0.5 ** (1 / _HALF_LIFE)
# Observations before a line is believed; until then nothing is known.
_LEAST_WEIGHT = 8.0


class LearnedLine:
    """y = intercept + slope * x by least squares with exponential forgetting; neither is ever below zero.

    >>> line = LearnedLine()
    >>> for x in range(20): line.learn(x, 3 + 2 * x)
    >>> round(line.predict(100), 6)
    203.0
    """

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._n = 0.0
        self._x = 0.0
        self._y = 0.0
        self._xx = 0.0
        self._xy = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was seen."""
        return self._n >= _LEAST_WEIGHT

    def learn(self, x: float, y: float) -> None:
        """Takes in one observation."""
        self._n = self._n * _KEEP + 1
        self._x = self._x * _KEEP + x
        self._y = self._y * _KEEP + y
        self._xx = self._xx * _KEEP + x * x
        self._xy = self._xy * _KEEP + x * y

    def predict(self, x: float) -> float:
        """The line at `x`; 0 while nothing is known."""
        if not self.is_known:
            return 0.0
        n = self._n
        x_mean, y_mean = self._x / n, self._y / n
        spread = self._xx / n - x_mean * x_mean
        slope = 0.0 if spread <= 1e-9 * max(1.0, x_mean * x_mean) else (self._xy / n - x_mean * y_mean) / spread
        if slope < 0:
            return y_mean
        if y_mean - slope * x_mean < 0:  # a line through the origin fits better than a negative start
            slope = y_mean / x_mean if x_mean else 0.0
            return slope * x
        return y_mean + slope * (x - x_mean)


class DecayingRate:
    """Events per second over the last `time_constant_s` or so; a pure function of event times.

    >>> rate = DecayingRate(time_constant_s=1.0)
    >>> for event in range(1000): rate.note(event / 100)
    >>> round(rate.per_s(9.99))
    100
    """

    __slots__ = ("_at_s", "_first_s", "_tau_s", "_value")

    def __init__(self, *, time_constant_s: float) -> None:
        self._tau_s = time_constant_s
        self._value = 0.0
        self._at_s = 0.0
        self._first_s: float | None = None

    def note(self, now_s: float, weight: float = 1.0) -> None:
        """One event (or `weight` of them) at `now_s`."""
        if self._first_s is None:
            self._first_s = self._at_s = now_s
        self._decay_to(now_s)
        self._value += weight

    def per_s(self, now_s: float) -> float:
        """The rate; young histories are scaled up to what they would have become."""
        if self._first_s is None:
            return 0.0
        self._decay_to(now_s)
        age_s = now_s - self._first_s
        fill = 1 - exp(-age_s / self._tau_s) if age_s < 8 * self._tau_s else 1.0
        return self._value / (self._tau_s * max(fill, 0.05))

    def _decay_to(self, now_s: float) -> None:
        passed_s = now_s - self._at_s
        if passed_s > 0:
            self._value *= exp(-passed_s / self._tau_s)
            self._at_s = now_s


class DecayingShare:
    """Share of the events of the last `time_constant_s` or so that were as they should be.

    >>> share = DecayingShare(time_constant_s=30.0)
    >>> for event in range(100): share.note(event % 4 > 0, now_s=event / 10)
    >>> round(share.share(10.0, at_least=8) or 0, 1)
    0.8
    """

    __slots__ = ("_all", "_at_s", "_good", "_tau_s")

    def __init__(self, *, time_constant_s: float) -> None:
        self._tau_s = time_constant_s
        self._good = 0.0
        self._all = 0.0
        self._at_s = 0.0

    def note(self, is_good: bool, now_s: float) -> None:
        """One event."""
        self._decay_to(now_s)
        self._good += is_good
        self._all += 1.0

    def share(self, now_s: float, *, at_least: float) -> float | None:
        """The share; None where fewer than `at_least` events are left of what was seen."""
        self._decay_to(now_s)
        return None if self._all < at_least else self._good / self._all

    def _decay_to(self, now_s: float) -> None:
        keep = exp(-max(0.0, now_s - self._at_s) / self._tau_s)
        self._good *= keep
        self._all *= keep
        self._at_s = max(self._at_s, now_s)
