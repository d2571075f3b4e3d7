"""How much quality may still be given up: a budget over a rolling window, as error budgets are kept. Pure.

A degraded answer costs one, and the share of quality its rung loses. In a window of `n` requests at most
`degraded_share * n` answers may be degraded, and the mean loss over all of them is at most `mean_loss`. Until so many
have come, `n` is what the window is expected to bring: a budget for a day must be usable in its first minute.

The window is cut into slices, and whole slices are forgotten, so that it is at most one slice too short.
"""

from __future__ import annotations

from collections import deque

from lightship.gateway.dispatch.config import QualityBudgetConfig

_NUM_SLICES = 48


class QualityBudget:
    """Counts what was served and what of it was degraded.

    `may_spend` and `spend` belong together in one step: whoever degrades an answer asks and spends before it starts,
    and gives back when nothing came of it.
    """

    __slots__ = ("_config", "_degraded", "_loss", "_slice_s", "_slices", "_total")

    def __init__(self, config: QualityBudgetConfig) -> None:
        self._config = config
        self._slice_s = config.window_s / _NUM_SLICES
        # (number of the slice, answers, degraded ones, their loss)
        self._slices: deque[list[float]] = deque()
        self._total = 0.0
        self._degraded = 0.0
        self._loss = 0.0

    @property
    def num_degraded(self) -> int:
        """Degraded answers in the window."""
        return round(self._degraded)

    @property
    def num_requests(self) -> int:
        """Answers in the window."""
        return round(self._total)

    @property
    def loss(self) -> float:
        """Sum of the losses of the degraded answers in the window, as shares of the reference's quality."""
        return self._loss

    def note_request(self, now_s: float) -> None:
        """A request was answered, on whatever rung."""
        self._slice(now_s)[1] += 1
        self._total += 1

    def may_spend(self, loss: float, now_s: float) -> bool:
        """Whether one more answer may be degraded by `loss`."""
        self._forget(now_s)
        config = self._config
        num_requests = max(self._total + 1, config.expected_requests)
        if self._degraded + 1 > config.degraded_share * num_requests + 1e-9:
            return False
        return config.mean_loss is None or self._loss + max(0.0, loss) <= config.mean_loss * num_requests + 1e-9

    def spend(self, loss: float, now_s: float) -> None:
        """An answer is degraded."""
        current = self._slice(now_s)
        current[2] += 1
        current[3] += max(0.0, loss)
        self._degraded += 1
        self._loss += max(0.0, loss)

    def give_back(self, loss: float, now_s: float) -> None:
        """One that was spent for did not happen."""
        if not self._degraded:
            return  # its slice was forgotten meanwhile, and its cost with it
        current = self._slice(now_s)
        current[2] -= 1
        current[3] -= max(0.0, loss)
        self._degraded -= 1
        self._loss -= max(0.0, loss)

    def left_share(self, now_s: float) -> float:
        """Share of the window's degraded answers that is still to be had, 0 to 1."""
        self._forget(now_s)
        allowed = self._config.degraded_share * max(self._total, self._config.expected_requests)
        return max(0.0, 1 - self._degraded / allowed) if allowed else 0.0

    def _slice(self, now_s: float) -> list[float]:
        self._forget(now_s)
        number = now_s // self._slice_s
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0.0, 0.0, 0.0])
        return self._slices[-1]

    def _forget(self, now_s: float) -> None:
        oldest = now_s // self._slice_s - _NUM_SLICES
        while self._slices and self._slices[0][0] <= oldest:
            _, total, degraded, loss = self._slices.popleft()
            self._total -= total
            self._degraded -= degraded
            self._loss -= loss
        if not self._slices:
            self._total = self._degraded = self._loss = 0.0
