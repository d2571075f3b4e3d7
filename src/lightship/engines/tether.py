"""Runs a program that knows nothing of its parent, and ends it when the parent is gone: `python -m ... COMMAND...`.

Our own workers end with their standard input (`serving/parent.py`); `vllm serve` and `llama-server` do not look at it.
So they run as the child of this small process: it holds the standard input, passes SIGTERM and SIGINT on, and ends with
the child's status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_GRACE_S = 10.0


def tethered(command: list[str]) -> list[str]:
    """The command that runs `command` tethered to whoever holds its standard input."""
    return [sys.executable, "-m", "lightship.engines.tether", *command]


def main(command: list[str]) -> int:
    """Runs the command until it ends or standard input does; its exit status, 128 + the signal that ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
