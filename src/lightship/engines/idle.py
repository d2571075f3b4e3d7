"""Whether a server has requests under way, by the gauges on its `/metrics`: how a program is drained from outside.

No client library: this runs in the small process beside the server (see `tether`), which has to start at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_POLL_S = 0.1
_READ_TIMEOUT_S = 2.0
_METRICS_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Drain:
    """How a server that is to end lets its requests finish.

    Args:
        metrics_url: Where its gauges are.
        gauges: Names of those that count requests, running and waiting.
        timeout_s: Longest wait for them.
        is_signal_first: Whether the server itself finishes what is under way once it is told to end, and refuses the
            rest; else it is told only when nothing is under way, because it would break everything off.
        grace_s: Time to end once nothing is under way; a server that is still there then hangs.
    """

    metrics_url: str
    gauges: tuple[str, ...]
    timeout_s: float
    is_signal_first: bool
    grace_s: float = 3.0


def num_requests(exposition: bytes, gauges: Sequence[str]) -> float | None:
    """The sum of these gauges over all their series in a Prometheus text; None where it has none of them.

    >>> num_requests(b'running{rank="0"} 2.0\\nrunning{rank="1"} 1.0\\nwaiting 4\\nother 9', ["running", "waiting"])
    7.0
    """
    wanted = {name.encode() for name in gauges}
    values = []
    for line in exposition.splitlines():
        if line.partition(b"{")[0].partition(b" ")[0] in wanted:
            try:
                values.append(float(line.rpartition(b"}")[2].split()[0] if b"{" in line else line.split()[1]))
            except (IndexError, ValueError):
                continue
    return sum(values) if values else None


def read_metrics(url: str) -> bytes | None:
    """What the server says, None where it does not answer."""
    import urllib.request  # nine megabytes and 17 ms that nobody needs before the end

    try:
        with urllib.request.urlopen(url, timeout=_READ_TIMEOUT_S) as reply:
            content: bytes = reply.read(_METRICS_BYTES)
            return content
    except (OSError, ValueError):
        return None


def wait_until_idle(
    drain: Drain, *, is_over: Callable[[], bool], read: Callable[[str], bytes | None] = read_metrics
) -> None:
    """Returns when nothing is under way, when that cannot be told any more, or when the time is over.

    Twice in a row, because a request is for a moment in none of the gauges: after it was read, before it is queued.

    Args:
        drain: Whom to ask.
        is_over: Whether waiting has no use any more, because the server has ended or must end now.
        read: Reads `/metrics`.
    """
    ends_at_s = time.monotonic() + drain.timeout_s
    num_idle = 0
    while num_idle < 2 and not is_over() and time.monotonic() < ends_at_s:
        exposition = read(drain.metrics_url)
        found = None if exposition is None else num_requests(exposition, drain.gauges)
        num_idle = num_idle + 1 if not found else 0
        time.sleep(_POLL_S)
