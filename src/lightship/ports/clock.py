"""Time as a dependency, so that decisions and tests never read the machine's clock themselves."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks and a sleep; tests and the simulator bring their own."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    def unix_s(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Returns after `duration_s` seconds of this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def unix_s(self) -> float:
        """See `Clock`."""
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(duration_s)
