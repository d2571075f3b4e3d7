"""Keeps the connection of a stream open while its model wakes: headers and comments, which every client skips."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from lightship.ports.engine import EngineReply


class KeptAlive:
    """The opening of a call, during which its client gets a sign of life now and then while it is held.

    Args:
        opening: Of the call.
        send_sign: Sends one; the first also sends the headers, after which the status cannot change any more.
        is_held: Whether it is still held: one that is being answered needs no sign.
        interval_s: Until the first, and between two.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[EngineReply],
        *,
        send_sign: Callable[[], Awaitable[None]],
        is_held: Callable[[], bool],
        interval_s: float,
    ) -> None:
        self._opening = opening
        self._send_sign = send_sign
        self._is_held = is_held
        self._interval_s = interval_s
        self._signs: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EngineReply:
        # nearly every call is answered before the first sign is due: a timer costs a tenth of a task
        timer = asyncio.get_running_loop().call_later(self._interval_s, self._begin)
        try:
            return await self._opening.__aenter__()
        finally:
            timer.cancel()
            if self._signs is not None:
                self._signs.cancel()
                await asyncio.wait([self._signs])  # nothing else may be sent while a sign is
                if not self._signs.cancelled():
                    self._signs.exception()  # its client is gone, which whoever reads from it finds out too

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, trace)

    def _begin(self) -> None:
        self._signs = asyncio.get_running_loop().create_task(self._send_signs())

    async def _send_signs(self) -> None:
        while True:
            if self._is_held():
                await self._send_sign()
            await asyncio.sleep(self._interval_s)
