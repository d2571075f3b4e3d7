"""The two ways to the fake server: a call in memory, and real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

from aiohttp import web

from lightship.kubernetes.errors import UnreachableError
from lightship.kubernetes.exchange import ApiAnswer, ApiRequest
from lightship.testing.fake_kubernetes.calls import FakeAnswer
from lightship.testing.fake_kubernetes.watching import WatchBrokenError


class ApiServer(Protocol):
    """What both ways need of the server."""

    @property
    def is_down(self) -> bool:
        """Whether it gives no answers."""
        ...

    async def handle(self, request: ApiRequest) -> FakeAnswer:
        """The answer to a request."""
        ...

    def end_watches(self) -> None:
        """Effects: all watches break off."""
        ...


class FakeExchange:
    """See `lightship.kubernetes.exchange.Exchange`. Waits are the event loop's, so it is fit for virtual time."""

    def __init__(self, fake: ApiServer) -> None:
        self._fake = fake
        self.num_tries = 0

    @asynccontextmanager
    async def open(self, request: ApiRequest) -> AsyncIterator[ApiAnswer]:
        """See `Exchange`."""
        self.num_tries += 1
        if self._fake.is_down:
            raise UnreachableError("no answer from the API server: connection refused", where="fake")
        answer = await self._fake.handle(request)
        if answer.lines is None:
            yield _MemoryAnswer(answer)
            return
        async with aclosing(answer.lines):
            yield _MemoryAnswer(answer)

    async def aclose(self) -> None:
        """See `Exchange`. There is nothing to close."""


class _MemoryAnswer:
    def __init__(self, answer: FakeAnswer) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def pieces(self) -> AsyncIterator[bytes]:
        if self._answer.lines is None:
            yield self._answer.body
            return
        try:
            async for line in self._answer.lines:
                yield line
        except WatchBrokenError:
            raise UnreachableError("the connection broke", where="fake") from None


@asynccontextmanager
async def serve(fake: ApiServer) -> AsyncIterator[str]:
    """Serves a fake on a free port of this machine, and says at which address."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if fake.is_down:
            return _cut(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = tuple((name, value) for name, value in request.query.items())
        call = ApiRequest(request.method, request.path, query, headers, await request.read())
        got = await fake.handle(call)
        if got.lines is None:
            return web.Response(status=got.status, body=got.body, headers=got.headers)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        try:
            async with aclosing(got.lines) as lines:
                async for line in lines:
                    await response.write(line)
        except WatchBrokenError:
            return _cut(request, response)
        except ConnectionError:
            return response
        await response.write_eof()
        return response

    app = web.Application(client_max_size=8 * 2**20)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        fake.end_watches()
        await asyncio.sleep(0)
        await runner.cleanup()


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Closes the connection without a proper end."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()
