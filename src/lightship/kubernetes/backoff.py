"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses that double from try to try, up to a bound, with half of each drawn by lot.

    The lot keeps many clients of a server that comes back from coming back together.

    Args:
        first_s: Longest first pause.
        most_s: Longest pause of all.
        draw: Random numbers in [0, 1).
    """

    def __init__(
        self, *, first_s: float = 0.5, most_s: float = 30.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self.num_failures = 0

    def next_s(self) -> float:
        """The pause after one more failure, in seconds.

        >>> pauses = Backoff(first_s=1.0, most_s=4.0, draw=lambda: 0.5)
        >>> [pauses.next_s() for _ in range(4)]
        [0.75, 1.5, 3.0, 3.0]
        """
        longest_s = min(self._most_s, self._first_s * 2.0 ** min(self.num_failures, 32))
        self.num_failures += 1
        return longest_s * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        """Effects: the next failure counts as the first."""
        self.num_failures = 0
