"""Closed loop: a fixed number of users, each sending its next request when the last one is answered.

    user 0   |warm-up|  request  |  request  |  request  |.
    user 1   | warm-up  |  request  |  request  |  request  |.
    user 2   |   warm-up   |  request  |  request  |  request  |.
                          ^ window opens: the last warm-up ended   ^ window closes: the first user stops

In the window every user has exactly one request in flight, so rates are taken there and nowhere else. Warm-up answers
have different lengths, so that the users do not march in step: in step, all prompts would arrive in one burst and the
engine would alternate between prefill and decoding, which no real load does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.records import ErrorKind, RequestRecord
from lightship.ports.clock import Clock

# Failures in a row after which a user stops: enough to rule out an accident, few enough not to hammer a broken server.
_MAX_FAILURES_IN_A_ROW = 3
# Share of the wanted window below which rates would be noise.
_MIN_WINDOW_SHARE = 0.1


@dataclass(frozen=True)
class ClosedLoop:
    """How much load, and its bounds.

    Args:
        concurrency: Users.
        num_output_tokens: Tokens asked for in each answer.
        duration_s: Length of the window; it closes when the first user's request ends after that.
        time_cap_s: Hard end of the whole run, warm-up included; what is in flight then is cut off.
        max_requests: Bound on requests after the warm-up, over all users.
    """

    concurrency: int
    num_output_tokens: int
    duration_s: float
    time_cap_s: float
    max_requests: int


@dataclass(frozen=True)
class LoadRun:
    """Records of a run. `records` are the measured ones; `warmup` ones count in no figure."""

    concurrency: int
    records: tuple[RequestRecord, ...]
    warmup: tuple[RequestRecord, ...]
    window_start_s: float
    window_end_s: float

    @property
    def window_s(self) -> float:
        """Seconds in which all users were busy."""
        return self.window_end_s - self.window_start_s


class _ClosedLoopRun:
    """State shared by the users of one run; all of them live in one event loop, and none awaits while it changes it."""

    def __init__(self, load: ClosedLoop, client: LoadClient, prompts: Iterator[str], clock: Clock) -> None:
        self._load = load
        self._client = client
        self._prompts = prompts
        self._clock = clock
        self._cap_s = clock.monotonic_s() + load.time_cap_s
        self._num_sent = 0
        self.warmup: list[RequestRecord] = []
        self.records: list[RequestRecord] = []
        self.window_end_s = math.inf

    @property
    def window_start_s(self) -> float:
        """End of the last warm-up; infinite until then."""
        if len(self.warmup) < self._load.concurrency:
            return math.inf
        return max(record.ended_s for record in self.warmup)

    async def user(self, index: int) -> None:
        """One user, from its warm-up until the run ends or its requests keep failing."""
        share = (index + 1) / self._load.concurrency
        record = await self._request(max(1, math.ceil(self._load.num_output_tokens * share)))
        self.warmup.append(record)
        num_failures = int(record.error is not None)
        while num_failures < _MAX_FAILURES_IN_A_ROW and self._has_more():
            self._num_sent += 1
            record = await self._request(self._load.num_output_tokens)
            self.records.append(record)
            num_failures = num_failures + 1 if record.error is not None else 0
        self.window_end_s = min(self.window_end_s, self._clock.monotonic_s())

    def _has_more(self) -> bool:
        now_s = self._clock.monotonic_s()
        is_over = now_s >= min(self.window_start_s + self._load.duration_s, self._cap_s)
        return not is_over and self._num_sent < self._load.max_requests

    async def _request(self, num_tokens: int) -> RequestRecord:
        return await self._client.complete(next(self._prompts), max_tokens=num_tokens, cut_off_s=self._cap_s)


async def run_closed_loop(client: LoadClient, load: ClosedLoop, prompts: Iterator[str], *, clock: Clock) -> LoadRun:
    """The records of one closed-loop run and its window.

    Raises: MeasurementError: no request succeeded, or the run ended before every user was busy.
    Effects: sends requests until the window is over, at most for `time_cap_s`.
    """
    run = _ClosedLoopRun(load, client, prompts, clock)
    async with asyncio.TaskGroup() as users:
        for index in range(load.concurrency):
            users.create_task(run.user(index))
    _refuse_failed_run(run, load)
    return LoadRun(load.concurrency, tuple(run.records), tuple(run.warmup), run.window_start_s, run.window_end_s)


def _refuse_failed_run(run: _ClosedLoopRun, load: ClosedLoop) -> None:
    where = f"closed loop at concurrency {load.concurrency}"
    everything = (*run.warmup, *run.records)
    failures = [record for record in everything if record.error not in {None, ErrorKind.CUT_OFF}]
    has_answer = any(record.error is None for record in run.records)
    if failures and not has_answer:
        first = failures[0]
        raise MeasurementError(
            f"no measured request succeeded; the first failure was {first.error}: {first.error_detail}", where=where
        )
    is_warm = all(record.error is not ErrorKind.CUT_OFF for record in run.warmup)
    if not is_warm or not has_answer:
        raise MeasurementError(
            f"the run ended at its time cap of {load.time_cap_s:g} s before every user had an answer",
            where=where,
            hint="Raise the time cap, or shorten prompts and answers.",
        )
    window_s = run.window_end_s - run.window_start_s
    if window_s < _MIN_WINDOW_SHARE * load.duration_s:
        raise MeasurementError(
            f"all {load.concurrency} users were busy for only {max(0.0, window_s):.3f} s of the {load.duration_s:g} s "
            f"wanted, with {len(failures)} of {len(everything)} requests failed",
            where=where,
            hint="Raise the bound on requests or the time cap; if requests failed, look at the worker's log.",
        )
