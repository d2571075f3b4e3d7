"""A small real HTTP server that plays the scripts of `fake_engine`, faults included, on a free port of this machine.

Written on bare streams: a proper HTTP server cannot be made to close in the middle of a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from lightship.ports.engine import EngineCall
from lightship.testing.fake_engine import FakeReply, Fault, Script
from lightship.wire.requests import RequestHead


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came over the socket; header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class FakeUpstream:
    """The server's side of the script: what came in, and what is under way.

    `num_open` counts replies under way, `num_abandoned` those whose client left before their end; `changed` is set
    whenever one of them changes. `health_status` answers readiness probes; None closes without an answer. Probes of
    `missing_paths` get 404 instead. `metrics` is the body of `/metrics`; None answers 404.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[ReceivedRequest] = []
        self.num_open = 0
        self.num_abandoned = 0
        self.num_connections = 0
        self.health_status: int | None = 200
        self.missing_paths: frozenset[str] = frozenset()
        self.metrics: bytes | None = None
        self.changed = asyncio.Event()
        self.base_url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_for_abandoned(self, count: int) -> None:
        """Returns once that many replies were given up by their client."""
        while self.num_abandoned < count:
            self.changed.clear()
            await self.changed.wait()

    async def wait_for_requests(self, count: int) -> None:
        """Returns once that many requests (probes left out) have come."""
        while len(self.requests) < count:
            self.changed.clear()
            await self.changed.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeUpstream]:
        """Listens at `base_url` until the block ends; connections still open are cut then."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.base_url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.num_connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(await _read_request(reader), reader, writer)
        finally:
            writer.close()

    async def _exchange(
        self, request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if request.method == "GET":
            if request.path.endswith("/metrics"):
                await self._answer_metrics(writer)
            else:
                await self._answer_probe(request.path, writer)
            return
        self.requests.append(request)
        self.num_open += 1
        self.changed.set()
        is_complete = False
        try:
            await self._play(self.script(_call(request)), reader, writer)
            is_complete = True
        finally:
            self.num_open -= 1
            self.num_abandoned += not is_complete
            self.changed.set()

    async def _answer_metrics(self, writer: asyncio.StreamWriter) -> None:
        body = self.metrics or b""
        status = 404 if self.metrics is None else 200
        writer.write(_head(status, {"content-length": str(len(body))}) + body)
        await writer.drain()

    async def _answer_probe(self, path: str, writer: asyncio.StreamWriter) -> None:
        status = 404 if path in self.missing_paths else self.health_status
        if status is None:
            raise ConnectionAbortedError("scripted")
        writer.write(_head(status, {"content-length": "0"}))
        await writer.drain()

    async def _play(self, reply: FakeReply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _pass(reply.first_gate, reader)
        if reply.fault is Fault.HANG:
            await _pass(asyncio.Event(), reader)
        if reply.fault is Fault.CLOSE_BEFORE_FIRST_BYTE:
            raise ConnectionAbortedError("scripted")
        framing = {"transfer-encoding": "chunked"} if reply.is_chunked else {"content-length": _length(reply)}
        writer.write(_head(reply.status, {**reply.headers, **framing}))
        for position, chunk in enumerate(reply.chunks):
            if position:
                await _pass(reply.next_gate, reader)
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk) if reply.is_chunked else chunk)
            await writer.drain()
        if reply.fault is Fault.STALL_AFTER_CHUNKS:
            await _pass(asyncio.Event(), reader)
        if reply.fault is Fault.CLOSE_AFTER_CHUNKS:
            raise ConnectionAbortedError("scripted")
        writer.write(b"0\r\n\r\n" if reply.is_chunked else b"")
        await writer.drain()


def _length(reply: FakeReply) -> str:
    missing = 1 if reply.fault in {Fault.CLOSE_AFTER_CHUNKS, Fault.STALL_AFTER_CHUNKS} else 0
    return str(len(reply.body) + missing)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest:
    request_line, *header_lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    method, path, _ = request_line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in header_lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, path, headers, body)


def _call(request: ReceivedRequest) -> EngineCall:
    head = msgspec.json.decode(request.body, type=RequestHead)
    return EngineCall(
        path=request.path,
        body=request.body,
        request_id=request.headers.get("x-request-id", ""),
        model=head.model or "",
        is_streaming=bool(head.stream),
        headers=request.headers,
    )


async def _pass(gate: asyncio.Event | None, reader: asyncio.StreamReader) -> None:
    """Returns when the gate is open. Raises: ConnectionResetError: the client left first."""
    if gate is None:
        return
    async with asyncio.TaskGroup() as group:
        opened, left = group.create_task(gate.wait()), group.create_task(reader.read(1))
        await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
        is_open = opened.done()
        opened.cancel()
        left.cancel()
    if not is_open:
        raise ConnectionResetError("the client left")
