"""A transport and a receiver in memory, for connections without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from lightship.transport.connection import Connection, ResponseHead
from lightship.transport.errors import TransportError


class FakeTransport(asyncio.Transport):
    """Remembers what was done with it; closing it takes effect at once."""

    def __init__(self, protocol: asyncio.BaseProtocol | None = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.is_reading_now = True
        self.is_closed = False
        self.buffer_bytes = 0

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.buffer_bytes

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        assert self.is_reading_now
        self.is_reading_now = False

    def resume_reading(self) -> None:
        assert not self.is_reading_now
        self.is_reading_now = True

    def abort(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True


class RecordingReceiver:
    """What came of one answer."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.chunks: list[bytes] = []
        self.ends: list[TransportError | None] = []
        self.on_body: Callable[[], None] = lambda: None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def head_received(self, head: ResponseHead) -> None:
        assert self.head is None
        self.head = head

    def body_received(self, chunk: bytes) -> None:
        assert chunk
        assert self.head is not None
        assert not self.ends
        self.chunks.append(chunk)
        self.on_body()

    def response_ended(self, error: TransportError | None) -> None:
        self.ends.append(error)


class Wire:
    """A connection with both of its ends in hand."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.closed: list[Connection] = []
        self.connection = Connection(on_idle=self.idle.append, on_closed=self.closed.append)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)

    def exchange(self, *pieces: bytes, then_closes: bool = False) -> RecordingReceiver:
        """Sends a request and lets the server answer with these reads of the socket."""
        receiver = RecordingReceiver()
        self.connection.request(b"request", receiver)
        self.feed(*pieces)
        if then_closes and not self.transport.is_closed:
            self.connection.connection_lost(None)
        return receiver

    def feed(self, *pieces: bytes) -> None:
        """What the server sends."""
        for piece in pieces:
            if piece and not self.transport.is_closed:
                self.connection.data_received(piece)
