from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.transport.wire import FakeTransport, RecordingReceiver

from lightship.testing.virtual_time import run_in_virtual_time
from lightship.transport.connection import Connection
from lightship.transport.errors import ConnectError, ConnectionLostError, ConnectTimeoutError
from lightship.transport.origin import parse_origin
from lightship.transport.pool import ConnectionPool, OriginConnections

ORIGIN = parse_origin("http://h:1")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Network:
    """Stands for the event loop's `create_connection`."""

    def __init__(self) -> None:
        self.transports: list[FakeTransport] = []
        self.connect: Callable[[], Awaitable[None]] = self._at_once
        self.asked: list[tuple[str, int, Any]] = []

    async def _at_once(self) -> None:
        return

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, **options: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        self.asked.append((host, port, options["server_hostname"]))
        await self.connect()
        protocol = factory()
        transport = _ClosingTransport(protocol)
        protocol.connection_made(transport)
        self.transports.append(transport)
        return transport, protocol


class _ClosingTransport(FakeTransport):
    """Tells its protocol, a little later, that it is closed."""

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            assert isinstance(self.protocol, asyncio.Protocol)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def run(scenario: Callable[[OriginConnections, Network], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        network = Network()
        loop: Any = asyncio.get_running_loop()
        loop.create_connection = network.create_connection
        async with OriginConnections(ORIGIN, **options) as connections:
            await scenario(connections, network)
        assert connections.num_open == connections.num_idle == 0
        assert all(transport.is_closed for transport in network.transports)

    run_in_virtual_time(main())


def answer(connection: Connection) -> None:
    connection.request(b"request", RecordingReceiver())
    connection.data_received(ANSWER)


def test_pool_answered_connection_is_used_again_the_latest_first() -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        first, second = [await connections.connect(timeout_s=1) for _ in range(2)]
        answer(first)
        answer(second)
        assert [connections.take_idle(), connections.take_idle(), connections.take_idle()] == [second, first, None]
        assert len(network.transports) == 2

    run(scenario)


def test_pool_idle_connections_are_closed_when_their_time_is_over() -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        first, second = [await connections.connect(timeout_s=1) for _ in range(2)]
        answer(first)
        await asyncio.sleep(3)
        answer(second)
        await asyncio.sleep(1.5)  # 4.5 s after the first, 1.5 s after the second
        assert [transport.is_closed for transport in network.transports] == [True, False]
        await asyncio.sleep(3)
        assert [transport.is_closed for transport in network.transports] == [True, True]
        assert connections.num_open == 0

    run(scenario, idle_limit_s=4.0)


def test_pool_connection_the_server_closed_is_not_given_out() -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        connection = await connections.connect(timeout_s=1)
        answer(connection)
        network.transports[0].is_closed = True
        connection.connection_lost(None)
        assert connections.take_idle() is None
        assert connections.num_open == 0

    run(scenario)


def test_pool_keeps_no_more_idle_connections_than_its_bound() -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        for connection in [await connections.connect(timeout_s=1) for _ in range(5)]:
            answer(connection)
        await asyncio.sleep(0)
        assert (connections.num_idle, connections.num_open) == (2, 2)
        assert sum(transport.is_closed for transport in network.transports) == 3

    run(scenario, max_idle=2)


def test_pool_connect_too_slow_is_a_timeout_and_leaves_nothing() -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        network.connect = asyncio.Event().wait  # type: ignore[assignment] # waits for ever
        with pytest.raises(ConnectTimeoutError, match="no connection within 2 s"):
            await connections.connect(timeout_s=2)
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.01)

    run(scenario)


@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), ssl.SSLCertVerificationError("untrusted")])
def test_pool_connect_refused_says_where_and_why(error: OSError) -> None:
    async def scenario(connections: OriginConnections, network: Network) -> None:
        async def refuse() -> None:
            raise error

        network.connect = refuse
        with pytest.raises(ConnectError, match="http://h:1: ") as caught:
            await connections.connect(timeout_s=2)
        assert not isinstance(caught.value, ConnectTimeoutError)
        assert caught.value.__cause__ is error

    run(scenario)


def test_pool_connection_closed_as_soon_as_it_is_made_is_lost() -> None:
    class Closing(Network):
        async def create_connection(self, *args: Any, **options: Any) -> tuple[asyncio.Transport, asyncio.Protocol]:
            transport, protocol = await super().create_connection(*args, **options)
            protocol.connection_lost(None)
            self.transports[0].is_closed = True
            return transport, protocol

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.create_connection = Closing().create_connection
        async with OriginConnections(ORIGIN) as connections:
            with pytest.raises(ConnectionLostError):
                await connections.connect(timeout_s=1)
            assert connections.num_open == 0

    run_in_virtual_time(main())


def test_pool_closing_ends_what_is_under_way() -> None:
    receiver = RecordingReceiver()

    async def scenario(connections: OriginConnections, network: Network) -> None:
        (await connections.connect(timeout_s=1)).request(b"request", receiver)

    run(scenario)
    assert [type(error) for error in receiver.ends] == [ConnectionLostError]


def test_pool_of_many_origins_has_one_set_of_connections_for_each() -> None:
    async def main() -> None:
        async with ConnectionPool() as pool:
            plain, tls = pool.to(ORIGIN), pool.to(parse_origin("https://h:1"))
            assert plain is pool.to(parse_origin("http://h:1"))
            assert plain is not tls

    run_in_virtual_time(main())


def test_pool_tls_names_the_host_it_verifies() -> None:
    async def main() -> None:
        network = Network()
        loop: Any = asyncio.get_running_loop()
        loop.create_connection = network.create_connection
        async with OriginConnections(parse_origin("https://[::1]:8443")) as connections:
            await connections.connect(timeout_s=1)
        assert network.asked == [("::1", 8443, "::1")]

    run_in_virtual_time(main())
