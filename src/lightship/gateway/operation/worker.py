"""One serving process: alone, reading its own configuration file, or under a supervisor that tells it what to do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from lightship.errors import LightshipError, UsageError
from lightship.gateway.config import GatewayConfig, read_config
from lightship.gateway.operation.access_log import configure_access_log
from lightship.gateway.operation.browsers import for_browsers
from lightship.gateway.operation.merging import snapshot
from lightship.gateway.operation.messages import (
    Channel,
    Collect,
    Configure,
    Configured,
    Counts,
    Merged,
    Started,
    ToWorker,
    WantMerged,
    open_channel,
)
from lightship.gateway.operation.reload import POLL_S, Reloader, ReloadMetrics, Settling, fingerprint
from lightship.gateway.operation.tls import load_certificate, tls_context
from lightship.gateway.runtime import Exposition, RunningGateway, reloadable_gateway
from lightship.gateway.server_config import TlsConfig
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.ports.clock import Clock, SystemClock
from lightship.serving.allocation import return_large_blocks
from lightship.serving.parent import stop_this_process, stop_with_parent
from lightship.serving.server import ServerSettings, serve
from lightship.wire.errors import overloaded

# Seconds. A scrape waits this long for the other processes; Prometheus itself waits ten by default.
MERGE_TIMEOUT_S = 3.0
# Between two reports to the supervisor that nobody asked for: what a killed process has counted since is lost.
_REPORT_S = 2.0

_log = logging.getLogger("lightship.gateway")
_to_worker = msgspec.msgpack.Decoder(ToWorker)


class ServingProcess:
    """A gateway with its outermost wrapping, both of which a reload changes.

    Concurrency: one event loop; one `apply` at a time.
    """

    def __init__(self, gateway: RunningGateway, config: GatewayConfig) -> None:
        self.gateway = gateway
        self._config = config
        self._front: ASGIApp = for_browsers(gateway.app, config.server.cors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._front(scope, receive, send)

    async def apply(self, config: GatewayConfig) -> None:
        """Puts another configuration to use.

        Raises: LightshipError: nothing was changed.
        """
        log_before, log_after = self._config.server.access_log, config.server.access_log
        if log_after != log_before:
            configure_access_log(log_after)
        try:
            await self.gateway.apply(config)
        except BaseException:
            if log_after != log_before:
                configure_access_log(log_before)
            raise
        self._front = for_browsers(self.gateway.app, config.server.cors)
        self._config = config


async def run_alone(config: GatewayConfig, path: Path, listener: socket.socket, *, exits_with_parent: bool) -> None:
    """Serves on `listener` until SIGTERM or SIGINT; SIGHUP and changes of the file at `path` reload it.

    Raises: LightshipError: it cannot start.
    """
    clock = SystemClock()
    telemetry = GatewayTelemetry()
    async with _serving_process(config, telemetry=telemetry, exposition=None, clock=clock) as (process, tls):
        reloader = Reloader(
            config,
            load=lambda: asyncio.to_thread(read_config, path),
            apply=process.apply,
            files=[path],
            metrics=ReloadMetrics(telemetry.registry, clock=clock),
            clock=clock,
        )
        if exits_with_parent:
            stop_with_parent()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.request)
        async with _until_left(reloader.run()):
            await _serve(process, config, listener, tls, on_started=lambda: log_address(config, listener))


async def run_supervised(control: socket.socket, listener: socket.socket) -> None:
    """Serves on `listener` until SIGTERM, or until the supervisor at the other end of `control` is gone.

    Raises: LightshipError: it cannot start.
    """
    channel = await open_channel(control)
    first = await channel.receive(_to_worker)
    if not isinstance(first, Configure):
        return  # the supervisor ended before it could say anything
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)  # the supervisor reloads for all
    telemetry = GatewayTelemetry()
    link = _SupervisorLink(channel, telemetry)
    async with _serving_process(first.config, telemetry=telemetry, exposition=link.exposition, clock=SystemClock()) as (
        process,
        tls,
    ):
        async with _until_left(link.listen(process), link.report_now_and_then()):
            started = asyncio.Event()
            async with _until_left(link.tell_start(started)):
                await _serve(process, first.config, listener, tls, on_started=started.set)
        await link.report()
    channel.close()


class _SupervisorLink:
    """The worker's end of the channel: does what it is told, and asks for the counts of all."""

    def __init__(self, channel: Channel, telemetry: GatewayTelemetry) -> None:
        self._channel = channel
        self._telemetry = telemetry
        self._numbers = itertools.count()
        self._wanted: dict[int, asyncio.Future[bytes | None]] = {}

    async def exposition(self) -> bytes:
        """The metrics of all processes.

        Raises: ApiError: 503; half of the counts would look like a restart to whoever reads them.
        """
        number = next(self._numbers)
        text: bytes | None = None
        wanted = self._wanted[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(MERGE_TIMEOUT_S):
                await self._channel.send(WantMerged(number, snapshot(self._telemetry.registry)))
                text = await wanted
        except TimeoutError:
            _log.warning("the counts of the other processes did not come within %g s", MERGE_TIMEOUT_S)
        finally:
            del self._wanted[number]
        if text is None:
            raise overloaded("The counts of the other processes did not come in time.", reason="saturated")
        return text

    async def listen(self, process: ServingProcess) -> None:
        """Does what the supervisor says; when it is gone this process is told to end."""
        while (message := await self._channel.receive(_to_worker)) is not None:
            match message:
                case Configure(config):
                    await self._channel.send(Configured(await _problem_of(process, config)))
                case Collect(number):
                    await self.report(number)
                case Merged(number, text):
                    if (wanted := self._wanted.get(number)) is not None and not wanted.done():
                        wanted.set_result(text)
        _log.warning("the supervisor is gone; stopping")
        stop_this_process()

    async def report(self, number: int | None = None) -> None:
        """Tells what was counted so far, in answer to the question of this number."""
        await self._channel.send(Counts(snapshot(self._telemetry.registry), number))

    async def report_now_and_then(self) -> None:
        """Reports until it is cancelled."""
        while True:
            await asyncio.sleep(_REPORT_S)
            await self.report()

    async def tell_start(self, started: asyncio.Event) -> None:
        """Tells the supervisor once that connections are accepted."""
        await started.wait()
        await self._channel.send(Started())


async def _problem_of(process: ServingProcess, config: GatewayConfig) -> str:
    try:
        await process.apply(config)
    except LightshipError as error:
        return str(error)
    except Exception:  # noqa: BLE001 # a bug in a reload must not end the service of the old configuration
        _log.exception("a new configuration could not be put to use")
        return "it could not be put to use; the log has the details"
    return ""


@asynccontextmanager
async def _serving_process(
    config: GatewayConfig, *, telemetry: GatewayTelemetry, exposition: Exposition | None, clock: Clock
) -> AsyncIterator[tuple[ServingProcess, ssl.SSLContext | None]]:
    """The app and the TLS context to serve it with, both kept up to date while the block runs."""
    return_large_blocks()
    configure_access_log(config.server.access_log)
    tls = config.server.tls
    context = None if tls is None else tls_context(tls)
    async with reloadable_gateway(config, telemetry=telemetry, exposition=exposition, clock=clock) as gateway:
        renewals = [] if tls is None or context is None else [_renew(context, tls, clock)]
        async with _until_left(*renewals):
            yield ServingProcess(gateway, config), context


async def _renew(context: ssl.SSLContext, tls: TlsConfig, clock: Clock) -> None:
    files = [Path(tls.cert_file), Path(tls.key_file)]
    settling = Settling.at(fingerprint(files))
    while True:
        await clock.sleep(POLL_S)
        if not settling.has_settled_anew(await asyncio.to_thread(fingerprint, files)):
            continue
        try:
            load_certificate(context, tls)
        except LightshipError as error:
            _log.error("the new TLS certificate is not used, the old one stays: %s", error)
        else:
            _log.info("TLS certificate renewed from %s", tls.cert_file)


@asynccontextmanager
async def _until_left(*background: object) -> AsyncIterator[None]:
    """Runs the coroutines until the block ends."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in background if asyncio.iscoroutine(one)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _serve(
    process: ServingProcess,
    config: GatewayConfig,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    *,
    on_started: Callable[[], None],
) -> None:
    settings = ServerSettings(
        host=config.host,
        port=config.port,
        drain_timeout_s=config.drain_timeout_s,
        send_timeout_s=config.server.send_timeout_s,
        tls=tls,
    )
    await serve(process, listener, settings, on_started=on_started, in_flight=process.gateway.app.in_flight)


def log_address(config: GatewayConfig, listener: socket.socket) -> None:
    """Says where connections are accepted."""
    _log.info("listening on %s", address_of(config, listener))


def address_of(config: GatewayConfig, listener: socket.socket) -> str:
    """Scheme, host and port of the gateway."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if config.server.tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def make_state_folder(config: GatewayConfig) -> None:
    """Effects: the folder of the configuration's state is there, for its owner only.

    Raises: UsageError: it cannot be made.
    """
    if not config.state.folder:
        return
    try:
        Path(config.state.folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        what = f"the folder of the gateway's state cannot be made: {error.strerror}"
        raise UsageError(what, where=config.state.folder, hint="Make it, or let this user write there.") from error


def allow_many_connections() -> None:
    """Effects: raises the soft limit of open files to the hard one: a request takes two sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
