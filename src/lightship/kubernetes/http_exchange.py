"""Requests to an API server over sockets, by aiohttp: TLS with client certificates, proxies, kept connections."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from lightship.kubernetes.errors import UnreachableError
from lightship.kubernetes.exchange import ApiRequest

# A leader has a few watches and a few calls under way; what is above waits, within its own time limit.
_MAX_CONNECTIONS = 32


class HttpExchange:
    """An `Exchange` with one server.

    Args:
        server: `https://HOST:PORT`, with a path in front of all others where there is one.
        ssl_context: For `https`.
        server_hostname: The name its certificate is for, where that is not the address's.
        proxy: Address of a proxy; "" takes none.
        connect_limit_s: Longest time for a connection, name look-up and TLS included.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        server: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str = "",
        proxy: str = "",
        connect_limit_s: float = 5.0,
    ) -> None:
        self.server = server.rstrip("/")
        self._ssl = ssl_context
        self._server_hostname = server_hostname
        self._proxy = proxy
        self._connect_limit_s = connect_limit_s
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(self, request: ApiRequest) -> AsyncIterator[_HttpAnswer]:
        """See `Exchange`."""
        url = URL(self.server + request.path, encoded=True).with_query(list(request.query))
        try:
            async with self._opened().request(
                request.method,
                url,
                headers=request.headers,
                data=request.body or None,
                allow_redirects=False,
                ssl=self._ssl if self._ssl is not None else True,
                server_hostname=self._server_hostname or None,
                proxy=self._proxy or None,
            ) as response:
                yield _HttpAnswer(response)
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"no answer from the API server: {_why(error)}", where=self.server) from error

    async def aclose(self) -> None:
        """See `Exchange`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, because it belongs to the loop that runs
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_limit_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _HttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self._response.headers.items()}

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._response.content.iter_any():
            yield piece


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) or type(error).__name__
