"""Keeps a serving process from interrupting the threads that compute, where both share the cores.

A process that passes tokens on wakes up many times a second. Under Linux's batch policy it does not take a core from
another process at once when it wakes, but waits for its turn, milliseconds at most; on an idle core it runs at once.
How much it helps is not established; docs/evidence.md says what was tried.

Source: sched(7), SCHED_BATCH.
"""

from __future__ import annotations

import contextlib
import os
import sys


def yield_to_computation() -> None:
    """Puts this process under the batch policy; threads and processes it starts from now on inherit it.

    Does nothing where the system has no such policy or does not allow it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
