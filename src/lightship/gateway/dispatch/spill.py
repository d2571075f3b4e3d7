"""How much money may still go to an upstream elsewhere: a bucket that fills evenly over the hour. Pure."""

from __future__ import annotations


class SpillBudget:
    """Dollars reserved before a request goes out and given back where it used fewer.

    The bucket holds a tenth of the hour's money, so that one burst cannot spend all of it and the hourly bound holds to
    a tenth.
    """

    __slots__ = ("_at_s", "_usd", "usd_per_hour")

    def __init__(self, usd_per_hour: float = 0.0) -> None:
        self.usd_per_hour = usd_per_hour
        self._usd: float | None = None
        self._at_s = 0.0

    def try_take(self, usd: float, now_s: float) -> bool:
        """Whether there was that much; it is then taken. Without a bound on the hour nothing is ever spent."""
        most = self.usd_per_hour / 10
        if self._usd is None:
            self._usd, self._at_s = most, now_s
        self._usd = min(most, self._usd + max(0.0, now_s - self._at_s) * self.usd_per_hour / 3600)
        self._at_s = max(self._at_s, now_s)
        if not self.usd_per_hour or usd > self._usd:
            return False
        self._usd -= usd
        return True

    def give_back(self, usd: float) -> None:
        """What was taken and not used."""
        if self._usd is not None:
            self._usd += usd
