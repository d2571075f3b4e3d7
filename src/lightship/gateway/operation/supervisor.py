"""The parent of several serving processes. It owns the listening socket and does not serve.

    starting --all workers accept connections----> serving --SIGTERM, SIGINT--> draining --all have ended--> over
    starting --a worker ends before it serves----> over, with the worker's exit status
    serving: a worker that ends is started again; draining: one that passes the drain time is killed

All workers accept from one queue, the socket that was bound here and that they inherit. With a queue for each
(SO_REUSEPORT) the connections that wait at a worker that dies would be lost with it; here the others take them. Each
worker is in a session of its own, so that the terminal's Ctrl-C reaches only this process, which then drains them all.
When this process dies, however it dies, its workers read the end of their channel and drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from lightship.errors import LightshipError, UsageError
from lightship.gateway.config import GatewayConfig
from lightship.gateway.operation.merging import Snapshot, cumulative, exposition, merged, snapshot
from lightship.gateway.operation.messages import (
    Channel,
    Collect,
    Configure,
    Configured,
    Counts,
    Merged,
    Started,
    ToParent,
    WantMerged,
    open_channel,
)
from lightship.gateway.operation.reload import Reloader, ReloadMetrics
from lightship.gateway.operation.worker import address_of
from lightship.observability import names
from lightship.ports.clock import Clock, SystemClock

WORKER_FLAG = "--worker"
# Seconds. The first restart is quick, so that a worker that is killed is missed as little as possible.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GOOD_RUN_S = 0.1, 30.0, 60.0
# For a worker to answer with its counts, or to say that it uses a new configuration (it probes new replicas first).
_COUNTS_TIMEOUT_S, _APPLY_TIMEOUT_S = 2.0, 15.0
# What a worker gets on top of the drain time to write its buffers and end.
_END_MARGIN_S = 5.0

_log = logging.getLogger("lightship.gateway.supervisor")
_to_parent = msgspec.msgpack.Decoder(ToParent)


class WorkerEndedError(LightshipError):
    """A worker ended before it served; its own log says why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a gateway process ended with status {code} before it served")
        self.exit_code = code if code > 0 else 1


class _Worker:
    """One serving process and what it has told."""

    def __init__(self, number: int, process: Process, channel: Channel) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.is_serving = False
        self.counts: Snapshot = ()
        self.asked: dict[int, asyncio.Future[None]] = {}
        self.configured: asyncio.Future[str] | None = None

    def heed_counts(self, number: int | None, taken: Snapshot) -> None:
        """Notes its counts; `number` is that of the question they answer."""
        self.counts = taken
        asked = None if number is None else self.asked.pop(number, None)
        if asked is not None and not asked.done():
            asked.set_result(None)

    def give_up_waiting(self) -> None:
        """Nothing more will come from it: whoever waits goes on with what there is."""
        for asked in self.asked.values():
            if not asked.done():
                asked.set_result(None)
        if self.configured is not None and not self.configured.done():
            self.configured.set_result("")  # its successor starts with the new configuration

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """Runs `config.server.workers` processes until SIGTERM or SIGINT.

    Args:
        config: What they begin with.
        listener: Bound, not yet listening; closed at the end.
        load: Reads the configuration again, at SIGHUP and when a file has changed.
        files: Watched for changes.
        on_started: Called once when connections are accepted.
        clock: Time.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        config: GatewayConfig,
        listener: socket.socket,
        *,
        load: Callable[[], Awaitable[GatewayConfig]],
        files: Sequence[Path],
        on_started: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._listener = listener
        self._on_started = on_started
        self._workers: dict[int, _Worker] = {}
        self._gone: Snapshot = ()
        self._questions = itertools.count()
        self._is_announced = False
        self._stopping = asyncio.Event()
        self._is_forced = False
        registry = CollectorRegistry()
        self._registry = registry
        self._restarts = Counter(
            names.WORKER_RESTARTS, "Gateway processes that had to be started again.", registry=registry
        )
        Gauge(names.WORKERS, "Gateway processes that run.", registry=registry).set_function(lambda: len(self._workers))
        self._reloader = Reloader(
            config,
            load=load,
            apply=self._apply,
            files=files,
            metrics=ReloadMetrics(registry, clock=self._clock),
            clock=self._clock,
        )

    async def run(self) -> None:
        """Returns when everything has ended in order.

        Raises: WorkerEndedError: a worker ended before any had served.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.request)
        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(self._reloader.run())]
                keepers = [group.create_task(self._keep(n)) for n in range(self._reloader.current.server.workers)]
                await self._stopping.wait()
                for task in background:
                    task.cancel()
                await self._drain(keepers)
        except ExceptionGroup as errors:
            ended = errors.subgroup(WorkerEndedError)
            raise (ended or errors).exceptions[0] from None
        finally:
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
            self._listener.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            _log.info("stopping: requests under way are finished first")
            self._stopping.set()
        elif number is signal.SIGINT:
            self._is_forced = True
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
        else:
            _log.info("stopping already; SIGINT ends it at once")

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Effects: every worker ends, at the latest a little after the drain time."""
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)
        limit_s = self._reloader.current.drain_timeout_s + _END_MARGIN_S
        _, late = await asyncio.wait(keepers, timeout=limit_s)
        if late:
            _log.error("%d gateway processes did not end within %g s and are killed", len(late), limit_s)
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)

    async def _keep(self, number: int) -> None:
        """Keeps one worker running until the stop."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started_s = self._clock.monotonic_s()
            code, has_served = await self._run_worker(number)
            if self._stopping.is_set():
                return
            if not self._is_announced and not has_served:
                raise WorkerEndedError(code)
            if self._clock.monotonic_s() - started_s >= _GOOD_RUN_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning("gateway process %d ended with status %d; starting it again in %g s", number, code, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._restarts.inc()

    async def _run_worker(self, number: int) -> tuple[int, bool]:
        """Starts a worker and does what it asks until it has ended; its exit status, and whether it ever served."""
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), self._listener.fileno())
        command = [sys.executable, "-m", "lightship.gateway", WORKER_FLAG, *map(str, fds)]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=fds, start_new_session=True
            )
        worker = _Worker(number, process, await open_channel(ours))
        self._workers[number] = worker
        try:
            if self._stopping.is_set():
                worker.signal(signal.SIGTERM)
            await worker.channel.send(Configure(self._reloader.current))
            async with asyncio.TaskGroup() as group:
                while (message := await worker.channel.receive(_to_parent)) is not None:
                    self._heed(worker, message, group)
            return await process.wait(), worker.is_serving
        finally:
            del self._workers[number]
            # What it counted stays counted. It must go from one place to the other in one step.
            self._gone = merged([self._gone, cumulative(worker.counts)])
            worker.give_up_waiting()
            worker.channel.close()
            if process.returncode is None:
                worker.signal(signal.SIGKILL)
                await process.wait()

    def _heed(self, worker: _Worker, message: ToParent, group: asyncio.TaskGroup) -> None:
        match message:
            case Started():
                worker.is_serving = True
                self._announce()
            case Counts(taken, number):
                worker.heed_counts(number, taken)
            case Configured(problem):
                if worker.configured is not None and not worker.configured.done():
                    worker.configured.set_result(problem)
            case WantMerged(number, taken):
                worker.counts = taken
                group.create_task(self._answer_merged(worker, number))

    def _announce(self) -> None:
        """Says once that it serves, when all do."""
        config = self._reloader.current
        num_serving = sum(worker.is_serving for worker in self._workers.values())
        if not self._is_announced and num_serving == config.server.workers:
            self._is_announced = True
            _log.info("listening on %s", address_of(config, self._listener))
            self._on_started()

    async def _answer_merged(self, asker: _Worker, number: int) -> None:
        """Asks the others for their counts and sends the sums; who does not answer in time counts as it did before."""
        others = [worker for worker in self._workers.values() if worker is not asker]
        loop = asyncio.get_running_loop()
        question = next(self._questions)
        asked = [worker.asked.setdefault(question, loop.create_future()) for worker in others]
        for worker in others:
            await worker.channel.send(Collect(question))
        if asked:
            await asyncio.wait(asked, timeout=_COUNTS_TIMEOUT_S)
        for worker in others:
            worker.asked.pop(question, None)
        now = [worker.counts for worker in self._workers.values()]
        text = exposition(merged([*now, self._gone, snapshot(self._registry)]))
        await asker.channel.send(Merged(number, text))

    async def _apply(self, config: GatewayConfig) -> None:
        """Has every worker use the configuration.

        Raises: UsageError: one could not; all of them are back at the old one.
        """
        problems = await self._configure_all(config)
        if not problems:
            return
        await self._configure_all(self._reloader.current)
        raise UsageError("; ".join(dict.fromkeys(problems)))

    async def _configure_all(self, config: GatewayConfig) -> list[str]:
        workers = list(self._workers.values())
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[str]] = []
        for worker in workers:
            worker.configured = loop.create_future()
            waiting.append(worker.configured)
            await worker.channel.send(Configure(config))
        await asyncio.wait(waiting, timeout=_APPLY_TIMEOUT_S)
        late = "a gateway process did not answer in time"
        found = [one.result() if one.done() else late for one in waiting]
        return [problem for problem in found if problem]
