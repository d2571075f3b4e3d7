"""Locks between processes that end with their holder, however it ends.

Built on `flock(2)`: the kernel drops the lock when the holder's file closes, a crash included. A lock file may be
removed by its exclusive holder only; whoever waited for a removed file notices and takes the new one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightship.ports.clock import Clock

# Long enough to cost nothing while a build runs for minutes, short enough not to be felt when it ends.
_POLL_S = 0.1


class LockTimeoutError(Exception):
    """The lock was held by others all the time one was ready to wait."""


@contextmanager
def try_lock(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the lock inside the block if it was free; the value says whether.

    Effects: creates the file and its folder.
    """
    file = _lock_now(path, shared=shared)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def wait_lock(
    path: Path,
    clock: Clock,
    *,
    max_wait_s: float,
    on_wait: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Holds the lock exclusively inside the block.

    Args:
        on_wait: Called once, when the lock is not free at once.
        sleep: Passes the given number of seconds; the lock is polled because `flock` itself cannot be given a limit.

    Raises: LockTimeoutError: it was not free within `max_wait_s`.
    """
    deadline_s = clock.monotonic_s() + max_wait_s
    has_told = False
    while (file := _lock_now(path, shared=False)) is None:
        if not has_told:
            on_wait()
            has_told = True
        if clock.monotonic_s() >= deadline_s:
            raise LockTimeoutError(str(path))
        sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(file)


def _lock_now(path: Path, *, shared: bool) -> int | None:
    """A locked file descriptor, or None when another holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is_still(file, path):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder removed the file between our open and our lock: take the new one


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
