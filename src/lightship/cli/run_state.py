"""What `lightship up` leaves on disk while it runs, so that `lightship status` can tell of it.

One file per gateway address below `<home>/run/`; it is removed at the end, and ignored when its process is gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class ReplicaState(msgspec.Struct, frozen=True):
    """One replica. `phase` is where it stands in its life, "" where nobody here starts and stops it."""

    name: str
    base_url: str
    variant: str
    pid: int
    phase: str = ""
    detail: str = ""


class RunState(msgspec.Struct, frozen=True):
    """One running system."""

    pid: int
    model: str
    gateway_url: str
    report_path: str
    started_unix_s: float
    replicas: list[ReplicaState]


def run_folder(home: Path) -> Path:
    """Where state files lie."""
    return home / "run"


@contextmanager
def published(make_state: Callable[[], RunState], home: Path) -> Iterator[Callable[[], None]]:
    """Keeps the state file there while the block runs; the function it gives writes the state anew."""
    folder = run_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^A-Za-z0-9.-]+", "_", make_state().gateway_url) + ".json")

    def write() -> None:
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(make_state()))
        partial.replace(path)

    write()
    try:
        yield write
    finally:
        path.unlink(missing_ok=True)


def running_systems(home: Path) -> list[RunState]:
    """States whose process is alive; files of dead ones are removed.

    Effects: deletes stale files.
    """
    found = []
    for path in sorted(run_folder(home).glob("*.json")):
        try:
            state = msgspec.json.decode(path.read_bytes(), type=RunState)
        except (msgspec.DecodeError, FileNotFoundError):
            continue
        if _is_alive(state.pid):
            found.append(state)
        else:
            path.unlink(missing_ok=True)
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
