"""uvicorn's HTTP protocol with the bounds it lacks: size of the head, time until it is there, time to take an answer.

A head that is too large or malformed gets the OpenAI error object, as every other refused request does.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lightship.wire.errors import ApiError, invalid_request

# Far above what clients send, far below what hurts.
MAX_HEAD_BYTES = 64 * 2**10
# From the connection, or the first byte of a later request on it, to the end of the head.
HEAD_TIMEOUT_S = 20.0
# How long a full write buffer may stay full: who does not read has left, for the engine that works for it.
SEND_TIMEOUT_S = 30.0


def with_send_timeout(send_timeout_s: float) -> type[BoundedHttpProtocol]:
    """The protocol with another time to take an answer; uvicorn wants a class."""
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"send_timeout_s": send_timeout_s})


class BoundedHttpProtocol(HttpToolsProtocol):
    """One client connection."""

    send_timeout_s = SEND_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_head_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The write buffer is full: the client has this long to make room."""
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_timeout_s, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self._stop_send_timer()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._num_head_bytes = 0
        if self._head_timer is None:
            self._start_head_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count_head_bytes(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_head_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed, or is over the bound, and closes."""
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._send_and_close(
                ApiError(
                    431,
                    f"The request's head is over the limit of {MAX_HEAD_BYTES} bytes.",
                    type="invalid_request_error",
                    code="headers_too_large",
                )
            )
        else:
            self._send_and_close(invalid_request(msg, code="invalid_http"))

    def _count_head_bytes(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is over the limit")  # the parser turns it into its own error

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _send_and_close(self, error: ApiError) -> None:
        body = error.body_bytes()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("latin-1") + body)
        self.transport.close()
