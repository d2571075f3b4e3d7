"""How much memory processes of this machine may take together: what it has, or less where a control group says so."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Bytes; 0 where the system does not tell.

    Source of the limit: memory.max of cgroup v2, memory.limit_in_bytes of v1 (kernel documentation, admin-guide).
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 0
    limits = [limit for name in ("memory.max", "memory/memory.limit_in_bytes") if (limit := _limit(cgroup / name))]
    return min([total, *limits]) if total else min(limits, default=0)


def _limit(path: Path) -> int:
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0  # `max` is no limit
