"""The highest load that still keeps the SLO: which load to try next, decided by what was seen. Pure.

    first load --met--> double --met--> double ... --missed--+
        |                                                    |-> halve the bracket between the highest load that met
        +--missed--> halve --missed--> halve ... --met-------+   and the lowest that missed, until it is narrow

A load is *met* when the lower end of the interval of its attainment reaches the wanted share, *missed* when the upper
end stays below it. In between it is *undecided*: it is tried again, for twice as long, and at last taken as missed,
because a capacity that was not shown is not promised.

Attainment should fall as load rises. Where it does not, beyond what chance allows, the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lightship.errors import MeasurementError
from lightship.evaluation.performance.load_result import LEVEL
from lightship.evaluation.performance.open_loop import ClientLateError
from lightship.evaluation.statistics.shares import wilson_interval
from lightship.ports.measurements import Interval
from lightship.ports.progress import Progress, SilentProgress


class Verdict(StrEnum):
    """What the runs at one load say."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Trial:
    """One run at one load. `failure` says why it gave no counts; then it counts as missed."""

    load: float
    num_good: int
    num_requests: int
    duration_s: float
    failure: str = ""


@dataclass(frozen=True)
class SearchPlan:
    """The bounds of a search.

    Args:
        attainment: Share of the requests that must meet the SLO.
        first: Load of the first run.
        lowest: No load below this is tried.
        highest: No load above this is tried.
        duration_s: Length of a first run at a load.
        precision: The search ends when the bracket is narrower than this share of its lower end.
        is_whole: Whether loads are whole numbers (users) or not (requests per second).
        max_runs: Runs in all.
        max_runs_per_load: Runs at one load before undecided counts as missed; each is twice as long as the last.
        max_total_s: Sum of the durations of all runs.
    """

    attainment: float
    first: float
    lowest: float
    highest: float
    duration_s: float
    precision: float = 0.05
    is_whole: bool = False
    max_runs: int = 20
    max_runs_per_load: int = 3
    max_total_s: float = 1800.0

    def __post_init__(self) -> None:
        problems = [
            (0 < self.attainment < 1, f"the wanted attainment must lie between 0 and 1, got {self.attainment:g}"),
            (
                0 < self.lowest <= self.first <= self.highest < math.inf,
                f"loads must be 0 < lowest <= first <= highest, got {self.lowest:g}, {self.first:g}, {self.highest:g}",
            ),
            (self.duration_s > 0, f"the duration must be above 0 s, got {self.duration_s:g}"),
            (0 < self.precision < 1, f"the precision must lie between 0 and 1, got {self.precision:g}"),
            (self.max_runs >= 1 and self.max_runs_per_load >= 1, "a search needs at least one run"),
        ]
        for is_met, message in problems:
            if not is_met:
                raise MeasurementError(message)


@dataclass(frozen=True)
class NextRun:
    """The search goes on."""

    load: float
    duration_s: float


@dataclass(frozen=True)
class LoadVerdict:
    """What all runs at one load say together. `interval` is None where a run failed."""

    load: float
    verdict: Verdict
    num_good: int
    num_requests: int
    interval: Interval | None


@dataclass(frozen=True)
class SearchResult:
    """Where the search ended.

    `best` is the highest load shown to meet the SLO with every tried load below it not missed; None: none was.
    `lowest_missed` is the lowest load that was not shown to. `reason` says why the search stopped.
    """

    plan: SearchPlan
    best: LoadVerdict | None
    lowest_missed: LoadVerdict | None
    reason: str
    notes: tuple[str, ...]
    trials: tuple[Trial, ...]
    loads: tuple[LoadVerdict, ...]


def judge_loads(trials: Sequence[Trial], plan: SearchPlan) -> tuple[LoadVerdict, ...]:
    """A verdict on every load tried, in order of load; runs at one load are counted together."""
    by_load: dict[float, list[Trial]] = {}
    for trial in trials:
        by_load.setdefault(trial.load, []).append(trial)
    return tuple(_judge(load, by_load[load], plan) for load in sorted(by_load))


def _judge(load: float, trials: Sequence[Trial], plan: SearchPlan) -> LoadVerdict:
    num_good, num_requests = sum(one.num_good for one in trials), sum(one.num_requests for one in trials)
    if any(one.failure for one in trials) or num_requests == 0:
        return LoadVerdict(load, Verdict.MISSED, num_good, num_requests, None)
    interval = wilson_interval(num_good, num_requests, confidence=LEVEL)
    if interval.low >= plan.attainment:
        verdict = Verdict.MET
    elif interval.high < plan.attainment or len(trials) >= plan.max_runs_per_load:
        verdict = Verdict.MISSED
    else:
        verdict = Verdict.UNDECIDED
    return LoadVerdict(load, verdict, num_good, num_requests, interval)


def next_step(trials: Sequence[Trial], plan: SearchPlan) -> NextRun | SearchResult:
    """The next run, or the result."""
    if not trials:
        return NextRun(plan.first, plan.duration_s)
    loads = judge_loads(trials, plan)
    open_loads = [one for one in loads if one.verdict is Verdict.UNDECIDED]
    if open_loads:
        load = open_loads[0].load
        duration_s = 2 * max(one.duration_s for one in trials if one.load == load)
        return _bounded(NextRun(load, duration_s), trials, loads, plan)
    best, missed = _bracket(loads)
    if best is None and missed is not None and missed.load <= plan.lowest:
        return _result(trials, loads, plan, f"even the lowest load, {plan.lowest:g}, misses")
    if missed is None and best is not None and best.load >= plan.highest:
        return _result(trials, loads, plan, f"the highest load allowed, {plan.highest:g}, meets the SLO")
    if best is not None and missed is not None and _is_narrow(best.load, missed.load, plan):
        return _result(trials, loads, plan, f"the bracket {best.load:g}..{missed.load:g} is as narrow as wanted")
    return _bounded(NextRun(_next_load(best, missed, plan), plan.duration_s), trials, loads, plan)


def _bracket(loads: Sequence[LoadVerdict]) -> tuple[LoadVerdict | None, LoadVerdict | None]:
    """The lowest load that missed, and the highest below it that met."""
    missed = next((one for one in loads if one.verdict is Verdict.MISSED), None)
    below = [one for one in loads if one.verdict is Verdict.MET and (missed is None or one.load < missed.load)]
    return (below[-1] if below else None), missed


def _is_narrow(low: float, high: float, plan: SearchPlan) -> bool:
    return high - low <= plan.precision * low or (plan.is_whole and high - low <= 1)


def _next_load(best: LoadVerdict | None, missed: LoadVerdict | None, plan: SearchPlan) -> float:
    if missed is None:
        assert best is not None
        load = min(plan.highest, 2 * best.load)
    elif best is None:
        load = max(plan.lowest, missed.load / 2)
        load = math.floor(load) if plan.is_whole else load
        load = max(load, plan.lowest)
    else:
        # the middle on a logarithmic scale: precision is a share of the load
        load = math.sqrt(best.load * missed.load)
        if plan.is_whole:
            load = min(max(round(load), best.load + 1), missed.load - 1)
    return float(load)


def _bounded(
    step: NextRun, trials: Sequence[Trial], loads: Sequence[LoadVerdict], plan: SearchPlan
) -> NextRun | SearchResult:
    spent_s = sum(one.duration_s for one in trials)
    if len(trials) >= plan.max_runs:
        return _result(trials, loads, plan, f"the limit of {plan.max_runs} runs was reached")
    if spent_s + step.duration_s > plan.max_total_s:
        return _result(trials, loads, plan, f"the limit of {plan.max_total_s:g} s of load was reached")
    return step


def _result(trials: Sequence[Trial], loads: Sequence[LoadVerdict], plan: SearchPlan, reason: str) -> SearchResult:
    missing = [one for one in loads if one.verdict is not Verdict.MET]
    best, _ = _bracket(loads)
    lowest_missed = next((one for one in missing if best is None or one.load > best.load), None)
    return SearchResult(plan, best, lowest_missed, reason, _notes(loads), tuple(trials), tuple(loads))


def _notes(loads: Sequence[LoadVerdict]) -> tuple[str, ...]:
    notes = [
        f"the runs at {one.load:g} do not decide; it counts as not met"
        for one in loads
        if one.verdict is Verdict.UNDECIDED
    ]
    for index, lower in enumerate(loads):
        for higher in loads[index + 1 :]:
            if lower.interval and higher.interval and lower.interval.high < higher.interval.low:
                notes.append(
                    f"attainment is higher at {higher.load:g} ({higher.num_good}/{higher.num_requests}) than at "
                    f"{lower.load:g} ({lower.num_good}/{lower.num_requests}), beyond chance: something else changed"
                )
    return tuple(notes)


Measure = Callable[[NextRun, int], Awaitable[Trial]]


async def search_load(plan: SearchPlan, measure: Measure, *, progress: Progress | None = None) -> SearchResult:
    """The result of the search.

    Args:
        plan: Its bounds.
        measure: Makes one run; the number of the run is for seeds, so that no run repeats another's prompts.
        progress: Told of every run.

    Raises: MeasurementError: the very first run failed.
    Effects: those of `measure`, at most `max_runs` times.
    """
    trials: list[Trial] = []
    with (progress or SilentProgress()).task("search for the highest load") as task:
        while isinstance(step := next_step(trials, plan), NextRun):
            task.advance(done=len(trials), note=f"load {step.load:.4g} for {step.duration_s:g} s")
            try:
                trials.append(await measure(step, len(trials)))
            except ClientLateError as error:
                if not trials:
                    raise
                reason = f"the client could not offer {step.load:.4g}: {error.what}"
                return _result(trials, judge_loads(trials, plan), plan, reason)
            except MeasurementError as error:
                if not trials:
                    raise
                # under a load far too high an endpoint may answer nothing at all, and that is an answer
                trials.append(Trial(step.load, 0, 0, step.duration_s, failure=error.what))
    return step
