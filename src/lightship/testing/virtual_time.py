"""Runs a coroutine in virtual time: a wait of an hour is over at once, and everything stays in order.

Only for code without sockets: nothing outside the event loop knows of the virtual time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _SkippingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer it adds the wait to `skipped_s`."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and no timer would ever end it")
        self.skipped_s += max(0.0, timeout)
        return super().select(0)


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_s


class LoopClock:
    """A `Clock` that shows the running event loop's time."""

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return asyncio.get_running_loop().time()

    def unix_s(self) -> float:
        """See `Clock`. Zero is where the loop's time is zero."""
        return asyncio.get_running_loop().time()

    async def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(duration_s)


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.

    Raises: RuntimeError: everything waits for something that cannot come.
    """
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        return runner.run(main)
