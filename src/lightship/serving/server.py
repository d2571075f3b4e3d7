"""Runs one ASGI app on uvicorn: address checked before start, SIGTERM and SIGINT drain before the socket closes."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from lightship.errors import PortInUseError, UsageError


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen and how long to finish.

    `max_header_bytes` bounds one request's headers, `keep_alive_s` an idle connection, `drain_timeout_s` the time from
    the stop signal to the cut of requests still under way.
    """

    host: str
    port: int
    drain_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    backlog: int = 2048


def bind_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one.

    Raises: PortInUseError: somebody listens there. UsageError: not an address of this machine.
    """
    where = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            hint = "Stop the program that listens there, or choose another port."
            raise PortInUseError("the port is taken", where=where, hint=hint) from error
        raise UsageError(
            f"cannot listen: {error.strerror}", where=where, hint="Choose an address of this machine."
        ) from error
    return listener


class _DrainingServer(uvicorn.Server):
    """Tells the app about the stop signal before uvicorn begins to close connections."""

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        if sig == signal.SIGINT and self.should_exit:
            self.force_exit = True
        self.should_exit = True


async def serve(
    app: ASGIApp, listener: socket.socket, settings: ServerSettings, *, on_stop: Callable[[], None] = lambda: None
) -> None:
    """Serves until SIGTERM or SIGINT; returns when requests under way have ended or the drain time is over.

    Effects: closes `listener`.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=round(settings.keep_alive_s),
        timeout_graceful_shutdown=round(settings.drain_timeout_s),
        backlog=settings.backlog,
    )
    await _DrainingServer(config, on_stop=on_stop).serve(sockets=[listener])
