"""Log set-up: lines on stderr, data never. Called by process entry points only."""

from __future__ import annotations

import logging
import sys


def configure_logging(*, component: str, level: str = "INFO") -> None:
    """Sends this process's logs to stderr, each line with time, component and level.

    Effects: replaces the root logger's handlers.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {component} %(name)s: %(message)s"))
    # Nothing here is shown in a line, and finding it out takes most of the time of one; see "Optimization" in the
    # logging HOWTO of Python's documentation.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel("WARNING")
