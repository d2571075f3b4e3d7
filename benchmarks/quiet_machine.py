"""Whether other programs took part of the machine during a run, from the processor's accounts."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Processor ticks of all cores so far: all of them, those in which something ran, and our own."""

    total: int
    busy: int
    own: int


def usage(process_group: int) -> Usage:
    """The accounts now. Our own are this process and those of `process_group`; what the host takes counts as busy."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    found = subprocess.run(["pgrep", "-g", str(process_group)], capture_output=True, text=True, check=False)
    own = sum(process_ticks(int(pid)) for pid in (*found.stdout.split(), str(os.getpid())))
    return Usage(sum(fields), sum(fields) - fields[3] - fields[4], own)


def foreign_share(before: Usage, after: Usage) -> float:
    """Share of the machine's time that other programs took in between."""
    return (after.busy - before.busy - (after.own - before.own)) / max(1, after.total - before.total)


def process_ticks(pid: int) -> int:
    """Ticks a process ran so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
