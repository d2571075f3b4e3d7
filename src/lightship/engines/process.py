"""One worker process: started, watched, stopped, and never left behind.

    start() --ready--> running --stop()--> SIGTERM --drain time over--> SIGKILL
       |                  `--exits by itself--> returncode set, `wait()` returns
       `--exits early or passes its budget--> killed, EngineError with the end of its log

A worker is the leader of a process group of its own, so that its helpers die with it and the terminal's Ctrl-C reaches
only the program that started it. Its standard input is a pipe that this process holds: when this process dies without
a word, the system closes the pipe and the worker ends (see `--exit-with-parent`). That works from any thread and needs
no code between fork and exec, which `PR_SET_PDEATHSIG` would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from lightship.engines.memory import group_members, peak_resident_bytes, resident_bytes
from lightship.errors import EngineError
from lightship.ports.clock import Clock, SystemClock

_POLL_S = 0.02
_PROBE_TIMEOUT_S = 2.0
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 12
_KILL_WAIT_S = 5.0


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on at this moment; another program may take it before it is used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class WorkerProcess:
    """One engine worker as a child process.

    Args:
        name: For messages.
        command: Program and arguments.
        base_url: Where it will answer.
        ready_path: Path that is answered with status 200 once it can serve.
        cores: Numbers of the cores it may run on; None leaves it all that this process has.
        log_path: Its standard output and error are appended here.
        environment: Variables that replace or extend this process's own.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        base_url: str,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        ready_path: str = "/health/ready",
        cores: frozenset[int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.log_path = log_path
        self._ready_path = ready_path
        self._cores = cores
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._clock = clock or SystemClock()
        self._process: asyncio.subprocess.Process | None = None
        self._log_start_bytes = 0

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs or before the start."""
        return None if self._process is None else self._process.returncode

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, *, startup_timeout_s: float) -> float:
        """Starts the worker; the seconds until it was ready.

        Raises: EngineError: it ended, or was not ready in time; it is gone then.
        """
        started_s = self._clock.monotonic_s()
        await self._spawn()
        try:
            async with asyncio.timeout(startup_timeout_s):
                await self._wait_until_ready()
        except TimeoutError as error:
            await self.stop(drain_timeout_s=0.0)
            raise self._error(
                f"the worker {self.name} was not ready within {startup_timeout_s:g} s",
                hint="Give it more time, or look at its log.",
            ) from error
        except BaseException:
            await self.stop(drain_timeout_s=0.0)
            raise
        return self._clock.monotonic_s() - started_s

    async def wait(self) -> int:
        """Waits until the worker ends; its exit status."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    async def stop(self, *, drain_timeout_s: float) -> None:
        """Ends the worker: SIGTERM, then SIGKILL to its whole group when it has not ended in time.

        Effects: returns when it is gone; harmless when it never ran or has ended.
        """
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_timeout_s):
                    await process.wait()
        # also after a clean end: helpers that outlived the worker must not keep the machine's memory
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        async with asyncio.timeout(_KILL_WAIT_S):
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def peak_rss_bytes(self) -> int:
        """Peak resident memory of the worker and its helpers together so far; 0 when they are gone.

        The sum of each process's own peak, an upper bound where they peak at different times.
        """
        if self.pid is None:
            return 0
        return sum(peak_resident_bytes(process_id) for process_id in group_members(self.pid))

    def rss_bytes(self) -> int:
        """Resident memory of the worker and its helpers together now; 0 when they are gone.

        Pages that several of them share count several times.
        """
        if self.pid is None:
            return 0
        return sum(resident_bytes(process_id) for process_id in group_members(self.pid))

    def log_tail(self) -> str:
        """The last lines this worker wrote to its log."""
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start_bytes, end - _LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    async def _spawn(self) -> None:
        if self._process is not None:
            raise EngineError("the worker was started already", where=self.name)
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("ab") as log:
                self._log_start_bytes = log.tell()
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
            if self._cores is not None:
                # It has one thread yet, whose cores all later ones inherit; before the exec it would need code that
                # runs between fork and exec. One that has ended already is told of as such.
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(self._process.pid, self._cores)
        except OSError as error:
            raise EngineError(f"cannot start the worker {self.name}: {error}", where=self._command[0]) from error

    async def _wait_until_ready(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                if not self.is_running:
                    raise self._error(
                        f"the worker {self.name} ended with status {self.returncode} before it was ready",
                        hint="Its log has the reason.",
                    )
                if await self._is_ready(session):
                    return
                await self._clock.sleep(_POLL_S)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            # ssl=False: this is our own process, whatever name its certificate has
            async with session.get(f"{self.base_url}{self._ready_path}", ssl=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _error(self, what: str, *, hint: str) -> EngineError:
        tail = self.log_tail()
        return EngineError(f"{what}\n{tail}\n" if tail else what, where=str(self.log_path), hint=hint)
