"""Ends a process with the one that started it: the parent holds the other end of this process's standard input.

When the parent dies, however it dies, the system closes that pipe. Works from any thread of the parent and needs no
code between fork and exec.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

FLAG = "--exit-with-parent"

_LOGGER = logging.getLogger(__name__)


def stop_with_parent() -> None:
    """From now on the end of standard input stops this process like SIGTERM: it drains and closes.

    Only for a process whose parent holds the pipe: one started in a terminal must not end because its input is empty.
    Effects: adds a reader to the running event loop.
    """
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _on_input)


def _on_input() -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        _LOGGER.warning("the process that started this one is gone; stopping")
        stop_this_process()


def stop_this_process() -> None:
    """Sends this process the signal its server drains at."""
    os.kill(os.getpid(), signal.SIGTERM)
