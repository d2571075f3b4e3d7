"""Progress of what llm-compressor and AutoRound do, as the lines a job prints. Runs in the toolchain `compress`.

Neither library tells a caller how far it is, so this listens: to llm-compressor's own event at the end of each part of
the model, and to the line AutoRound logs after each block.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmcompressor.core import LifecycleCallbacks

# AutoRound's logger, and what its line after a block contains.
_AUTOROUND_LOGGER, _BLOCK_DONE = "autoround", "layers in the block"


def print_progress(done: float, total: float, note: str) -> None:
    """Prints one line of progress."""
    line = json.dumps({"event": "progress", "done": done, "total": total, "note": note})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def calibration_progress(num_parts: int, *, note: str = "calibrating") -> Iterator[None]:
    """Within, a line is printed whenever llm-compressor is done with a part of the model.

    Args:
        num_parts: Parts times passes; more than announced are counted as the last.
    """
    original = LifecycleCallbacks.sequential_epoch_end
    done = 0

    def reporting(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = original(*args, **kwargs)
        done = min(done + 1, num_parts)
        print_progress(done, num_parts, note)
        return result

    LifecycleCallbacks.sequential_epoch_end = reporting
    try:
        yield
    finally:
        LifecycleCallbacks.sequential_epoch_end = original


@contextmanager
def training_progress(num_blocks: int) -> Iterator[None]:
    """Within, a line is printed whenever AutoRound is done with a block."""
    handler = _BlockCounter(num_blocks)
    logger = logging.getLogger(_AUTOROUND_LOGGER)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _BlockCounter(logging.Handler):
    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self._num_blocks, self._done = num_blocks, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Counts the line of a block."""
        if _BLOCK_DONE in record.getMessage():
            self._done = min(self._done + 1, self._num_blocks)
            print_progress(self._done, self._num_blocks, "training the rounding")
