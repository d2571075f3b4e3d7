"""Ends work for a client that has left, at once and without a task that watches for it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive, Scope

from lightship.serving.http_exchange import EXTENSION, HttpExchange


class ClientGoneError(Exception):
    """The client closed its connection before its answer was complete."""


class CancelledWhenGone:
    """A block that is cancelled when the client leaves; it then raises ClientGoneError.

    Enter it when the body has been read. With our own server the connection calls back; with any other ASGI server a
    task waits for its message.

    Args:
        scope: Of the request.
        receive: Of the request; nobody else may call it from now on.
    """

    __slots__ = ("_exchange", "_has_left", "_num_cancelling", "_receive", "_task", "_watcher")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._exchange: HttpExchange | None = scope.get("extensions", {}).get(EXTENSION)
        self._receive = receive
        self._has_left = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._num_cancelling = task.cancelling()
        if self._exchange is None:
            self._watcher = asyncio.create_task(self._watch())
        elif self._exchange.is_gone:
            raise ClientGoneError
        else:
            self._exchange.on_disconnect(self._leave)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            self._exchange.on_disconnect(None)
        if self._watcher is not None:
            await self._end_watcher(self._watcher)
        is_ours = self._has_left and self._task.uncancel() <= self._num_cancelling
        if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise ClientGoneError from error

    def _leave(self) -> None:
        self._has_left = True
        self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass  # an empty rest of the body
        self._leave()

    async def _end_watcher(self, watcher: asyncio.Task[None]) -> None:
        watcher.cancel()
        await asyncio.wait([watcher])
        if not watcher.cancelled():
            watcher.result()  # `receive` failed
