"""Starts a sandbox, runs one program with its tests in it, and ends it in time, whatever the program does.

Protects against what a model writes by accident or habit: endless loops, memory and disk eaten up, files removed,
processes started, the network used, early exits, printed success. It is **not a virtual machine**: the program runs as
the same user on the same kernel and may read what that user may read (it has no way to send it anywhere). Where the
kernel offers neither seccomp nor landlock (not Linux, an old kernel, a container that forbids them), only limits and a
Python audit hook hold, which a determined program can get round; `Verdict.layers` says what held.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightship.errors import MeasurementError

# The folder that holds the package; the sandbox sees no other package but the standard library.
_ROOT = str(Path(__file__).resolve().parents[5])
_BOOTSTRAP = (
    f"import sys; sys.path.insert(0, {_ROOT!r}); "
    "from lightship.evaluation.tasks.scorers.sandbox.runner import main; main()"
)
# No site packages, no user folder, no script folder, no .pyc files; the environment is ours alone.
_INTERPRETER_FLAGS = ("-S", "-s", "-P", "-B")
# An interpreter starts in some 50 ms; a machine under load takes longer, a broken one for ever.
_START_LIMIT_S = 60.0
# Started line and verdict take some 300 bytes; more is a program that writes where it should not.
_MAX_REPLY_BYTES = 4096
_MAX_SHOWN_CHARS = 300
_MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a program may use. `wall_s` starts when the program does; `file_bytes` is per file."""

    cpu_s: int = 5
    wall_s: float = 30.0
    memory_bytes: int = 1024 * _MIB
    file_bytes: int = 1 * _MIB
    num_writes: int = 64


@dataclass(frozen=True)
class Verdict:
    """Whether all stages ran to their end; the reason where they did not ("" where they did); the layers that held."""

    passed: bool
    reason: str
    layers: tuple[str, ...]


async def run_program(stages: Sequence[str], *, limits: Limits) -> Verdict:
    """Whether all of `stages`, Python source texts, run one after the other in one namespace without an exception.

    The process, all it started in its process group, and its working folder are gone when this returns or is cancelled.

    Raises: MeasurementError: the sandbox itself could not be started.
    Effects: starts a process; makes and removes a temporary folder.
    """
    with _working_folder() as folder:
        token = secrets.token_hex(16)
        process = await _start(folder)
        try:
            job = _job(stages, token=token, limits=limits)
            layers, early = await _wait_until_started(process, job)
            return await _wait_for_verdict(process, layers, early, token=token, limits=limits)
        finally:
            await _end(process)


def _working_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="lightship-sandbox-", ignore_cleanup_errors=True)
    except OSError as error:
        raise MeasurementError(f"cannot make a folder to run generated code in: {error}") from error


def _job(stages: Sequence[str], *, token: str, limits: Limits) -> bytes:
    # Lone surrogates cannot be encoded as UTF-8, but as JSON's ASCII form they can; compiling them then fails inside.
    return json.dumps(
        {
            "token": token,
            "root": _ROOT,
            "stages": list(stages),
            "limits": {
                "cpu_s": limits.cpu_s,
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.file_bytes,
                "num_writes": limits.num_writes,
            },
        }
    ).encode()


async def _start(folder: str) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *_INTERPRETER_FLAGS,
            "-c",
            _BOOTSTRAP,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            # A fixed hash seed: the order of a set must not decide whether a program passes.
            env={"PYTHONHASHSEED": "0", "TMPDIR": folder, "HOME": folder},
            start_new_session=True,
        )
    except OSError as error:
        raise MeasurementError(f"cannot start a Python to run generated code with: {error}") from error


async def _wait_until_started(process: asyncio.subprocess.Process, job: bytes) -> tuple[tuple[str, ...], bytes]:
    """The layers that hold, and what was read past the line that says so."""
    assert process.stdin is not None  # a pipe was asked for
    reply = b""
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            with contextlib.suppress(ConnectionError):  # it ended before it read all; its messages say why
                process.stdin.write(job)
                await process.stdin.drain()
                process.stdin.close()
            while b"\n" not in reply:
                more = await _read(process.stdout)
                if not more:
                    break
                reply += more
    except TimeoutError as error:
        raise MeasurementError(f"the sandbox for generated code did not start in {_START_LIMIT_S:g} s") from error
    line, _, early = reply.partition(b"\n")
    word, _, layers = line.decode("ascii", "replace").partition(" ")
    if word != "started":
        said = (await _read(process.stderr)).decode("utf-8", "replace").strip()[-_MAX_SHOWN_CHARS:]
        raise MeasurementError(f"the sandbox for generated code did not start: {said or 'it said nothing'}")
    return tuple(layers.split("+")), early


async def _wait_for_verdict(
    process: asyncio.subprocess.Process, layers: tuple[str, ...], early: bytes, *, token: str, limits: Limits
) -> Verdict:
    reply = early
    try:
        async with asyncio.timeout(limits.wall_s):
            while len(reply) <= _MAX_REPLY_BYTES:
                more = await _read(process.stdout)
                if not more:
                    break
                reply += more
            else:
                return Verdict(False, "it wrote to the channel of the verdict", layers)
            status = await process.wait()
    except TimeoutError:
        return Verdict(False, f"more than {limits.wall_s:g} s", layers)
    if reply == f"passed {token}\n".encode() and status == 0:
        return Verdict(True, "", layers)
    return Verdict(False, _reason(reply, status, limits), layers)


def _reason(reply: bytes, status: int, limits: Limits) -> str:
    word, _, reason = reply.decode("utf-8", "replace").strip().partition(" ")
    if word == "failed" and reason:
        return reason
    if status == -signal.SIGXCPU:
        return f"more than {limits.cpu_s} s of processor time"
    if status < 0:
        return f"ended by signal {-status}"
    return f"ended before its tests did, with exit status {status}"


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None  # a pipe was asked for
    return await stream.read(_MAX_REPLY_BYTES)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends the process and everything in its group; safe to call when it has ended already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # SIGKILL needs no cooperation, so this is short.
    await process.wait()
    # Pipes that a straggler outside the group still holds would keep the transport open.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
