"""Writing so that it lasts, and telling a full disk from other failures."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightship.errors import StorageFullError, ToolchainError
from lightship.units import format_bytes

_FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_HINT = "Free some space (`lightship artifacts gc`), or set LIGHTSHIP_HOME to a larger disk."
# A job in another process reports a full disk in its own words; so little left explains its failure.
_NOTHING_LEFT_BYTES = 64 * 1024


def check_free(folder: Path, needed_bytes: int) -> None:
    """Returns when the disk of `folder`, which need not exist yet, has so much space.

    Raises: StorageFullError: it has less.
    """
    free_bytes = free_disk_bytes(folder)
    if free_bytes < needed_bytes:
        raise StorageFullError(
            f"about {format_bytes(needed_bytes)} are needed, {format_bytes(free_bytes)} are free",
            where=str(folder),
            hint=_HINT,
        )


def free_disk_bytes(folder: Path) -> int:
    """Bytes this user may still write on the disk of `folder` or of its nearest parent that exists."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


@contextmanager
def full_disk_as_storage_error(root: Path, *, written_in: Path | None = None) -> Iterator[None]:
    """Turns a full disk inside the block into a `StorageFullError` that says how much was written and is free.

    Covers the operating system's errors, and a job's failure that tells of one or leaves no space behind. Other
    exceptions pass unchanged.

    Args:
        written_in: Folder whose files are what the block wrote.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_DISK_ERRNOS:
            raise
        raise _storage_full(root, written_in) from error
    except ToolchainError as error:
        tells_of_it = os.strerror(errno.ENOSPC) in str(error)
        if not tells_of_it and free_disk_bytes(root) >= _NOTHING_LEFT_BYTES:
            raise
        raise _storage_full(root, written_in) from error


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; one that vanishes meanwhile counts nothing."""
    total_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total_bytes += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total_bytes


def write_durably(path: Path, content: bytes) -> None:
    """Replaces the file's content at once and for good, through a temporary neighbour.

    Effects: flushes the file and its folder to the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent, recursive=False)


def sync_folder(folder: Path, *, recursive: bool = True) -> None:
    """Flushes a folder's list of names to the disk, and with `recursive` all files and folders below."""
    if recursive:
        for path in folder.rglob("*"):
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _storage_full(root: Path, written_in: Path | None) -> StorageFullError:
    free = format_bytes(free_disk_bytes(root))
    after = f" after {format_bytes(folder_bytes(written_in))} were written" if written_in is not None else ""
    return StorageFullError(f"the disk became full{after} ({free} are free)", where=str(root), hint=_HINT)
