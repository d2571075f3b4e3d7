"""HTTP of the load client against a server on bare sockets, which can do what proper servers cannot."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.answers import EndpointError
from lightship.evaluation.performance.connections import HttpCompletions
from lightship.evaluation.performance.records import ErrorKind


class Collected:
    """A receiver that keeps everything; fails at the part named."""

    def __init__(self, *, failing_at: int | None = None) -> None:
        self.status = 0
        self.parts: list[bytes] = []
        self._failing_at = failing_at

    def start(self, status: int) -> None:
        self.status = status

    def receive(self, chunk: bytes) -> None:
        self.parts.append(chunk)
        if len(self.parts) == self._failing_at:
            raise EndpointError(ErrorKind.MALFORMED, "enough")

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


class SocketServer:
    """Answers the n-th request of a connection with the parts scripted for it; closes where the script ends."""

    def __init__(self, *answers: list[bytes], stays_open: bool = True) -> None:
        self._answers = answers
        self._stays_open = stays_open
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.first_lines: list[str] = []
        self.num_connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            for parts in self._answers:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                self.first_lines.append(head[0])
                self.requests.append((headers, body))
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
            if self._stays_open:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


Work = Callable[[HttpCompletions], Awaitable[None]]


def run(server: SocketServer, work: Work, *, path: str = "", headers: dict[str, str] | None = None) -> None:
    async def main() -> None:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, HttpCompletions(f"http://127.0.0.1:{port}{path}", headers=headers) as endpoint:
            await work(endpoint)

    asyncio.run(asyncio.wait_for(main(), 20))


def exchanged(*parts: bytes, stays_open: bool = True, failing_at: int | None = None) -> Collected | EndpointError:
    """What one exchange gives."""
    found: list[Collected | EndpointError] = []

    async def work(endpoint: HttpCompletions) -> None:
        receiver = Collected(failing_at=failing_at)
        try:
            await endpoint.exchange(b"{}", receiver)
            found.append(receiver)
        except EndpointError as error:
            found.append(error)

    run(SocketServer(list(parts), stays_open=stays_open), work)
    return found[0]


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


def test_exchange_sends_one_plain_request_with_the_headers_given() -> None:
    server = SocketServer([CHUNKED])

    async def work(endpoint: HttpCompletions) -> None:
        receiver = Collected()
        await endpoint.exchange(b'{"a":1}', receiver)
        assert (receiver.status, receiver.body) == (200, b"abcde")
        assert endpoint.base_url.endswith("/proxy")

    run(server, work, path="/proxy/v1/", headers={"Authorization": "Bearer k"})
    ((headers, body),) = server.requests
    assert server.first_lines == ["POST /proxy/v1/completions HTTP/1.1"]
    assert body == b'{"a":1}'
    assert headers["authorization"] == "Bearer k"
    assert headers["content-type"] == "application/json"
    assert headers["host"].startswith("127.0.0.1:")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, len(CHUNKED) - 1), max_size=6))
def test_exchange_any_split_of_the_answer_gives_the_same_body(cuts: list[int]) -> None:
    borders = [0, *sorted(set(cuts)), len(CHUNKED)]
    parts = [CHUNKED[start:end] for start, end in pairwise(borders)]
    found = exchanged(*parts)
    assert isinstance(found, Collected)
    assert found.body == b"abcde"


def test_exchange_connection_is_used_again_one_after_the_other() -> None:
    server = SocketServer([CHUNKED], [CHUNKED], [CHUNKED])

    async def work(endpoint: HttpCompletions) -> None:
        for _ in range(3):
            await endpoint.exchange(b"{}", Collected())

    run(server, work)
    assert (len(server.requests), server.num_connections) == (3, 1)


def test_exchange_many_at_a_time_have_a_connection_each() -> None:
    server = SocketServer([CHUNKED])

    async def work(endpoint: HttpCompletions) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(150):
                group.create_task(endpoint.exchange(b"{}", Collected()))

    run(server, work)
    assert server.num_connections == 150


def test_exchange_connection_that_the_server_closes_is_not_used_again() -> None:
    closing = CHUNKED.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    server = SocketServer([closing], stays_open=False)

    async def work(endpoint: HttpCompletions) -> None:
        for _ in range(2):
            await endpoint.exchange(b"{}", Collected())

    run(server, work)
    assert server.num_connections == 2


def test_exchange_idle_connection_lost_is_replaced() -> None:
    server = SocketServer([CHUNKED], stays_open=False)  # closes after the answer without having said so

    async def work(endpoint: HttpCompletions) -> None:
        for _ in range(2):
            await endpoint.exchange(b"{}", Collected())
            await server.closed.wait()
            server.closed.clear()
            for _ in range(5):
                await asyncio.sleep(0)

    run(server, work)
    assert server.num_connections == 2


def test_exchange_interim_answer_is_passed_over() -> None:
    found = exchanged(b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED)
    assert isinstance(found, Collected)
    assert (found.status, found.body) == (200, b"abcde")


def test_exchange_body_that_ends_with_the_connection_is_complete() -> None:
    found = exchanged(b"HTTP/1.1 200 OK\r\n\r\nabc", b"de", stays_open=False)
    assert isinstance(found, Collected)
    assert found.body == b"abcde"


CUT = [
    ("nothing at all", [], "server closed the connection before"),
    ("within the headers", [b"HTTP/1.1 200 OK\r\nserver: x"], "before the answer was complete"),
    ("within a chunk", [CHUNKED[:60]], "before the answer was complete"),
    ("before the last chunk", [CHUNKED[:-5]], "before the answer was complete"),
    ("within a counted body", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"], "before the answer was complete"),
]


@pytest.mark.parametrize(("parts", "detail"), [case[1:] for case in CUT], ids=[case[0] for case in CUT])
def test_exchange_cut_answer_is_truncated(parts: list[bytes], detail: str) -> None:
    found = exchanged(*parts, stays_open=False)
    assert isinstance(found, EndpointError)
    assert found.kind is ErrorKind.TRUNCATED
    assert detail in found.detail


MALFORMED = [
    ("not http", b"SSH-2.0-OpenSSH\r\n", "not an HTTP answer"),
    ("bad chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not an HTTP answer"),
    ("compressed", b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nab", "compressed, unasked"),
    ("upgrade", b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: ws\r\n\r\n", "not an HTTP answer"),
]


@pytest.mark.parametrize(("answer", "detail"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_exchange_answer_that_is_no_http_is_malformed(answer: bytes, detail: str) -> None:
    found = exchanged(answer)
    assert isinstance(found, EndpointError)
    assert found.kind is ErrorKind.MALFORMED
    assert detail in found.detail


def test_exchange_receivers_refusal_ends_it_and_closes_the_connection() -> None:
    server = SocketServer([CHUNKED[:50], CHUNKED[50:]])

    async def work(endpoint: HttpCompletions) -> None:
        with pytest.raises(EndpointError, match="enough"):
            await endpoint.exchange(b"{}", Collected(failing_at=1))
        await server.closed.wait()

    run(server, work)


def test_exchange_rubbish_behind_a_good_answer_costs_the_connection_only() -> None:
    server = SocketServer([CHUNKED + b"HTTP/1.1 200 OK\r\n"], stays_open=True)

    async def work(endpoint: HttpCompletions) -> None:
        for _ in range(2):
            receiver = Collected()
            await endpoint.exchange(b"{}", receiver)
            assert receiver.body == b"abcde"

    run(server, work)
    assert server.num_connections == 2


def test_exchange_cancelled_closes_its_connection() -> None:
    server = SocketServer([CHUNKED[:50]])

    async def work(endpoint: HttpCompletions) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await endpoint.exchange(b"{}", Collected())
        await server.closed.wait()

    run(server, work)


def test_exchange_works_on_uvloop_whose_transports_are_its_own() -> None:
    server_parts = json.dumps("x").encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(server_parts), server_parts)

    async def main() -> bytes:
        server = SocketServer([answer], [answer])
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, HttpCompletions(f"http://localhost:{port}") as endpoint:
            first, second = Collected(), Collected()
            await endpoint.exchange(b"{}", first)
            await endpoint.exchange(b"{}", second)
            assert server.num_connections == 1
            return first.body + second.body

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(main(), 20)) == server_parts * 2


def test_exchange_no_descriptors_left_is_this_machines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def refuse(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        async with HttpCompletions("http://127.0.0.1:9") as endpoint:
            with pytest.raises(MeasurementError, match="opens no more connections, at 0 of them: Too many open files"):
                await endpoint.exchange(b"{}", Collected())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "not the address of an endpoint"),
        ("ftp://x", "not the address of an endpoint"),
        ("http://", "not the address of an endpoint"),
        ("http://x:99999", "not the address of an endpoint: Port out of range"),
        ("http://x/v1?key=3", "not the address of an endpoint"),
    ],
)
def test_endpoint_senseless_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        HttpCompletions(url)


def test_endpoint_credentials_in_the_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(MeasurementError) as caught:
        HttpCompletions("https://me:secret@x/v1")
    assert "secret" not in str(caught.value)


def test_endpoint_header_with_a_line_end_is_refused_and_not_repeated() -> None:
    with pytest.raises(MeasurementError, match="'authorization' holds characters") as caught:
        HttpCompletions("http://x", headers={"authorization": "Bearer secret\r\nx: y"})
    assert "secret" not in str(caught.value)
