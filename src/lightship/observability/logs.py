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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel("WARNING")
