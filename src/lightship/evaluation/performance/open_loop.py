"""Open loop: requests leave on a schedule, whether or not earlier ones are answered, as clients in the world do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from itertools import islice

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.clock import Clock

# Seconds. A tenth of a tight TTFT limit (200 ms, half of that spent): more lag would be the client's figure, not the
# server's.
DEFAULT_MAX_LAG_S = 0.010


def poisson_arrivals(*, requests_per_s: float, duration_s: float, seed: int) -> tuple[float, ...]:
    """Offsets in seconds of random arrivals at a mean rate, ascending, all below `duration_s`."""
    rng = random.Random(seed)
    offsets: list[float] = []
    offset_s = rng.expovariate(requests_per_s)
    while offset_s < duration_s:
        offsets.append(offset_s)
        offset_s += rng.expovariate(requests_per_s)
    return tuple(offsets)


async def run_open_loop(
    client: LoadClient,
    arrivals_s: Sequence[float],
    prompts: Iterator[str],
    *,
    clock: Clock,
    num_output_tokens: int,
    warmup_s: float,
    time_cap_s: float,
    max_lag_s: float = DEFAULT_MAX_LAG_S,
) -> LoadRun:
    """The records of one open-loop run; its window runs from `warmup_s` to the last arrival.

    Args:
        client: Sends the requests.
        arrivals_s: Offsets from the start of the run, ascending.
        prompts: At least as many prompts as arrivals.
        clock: The time that schedules and records.
        num_output_tokens: Tokens asked for in each answer.
        warmup_s: Requests scheduled before this offset count in no figure.
        time_cap_s: Offset at which what is still in flight is cut off.
        max_lag_s: Lateness of the client above which the run is refused.

    Raises: MeasurementError: the client was late, or nothing is scheduled after the warm-up.
    """
    if not arrivals_s or arrivals_s[-1] <= warmup_s:
        raise MeasurementError("no request is scheduled after the warm-up", hint="Lengthen the run.")
    drawn = list(islice(prompts, len(arrivals_s)))  # before the clock runs: drawing takes time of its own
    began_s = clock.monotonic_s()
    records: list[RequestRecord] = []

    async def request(prompt: str, scheduled_s: float) -> None:
        records.append(
            await client.complete(
                prompt, max_tokens=num_output_tokens, scheduled_s=scheduled_s, cut_off_s=began_s + time_cap_s
            )
        )

    async with asyncio.TaskGroup() as requests:
        for prompt, offset_s in zip(drawn, arrivals_s, strict=True):
            await clock.sleep(max(0.0, began_s + offset_s - clock.monotonic_s()))
            requests.create_task(request(prompt, began_s + offset_s))
    refuse_late_client(records, max_lag_s=max_lag_s)
    start_s = began_s + warmup_s
    return LoadRun(
        0,
        tuple(record for record in records if record.scheduled_s >= start_s),
        tuple(record for record in records if record.scheduled_s < start_s),
        start_s,
        began_s + arrivals_s[-1],
    )


def refuse_late_client(records: Sequence[RequestRecord], *, max_lag_s: float) -> None:
    """Holds a run to its schedule.

    Raises: MeasurementError: a request left later than `max_lag_s` after its time, so the load was not the planned one.
    """
    worst_s = max((record.lag_s for record in records), default=0.0)
    if worst_s > max_lag_s:
        num_late = sum(record.lag_s > max_lag_s for record in records)
        raise MeasurementError(
            f"the load client was late: {num_late} of {len(records)} requests, by up to {worst_s * 1000:.0f} ms "
            f"(limit {max_lag_s * 1000:.0f} ms), so the figures would describe the client",
            hint="Lower the request rate or run the client on another machine.",
        )
