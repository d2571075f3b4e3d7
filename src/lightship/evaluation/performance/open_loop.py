"""Open loop: requests leave on a schedule, whether or not earlier ones are answered, as clients in the world do.

    |  warm-up  |            window             |    drain    |
    0       warmup_s                        end_s         + drain_s
                |<- requests scheduled here ->| count, whenever their answers come until the drain ends

Latencies count from the schedule, so a late client cannot flatter the server; but a client that is late offers another
load than the planned one, so the run is refused then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.clock import Clock

# Characters of prompts that are made before the clock runs; making them takes time of its own.
_MAX_CHARS_AHEAD = 64 * 2**20
# Seconds by which a request may leave early: below what any latency is given in.
_EARLIEST_S = 1e-4


class ClientLateError(MeasurementError):
    """The load client did not keep its schedule, so the figures would describe the client."""


@dataclass(frozen=True)
class LagLimits:
    """How late requests may leave before the run is refused.

    Args:
        p99_s: Limit that 99 of 100 requests keep. The default is a twentieth of a tight TTFT limit (200 ms).
        max_s: Limit that every request keeps. On a machine that others use too, a single stall of some ten
            milliseconds says nothing about the load of the whole run; one of a tenth of a second changes it.
    """

    p99_s: float = 0.010
    max_s: float = 0.100


DEFAULT_LAG_LIMITS = LagLimits()


@dataclass(frozen=True)
class PlannedRequest:
    """One request of a schedule."""

    offset_s: float
    prompt: str
    num_output_tokens: int


@dataclass(frozen=True)
class OpenLoop:
    """The bounds of a run, all as offsets from its start.

    Args:
        warmup_s: Requests scheduled before this count in no figure.
        end_s: End of the schedule and of the window.
        drain_s: Time after that for answers under way; then they are cut off.
        lag: When the run is refused.
    """

    warmup_s: float
    end_s: float
    drain_s: float = 30.0
    lag: LagLimits = DEFAULT_LAG_LIMITS

    def __post_init__(self) -> None:
        is_sensible = 0 <= self.warmup_s < self.end_s < math.inf and 0 <= self.drain_s < math.inf
        if not is_sensible:
            raise MeasurementError(
                f"a run of {self.end_s:g} s, {self.warmup_s:g} s of it warm-up, and {self.drain_s:g} s of drain leaves "
                "no duration that counts"
            )


async def run_open_loop(
    client: LoadClient, load: OpenLoop, requests: Iterable[PlannedRequest], *, clock: Clock
) -> LoadRun:
    """The records of one run, in the order of the schedule.

    Args:
        client: Sends the requests.
        load: When it begins to count, and when it ends.
        requests: Ascending offsets; made as they are needed, one ahead of the schedule.
        clock: The time that schedules and records.

    Raises:
        ClientLateError: requests left too late.
        MeasurementError: nothing is scheduled in the window.
    """
    planned = _made_ahead(iter(requests))
    began_s = clock.monotonic_s()
    cut_off_s = began_s + load.end_s + load.drain_s
    tasks: list[tuple[float, asyncio.Task[RequestRecord]]] = []
    async with asyncio.TaskGroup() as group:
        for request in planned:
            scheduled_s = began_s + request.offset_s
            while (wait_s := scheduled_s - clock.monotonic_s()) > _EARLIEST_S:  # event loops wake up a little early
                await clock.sleep(wait_s)
            sending = client.complete(
                request.prompt,
                max_tokens=request.num_output_tokens,
                scheduled_s=scheduled_s,
                cut_off_s=cut_off_s,
            )
            tasks.append((request.offset_s, group.create_task(sending)))
    warmup = tuple(task.result() for offset_s, task in tasks if offset_s < load.warmup_s)
    measured = tuple(task.result() for offset_s, task in tasks if load.warmup_s <= offset_s < load.end_s)
    if not measured:
        raise MeasurementError("no request is scheduled after the warm-up", hint="Lengthen the run.")
    refuse_late_client(measured, load.lag)
    return LoadRun(0, measured, warmup, began_s + load.warmup_s, began_s + load.end_s)


def _made_ahead(requests: Iterator[PlannedRequest]) -> Iterator[PlannedRequest]:
    """The same requests, the first of them made now."""
    ready: list[PlannedRequest] = []
    num_chars = 0
    for request in requests:
        ready.append(request)
        num_chars += len(request.prompt)
        if num_chars > _MAX_CHARS_AHEAD:
            break
    return chain(ready, requests)


def refuse_late_client(records: Sequence[RequestRecord], limits: LagLimits) -> None:
    """Holds a run to its schedule.

    Raises: ClientLateError: over one request in a hundred (and more than one) left later than `p99_s`, or any later
        than `max_s`.
    """
    if not records:
        return
    lags_s = sorted(record.lag_s for record in records)
    num_late = sum(lag_s > limits.p99_s for lag_s in lags_s)
    if num_late > max(1, 0.01 * len(lags_s)) or lags_s[-1] > limits.max_s:
        raise ClientLateError(
            f"the load client was late: {num_late} of {len(lags_s)} requests by more than {limits.p99_s * 1000:g} ms, "
            f"one by {lags_s[-1] * 1000:.0f} ms (limits: {limits.p99_s * 1000:g} ms for 99 of 100, "
            f"{limits.max_s * 1000:g} ms for all), so the figures would describe the client",
            hint="Lower the request rate, or run the client on cores that nothing else uses.",
        )
