"""Memory of a process as the system counts it."""

from __future__ import annotations

from pathlib import Path


def peak_resident_bytes(process_id: int) -> int:
    """Peak resident memory of a process; 0 when it is gone or the system does not tell.

    Source: VmHWM in proc_pid_status(5).
    """
    return _status_bytes(process_id, "VmHWM:")


def resident_bytes(process_id: int) -> int:
    """Resident memory of a process now; 0 when it is gone or the system does not tell.

    Source: VmRSS in proc_pid_status(5).
    """
    return _status_bytes(process_id, "VmRSS:")


def _status_bytes(process_id: int, key: str) -> int:
    try:
        status = Path(f"/proc/{process_id}/status").read_text("ascii", errors="replace")
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith(key)), None)
    return 0 if line is None else int(line.split()[1]) * 1024


def group_members(group_id: int) -> list[int]:
    """Processes of a group, from /proc; empty where the system has none."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the command name, in brackets, may contain anything; what follows it does not
            fields = stat.read_text("ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group_id:
            members.append(int(stat.parent.name))
    return members
