"""Runs a program that knows nothing of its parent, and ends it when the parent is gone: `python -m ... COMMAND...`.

Our own workers end with their standard input (`serving/parent.py`); `vllm serve` and `llama-server` do not look at it.
So they run as the child of this small process: it holds the standard input, passes SIGTERM and SIGINT on, and ends with
the child's status. When the parent is gone, the child is asked to end. What is left of its helpers then is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from lightship.engines.memory import group_members

_GRACE_S = 10.0


def tethered(command: list[str]) -> list[str]:
    """The command that runs `command` tethered to whoever holds its standard input."""
    return [sys.executable, "-m", "lightship.engines.tether", *command]


def main(command: list[str]) -> int:
    """Runs the command until it ends or standard input does; its exit status, 128 + the signal that ended it.

    Effects: what the command started in this process's group is killed once it has ended.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    code = child.wait()
    _kill_helpers()
    return code if code >= 0 else 128 - code


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _kill_helpers() -> None:
    if os.getpgrp() != os.getpid():
        return  # started by hand: the group is the shell's
    for process_id in group_members(os.getpid()):
        if process_id != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
