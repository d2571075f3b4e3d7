"""A quantile of the last few values: bounded memory, a sort once in a while instead of one per value."""

from __future__ import annotations

NUM_KEPT = 256
# Values between two sorts: a quantile of 256 values hardly moves by 16.
_NUM_BETWEEN_SORTS = 16


class RecentValues:
    """The last `NUM_KEPT` values and one quantile of them.

    >>> values = RecentValues(0.5)
    >>> for value in range(1, 102):
    ...     values.add(value)
    >>> values.quantile(at_least=100)
    51
    """

    __slots__ = ("_cached", "_num_seen", "_num_since_sort", "_quantile", "_values")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._values: list[float] = []
        self._num_seen = 0
        self._num_since_sort = 0
        self._cached: float | None = None

    def add(self, value: float) -> None:
        """Takes one value in; the oldest one goes when there are too many."""
        if len(self._values) < NUM_KEPT:
            self._values.append(value)
        else:
            self._values[self._num_seen % NUM_KEPT] = value
        self._num_seen += 1
        self._num_since_sort += 1
        if self._num_since_sort >= _NUM_BETWEEN_SORTS:
            self._cached, self._num_since_sort = None, 0

    def quantile(self, *, at_least: int) -> float | None:
        """The quantile, up to a few values late, or None before there were `at_least` values."""
        if self._num_seen < max(1, at_least):
            return None
        if self._cached is None:
            ordered = sorted(self._values)
            self._cached = ordered[min(len(ordered) - 1, int(self._quantile * len(ordered)))]
        return self._cached
