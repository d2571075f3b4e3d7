"""What a parent and its workers tell each other, over a socket pair that also says that the other one is gone.

parent -> worker   Configure   the first message, and at every reload
                   Collect     send your counts
                   Merged      the counts of all, which you asked for
worker -> parent   Started     connections are accepted
                   Configured  the configuration is in use, or why not
                   Counts      asked for, or now and then
                   WantMerged  somebody scrapes
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TypeVar

import msgspec

from lightship.gateway.config import GatewayConfig
from lightship.gateway.operation.merging import Snapshot

# Far above any snapshot; a peer that asks for more is broken.
_MAX_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct("!I")
MessageT = TypeVar("MessageT")


class Configure(msgspec.Struct, frozen=True, tag=True):
    """Use this configuration."""

    config: GatewayConfig


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Send your counts, and with them this number."""

    number: int


class Merged(msgspec.Struct, frozen=True, tag=True):
    """The counts of all; None when they could not be had."""

    number: int
    text: bytes | None


class Started(msgspec.Struct, frozen=True, tag=True):
    """Connections are accepted."""


class Configured(msgspec.Struct, frozen=True, tag=True):
    """A reload is done; `problem` says why it was not."""

    problem: str = ""


class Counts(msgspec.Struct, frozen=True, tag=True):
    """What this worker has counted so far; `number` is that of the question, None where there was none."""

    taken: Snapshot
    number: int | None = None


class WantMerged(msgspec.Struct, frozen=True, tag=True):
    """Wants a `Merged` of this number; with its own counts, which are then not asked for."""

    number: int
    taken: Snapshot


ToWorker = Configure | Collect | Merged
ToParent = Started | Configured | Counts | WantMerged
_encoder = msgspec.msgpack.Encoder()


class Channel:
    """One end of the socket pair.

    Concurrency: one task receives; any may send.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, decoder: msgspec.msgpack.Decoder[MessageT]) -> MessageT | None:
        """The next message; None when the other process is gone."""
        try:
            (num_bytes,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if num_bytes > _MAX_FRAME_BYTES:
                return None
            return decoder.decode(await self._reader.readexactly(num_bytes))
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            return None

    async def send(self, message: ToWorker | ToParent) -> None:
        """Sends it; nothing happens when the other process is gone, which `receive` tells."""
        frame = _encoder.encode(message)
        try:
            self._writer.write(_LENGTH.pack(len(frame)) + frame)
            await self._writer.drain()
        except OSError:
            return

    def close(self) -> None:
        """Effects: the other process reads the end."""
        self._writer.close()


async def open_channel(end: socket.socket) -> Channel:
    """The channel over this end, which it owns from now on."""
    reader, writer = await asyncio.open_unix_connection(sock=end)
    return Channel(reader, writer)
