"""Runs one ASGI app on uvicorn: address checked before start, SIGTERM and SIGINT drain before the socket closes.

SERVING --signal--> DRAINING (still listening, so that new requests get an answer; the app refuses them)
DRAINING --nothing in flight, or drain time over--> CLOSED (what is still open is cut a moment later)
"""

from __future__ import annotations

import errno
import gc
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from lightship.errors import PortInUseError, UsageError
from lightship.ports.clock import Clock, SystemClock
from lightship.serving.drain import InFlight
from lightship.serving.http_protocol import SEND_TIMEOUT_S, with_send_timeout

# After the drain time, to write what is in the buffers. Seconds.
_CUT_AFTER_S = 1


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen and how long to finish.

    `keep_alive_s` bounds an idle connection, `drain_timeout_s` the time from the stop signal to the cut of requests
    still under way, `send_timeout_s` how long a client may leave unread what waits for it. Connections are encrypted
    where `tls` is given; whoever owns the context may load a new certificate into it at any time.
    """

    host: str
    port: int
    drain_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    backlog: int = 2048
    send_timeout_s: float = SEND_TIMEOUT_S
    tls: ssl.SSLContext | None = None


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
    """Tells the app about the stop signal, and listens on until the requests under way have ended."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None],
        on_stop: Callable[[], None],
        in_flight: InFlight | None,
        drain_timeout_s: float,
        clock: Clock,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stop = on_stop
        self._in_flight = in_flight
        self._drain_timeout_s = drain_timeout_s
        self._clock = clock
        self._stopped_s: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Effects: begins to listen."""
        await super().startup(sockets)
        # What is there now stays: the collector need not look at it again and again, which takes milliseconds a time.
        gc.collect()
        gc.freeze()
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Effects: starts the drain; a second SIGINT ends everything at once."""
        del frame
        if self._stopped_s is None:
            self._stopped_s = self._clock.monotonic_s()
            if self._in_flight is not None:
                self._in_flight.start_draining()
            self._on_stop()
        elif sig == signal.SIGINT:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; uvicorn asks ten times a second."""
        if self._stopped_s is not None and self._is_drained(since_s=self._stopped_s):
            self.should_exit = True
        return await super().on_tick(counter)

    def _is_drained(self, *, since_s: float) -> bool:
        is_idle = self._in_flight is None or self._in_flight.count == 0
        return is_idle or self._clock.monotonic_s() - since_s >= self._drain_timeout_s


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    settings: ServerSettings,
    *,
    on_started: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    in_flight: InFlight | None = None,
    clock: Clock | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; returns when requests under way have ended or the drain time is over.

    Args:
        on_started: Called once when connections are accepted.
        on_stop: Called once when the signal comes.
        in_flight: Put to draining when the signal comes; until it is idle the server listens on, and the app is
            expected to refuse new requests with a proper answer. Without it the socket closes at once.

    Effects: closes `listener`.
    """
    cut_after_s = settings.drain_timeout_s if in_flight is None else _CUT_AFTER_S
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=with_send_timeout(settings.send_timeout_s),
        ws="none",
        proxy_headers=False,  # nothing here asks who the client is, and anybody on this machine could say
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=round(settings.keep_alive_s),
        timeout_graceful_shutdown=round(cut_after_s),
        backlog=settings.backlog,
    )
    config.load()
    config.ssl = settings.tls  # uvicorn would make one from files, once
    server = _DrainingServer(
        config,
        on_started=on_started,
        on_stop=on_stop,
        in_flight=in_flight,
        drain_timeout_s=settings.drain_timeout_s,
        clock=clock or SystemClock(),
    )
    await server.serve(sockets=[listener])
