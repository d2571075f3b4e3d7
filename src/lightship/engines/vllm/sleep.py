"""A vLLM server put to sleep and woken: its process stays, its GPU memory goes.

The weights are kept in host memory, so that waking is a copy (vLLM's level 1; level 2 drops them too, and whoever wakes
the server has to load weights again). The KV cache, and with it the prefix cache, is lost. The endpoints exist where
the server was started with `sleep_mode` (see `adapter`); on CPUs vLLM has none of this.
Source: vllm 0.32, entrypoints/serve/dev/sleep/api_router.py.
"""

from __future__ import annotations

from http import HTTPStatus

import aiohttp
import msgspec

from lightship.errors import EngineError

_TIMEOUT_S = 120.0  # weights of hundreds of gigabytes, at the speed of a PCIe bus


class _State(msgspec.Struct):
    is_sleeping: bool


class SleepingServer:
    """The sleep of one server.

    Args:
        base_url: Its address.
        session: Open connections; the caller closes them.
    """

    def __init__(self, base_url: str, *, session: aiohttp.ClientSession) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = session

    async def sleep(self) -> None:
        """Frees its GPU memory once what is under way has ended.

        Raises: EngineError: it cannot be reached, or cannot sleep.
        """
        await self._ask("POST", "/sleep?level=1&mode=wait")

    async def wake(self) -> None:
        """Returns when it serves again. Raises: EngineError."""
        await self._ask("POST", "/wake_up")

    async def is_sleeping(self) -> bool:
        """Whether it sleeps. Raises: EngineError."""
        body = await self._ask("GET", "/is_sleeping")
        try:
            return msgspec.json.decode(body, type=_State).is_sleeping
        except msgspec.DecodeError as error:
            raise EngineError(f"the server does not say whether it sleeps: {error}", where=self._base_url) from error

    async def _ask(self, method: str, path: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with self._session.request(method, f"{self._base_url}{path}", timeout=timeout) as reply:
                body = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            raise EngineError(f"the server cannot be reached: {said}", where=self._base_url) from error
        if reply.status == HTTPStatus.NOT_FOUND:
            hint = "Start it with sleep_mode, on a GPU."
            raise EngineError("the server has no sleep mode", where=self._base_url, hint=hint)
        if reply.status != HTTPStatus.OK:
            said = body[:300].decode(errors="replace")
            raise EngineError(f"the server answered {reply.status} to {path}: {said}", where=self._base_url)
        return body
