"""Runs a program that knows nothing of its parent, and ends it when the parent is gone: `python -m ... COMMAND...`.

Our own workers end with their standard input (`serving/parent.py`); `vllm serve` and `llama-server` do not look at it.
So they run as the child of this small process: it holds the standard input, passes SIGTERM and SIGINT on, and ends with
the child's status. When the parent is gone, the child is asked to end. What is left of its helpers then is killed.

    SIGTERM --drain: signal first--> child told --nothing under way--> helpers killed, child ends
       |    --drain: signal last---> nothing under way --> child told --not gone soon--> killed
       `----no drain---------------> child told
    SIGTERM again: child told at once

Processes of a server that compute together die together: when one of those whose command begins with `--together` is
gone, the tether kills the rest. vLLM would notice by itself, and for ten seconds take requests that nobody can answer.

Where neither server drains well, the tether does it (`idle.Drain`): llama-server, told to end, leaves its streams
hanging for half a minute; vLLM finishes them, refuses others, and then waits for its workers until its time is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from lightship.engines.idle import Drain, wait_until_idle
from lightship.engines.memory import group_members

_GRACE_S = 10.0
_DRAIN_FLAG, _TOGETHER_FLAG = "--drain", "--together"
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
_AWAITED = _ENDING | {signal.SIGCHLD}
_WATCH_S = 0.25
# What is left says in its log what it saw.
_LAST_WORDS_S = 0.5
# Processes of Python's multiprocessing that clean up after the others, and end with them.
_CLEANER = b"resource_tracker"
# Where Intel's OpenMP runtime registers itself, one file per process; one that is killed leaves it behind.
_OPENMP_FILES = (Path("/dev/shm"), "__KMP_REGISTERED_LIB_{process_id}_*")


def tethered(command: list[str], drain: Drain | None = None, *, together: str = "") -> list[str]:
    """The command that runs `command` tethered to whoever holds its standard input.

    Args:
        command: Program and arguments.
        drain: How it is drained; None passes the signal on.
        together: How the commands of its processes begin of which none can do without the others; "" is none.
    """
    options = [] if drain is None else [_DRAIN_FLAG, json.dumps(asdict(drain))]
    options += [_TOGETHER_FLAG, together] if together else []
    return [sys.executable, "-m", "lightship.engines.tether", *options, *command]


def main(arguments: list[str]) -> int:
    """Runs the command until it ends or standard input does; its exit status, 128 + the signal that ended it.

    Effects: what the command started in this process's group is killed once it has ended.
    """
    drain: Drain | None = None
    together = ""
    if arguments[:1] == [_DRAIN_FLAG]:
        fields = json.loads(arguments[1])
        drain, arguments = Drain(**{**fields, "gauges": tuple(fields["gauges"])}), arguments[2:]
    if arguments[:1] == [_TOGETHER_FLAG]:
        together, arguments = arguments[1], arguments[2:]
    # Blocked and waited for, not handled: a handler runs only once the main thread leaves its system call, which a
    # signal that the system gives to another thread, or that comes just before the call, does not bring about.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, preexec_fn=_unblock)  # noqa: PLW1509 - no thread yet
    end = _End(child, drain)
    threading.Thread(target=_end_with_parent, args=(child, end), daemon=True).start()
    if together:
        threading.Thread(target=_end_together, args=(child, end, together.encode()), daemon=True).start()
    while child.poll() is None:
        # not for ever: a thread that drains may reap the child just when its end is looked at here
        received = signal.sigtimedwait(_AWAITED, 1.0)
        if received is not None and received.si_signo in _ENDING:
            end.on_signal(received.si_signo)
    code = child.wait()
    _kill_helpers()
    return code if code >= 0 else 128 - code


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)


class _End:
    """Ends the child when a signal asks for it: at the first one with a drain where there is one, then at once."""

    def __init__(self, child: subprocess.Popen[bytes], drain: Drain | None) -> None:
        self._child = child
        self._drain = drain
        self.is_asked = False
        self._is_urgent = threading.Event()

    def on_signal(self, number: int) -> None:
        """A signal was received."""
        was_asked, self.is_asked = self.is_asked, True
        if self._drain is None:
            self._child.send_signal(number)
        elif was_asked:
            self._is_urgent.set()
            self._child.send_signal(number)
        else:
            threading.Thread(target=self._drained, args=(self._drain, number), daemon=True).start()

    def _drained(self, drain: Drain, number: int) -> None:
        if drain.is_signal_first:
            self._child.send_signal(number)
        wait_until_idle(drain, is_over=lambda: self._child.poll() is not None or self._is_urgent.is_set())
        if drain.is_signal_first:
            _kill_helpers(spared=frozenset({self._child.pid}))
        else:
            self._child.send_signal(number)
        try:
            self._child.wait(drain.grace_s)
        except subprocess.TimeoutExpired:
            self._child.kill()


def _end_with_parent(child: subprocess.Popen[bytes], end: _End) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    end.is_asked = True
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _end_together(child: subprocess.Popen[bytes], end: _End, beginning: bytes) -> None:
    seen: set[int] = set()
    while not end.is_asked:
        alive = {one for one in group_members(os.getpid()) if _command(one).startswith(beginning)}
        if seen - alive:
            time.sleep(_LAST_WORDS_S)
            if not end.is_asked:
                child.kill()  # its helpers follow, see `main`
            return
        seen = alive
        time.sleep(_WATCH_S)


def _kill_helpers(spared: frozenset[int] = frozenset()) -> None:
    if os.getpgrp() != os.getpid():
        return  # started by hand: the group is the shell's
    for process_id in group_members(os.getpid()):
        if process_id == os.getpid() or process_id in spared or (spared and _is_cleaner(process_id)):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        folder, pattern = _OPENMP_FILES
        for path in folder.glob(pattern.format(process_id=process_id)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_cleaner(process_id: int) -> bool:
    return _CLEANER in _command(process_id)


def _command(process_id: int) -> bytes:
    """How a process says it was started; nothing for one that has ended."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
