"""A server that answers with whatever bytes a script writes, for tests of what no proper server would send.

`fake_upstream` plays well-formed answers and their faults; this one has no idea of HTTP beyond reading a request.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

# Writes an answer, or part of one; the connection is closed when it returns. It gets an event that ends all waiting.
RawScript = Callable[[socket.socket, threading.Event], None]

_MAX_HEAD_BYTES = 2**20


class RawUpstream:
    """Scripts by name: a request for `/NAME/v1/...` is answered by the script of that name.

    Readiness probes (GET) are answered with 200, requests for `missing` paths with 404; all others are counted.
    """

    def __init__(self, scripts: Mapping[str, RawScript], *, missing: Collection[str] = ()) -> None:
        self.scripts = dict(scripts)
        self.missing = frozenset(missing)
        self.num_requests = 0
        self.base_url = ""
        self._is_over = threading.Event()

    @contextmanager
    def serving(self) -> Iterator[RawUpstream]:
        """Listens at `base_url` until the block ends; then every script that waits is let go."""
        upstream = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    upstream._converse(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that leave are what these tests are about."""

        with Server(("127.0.0.1", 0), Handler) as server:
            host, port = server.server_address[:2]
            self.base_url = f"http://{host!s}:{port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                self._is_over.set()
                server.shutdown()
                thread.join()

    def _converse(self, connection: socket.socket) -> None:
        while True:
            head, rest = _read_head(connection)
            if not head:
                return
            method, path = head.split(b" ", 2)[:2]
            if method == b"GET":
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                continue
            _read_body(connection, head, rest)
            _, name, called = path.decode("latin-1").split("/", 2)
            if f"/{called}" in self.missing:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            self.num_requests += 1
            self.scripts[name](connection, self._is_over)
            return


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _MAX_HEAD_BYTES:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _read_body(connection: socket.socket, head: bytes, rest: bytes) -> None:
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    num_left = int(lengths[0]) - len(rest) if lengths else 0
    while num_left > 0 and (piece := connection.recv(65536)):
        num_left -= len(piece)
