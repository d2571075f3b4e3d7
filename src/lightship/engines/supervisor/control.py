"""The supervisor's socket, to which gateway processes are connected for as long as they live.

A socket of the file system in a folder that only this user can enter; one JSON object per line. A connection that ends
takes its load with it. A line that cannot be read ends the connection, for whoever sent it is of another version.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from lightship.engines.supervisor.messages import MAX_LINE_BYTES, Loads, Seen, ToSupervisor, Wake
from lightship.engines.supervisor.supervisor import Supervisor

_LOGGER = logging.getLogger(__name__)
_DECODER = msgspec.json.Decoder(ToSupervisor)
_ENCODER = msgspec.json.Encoder()


@asynccontextmanager
async def control_folder() -> AsyncIterator[Path]:
    """A folder for the socket, gone afterwards. Paths of sockets hold 108 bytes, too few for many a data directory."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="lightship-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class ControlServer:
    """Serves gateways on one socket.

    Args:
        path: Of the socket, not there yet.

    Concurrency: one event loop; a task per connection, all of them in `running`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count(1)
        self._changed: dict[str, asyncio.Event] = {}

    def note_change(self) -> None:
        """Effects: every gateway is told how the replicas stand now."""
        for event in self._changed.values():
            event.set()

    @asynccontextmanager
    async def running(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Accepts gateways until the block ends."""
        async with asyncio.TaskGroup() as group:
            tasks: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = group.create_task(self._serve(supervisor, reader, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            server = await asyncio.start_unix_server(accept, self.path, limit=MAX_LINE_BYTES)
            try:
                yield
            finally:
                server.close()
                for task in tasks:
                    task.cancel()

    async def _serve(self, supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"gateway-{next(self._numbers)}"
        changed = self._changed[name] = asyncio.Event()
        changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._tell(supervisor, changed, writer))
                try:
                    await self._listen(supervisor, name, reader)
                finally:
                    telling.cancel()
        except* ConnectionError:
            pass  # it ended while it was told something
        finally:
            del self._changed[name]
            supervisor.forget(name)
            writer.close()

    @staticmethod
    async def _tell(supervisor: Supervisor, changed: asyncio.Event, writer: asyncio.StreamWriter) -> None:
        while True:
            await changed.wait()
            changed.clear()
            writer.write(_ENCODER.encode(supervisor.snapshot()) + b"\n")
            await writer.drain()

    @staticmethod
    async def _listen(supervisor: Supervisor, name: str, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
                if not line:
                    return
                message = _DECODER.decode(line)
            except (ValueError, msgspec.DecodeError) as error:
                _LOGGER.error("a gateway said what cannot be read, and is not listened to: %s", error)  # noqa: TRY400
                return
            match message:
                case Wake(served_model, rung):
                    supervisor.wake(served_model, rung)
                case Loads(loads):
                    supervisor.note_loads(name, loads)
                case Seen(version):
                    supervisor.note_seen(name, version)
