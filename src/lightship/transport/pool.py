"""Connections to servers, kept for the next request while they are fresh.

Not limited in number: a request that waits in a client's pool is invisible; what limits requests is above. What is
bounded is the number of connections that are kept idle, and for how long.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from types import TracebackType
from typing import Self

from lightship.transport.connection import Connection
from lightship.transport.errors import ConnectError, ConnectionLostError, ConnectTimeoutError
from lightship.transport.origin import Origin

# Below the 5 s after which common servers close an idle connection, so that a request rarely meets the close.
IDLE_LIMIT_S = 4.0
# Per server. A crowd of streams that ends at once leaves no more behind; each is a socket here and one there.
MAX_IDLE = 256


class OriginConnections:
    """Connections to one server, the one used last first.

    Args:
        origin: The server.
        idle_limit_s: An unused connection is closed after this.
        max_idle: More unused ones than this are not kept.
        ssl_context: For `https`; the system's certificate authorities when it is not given.
        resolves_once: Whether the host's addresses are looked up for the first connection only. Where it is not, a
            server that moves is found; where it is, name service plays no part in later latencies.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        idle_limit_s: float = IDLE_LIMIT_S,
        max_idle: int = MAX_IDLE,
        ssl_context: ssl.SSLContext | None = None,
        resolves_once: bool = False,
    ) -> None:
        self.origin = origin
        self._resolves_once = resolves_once
        self._addresses: list[str] = []
        self._idle_limit_s = idle_limit_s
        self._max_idle = max_idle
        self._ssl = (ssl_context or ssl.create_default_context()) if origin.is_tls else None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def num_open(self) -> int:
        """Connections in use or kept."""
        return len(self._open)

    @property
    def num_idle(self) -> int:
        """Connections kept for the next request."""
        return len(self._idle)

    def take_idle(self) -> Connection | None:
        """A kept connection that is fresh enough, or None."""
        if not self._idle:
            return None
        oldest_s = asyncio.get_running_loop().time() - self._idle_limit_s
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.idle_since_s > oldest_s:
                return connection
            connection.abort()
        return None

    async def connect(self, *, timeout_s: float) -> Connection:
        """A new connection.

        Raises: ConnectError, ConnectTimeoutError; ConnectionLostError: the server closed it at once.
        """
        origin = self.origin
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connect_to_any()
        except TimeoutError as error:
            raise ConnectTimeoutError(f"{origin}: no connection within {timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{origin}: {error}") from error
        if not connection.is_usable:
            raise ConnectionLostError(f"{origin}: the server closed the connection as soon as it was made")
        self._open.add(connection)
        return connection

    async def aclose(self) -> None:
        """Effects: closes every connection, whatever is under way on it, and returns when they are gone."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        while self._open:
            self._gone.clear()
            await self._gone.wait()

    async def _connect_to_any(self) -> Connection:
        if not self._resolves_once:
            return await self._connect_to(self.origin.host)
        if not self._addresses:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_STREAM)
            self._addresses = [str(address[0]) for *_, address in found]
        for index, address in enumerate(self._addresses):
            try:
                connection = await self._connect_to(address)
            except OSError:
                if index + 1 == len(self._addresses):
                    raise
                continue
            self._addresses = self._addresses[index:]  # those before did not answer
            return connection
        raise OSError(errno.EADDRNOTAVAIL, "the host has no address")

    async def _connect_to(self, host: str) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            self._new_connection,
            host,
            self.origin.port,
            ssl=self._ssl,
            server_hostname=self.origin.host if self._ssl is not None else None,
        )
        return connection

    def _new_connection(self) -> Connection:
        return Connection(on_idle=self._keep, on_closed=self._forget)

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) >= self._max_idle:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_limit_s, self._close_stale)

    def _close_stale(self) -> None:
        """Closes what nobody used for too long, from the oldest on."""
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - self._idle_limit_s
        self._sweep = None
        fresh = [connection for connection in self._idle if connection.is_usable]
        stale = [connection for connection in fresh if connection.idle_since_s <= oldest_s]
        self._idle = [connection for connection in fresh if connection.idle_since_s > oldest_s]
        for connection in stale:
            connection.abort()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since_s + self._idle_limit_s, self._close_stale)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._gone.set()


class ConnectionPool:
    """Connections to any number of servers, closed together.

    Args:
        idle_limit_s: See `OriginConnections`.
        max_idle: See `OriginConnections`; per server.
        ssl_context: See `OriginConnections`.
    """

    def __init__(
        self,
        *,
        idle_limit_s: float = IDLE_LIMIT_S,
        max_idle: int = MAX_IDLE,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._idle_limit_s = idle_limit_s
        self._max_idle = max_idle
        self._ssl_context = ssl_context
        self._origins: dict[Origin, OriginConnections] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._origins.values():
            await connections.aclose()

    def to(self, origin: Origin) -> OriginConnections:
        """The connections to a server; the same object each time it is asked for."""
        connections = self._origins.get(origin)
        if connections is None:
            if origin.is_tls and self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()  # once for all: reading the authorities takes long
            connections = self._origins[origin] = OriginConnections(
                origin, idle_limit_s=self._idle_limit_s, max_idle=self._max_idle, ssl_context=self._ssl_context
            )
        return connections
