"""Several runs of one protocol on one (variant, target) as one figure each. Pure.

One run says little on a machine that others use too: two runs of the same variant can differ by more than the step
between two rungs. So variants are measured in turn, several times over, each time on a worker of its own (a new
process places its memory and threads anew), and the interval of a figure spans the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.student import mean_of_runs
from lightship.ports.measurements import Interval, Measurement, Metric

CONFIDENCE = 0.95


def combine_runs(runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """One measurement for each figure of the runs: the mean over runs, with Student's interval.

    A single run is given back as it is, with the interval from inside it. `num_items` adds up; `details` are means,
    with `num_runs`, `lowest_run` and `highest_run` added. A figure that a run lacks (no request was answered, so there
    is no latency) is averaged over the others.

    Args:
        runs: For each run its measurements: the same variant, target, machine and protocols in all of them.

    Raises: MeasurementError: there is no run, or two runs are not of the same variant, target and machine.
    """
    if not runs:
        raise MeasurementError("there is no run to combine")
    if len(runs) == 1:
        return list(runs[0])
    found: dict[tuple[Metric, int, str], list[Measurement]] = {}
    for one in (one for run in runs for one in run):
        same = found.setdefault((one.metric, one.concurrency, one.protocol), [])
        if same and (one.variant_digest, one.target, one.machine) != _origin(same[0]):
            raise MeasurementError(f"runs of different variants, targets or machines: {one.metric}")
        same.append(one)
    return [_combined(measurements) for measurements in found.values()]


def _origin(one: Measurement) -> tuple[object, ...]:
    return (one.variant_digest, one.target, one.machine)


def _combined(runs: Sequence[Measurement]) -> Measurement:
    values = [one.value for one in runs]
    estimate = mean_of_runs(values, confidence=CONFIDENCE)
    shared = [key for key in runs[0].details if all(key in one.details for one in runs)]
    details = {key: fmean(one.details[key] for one in runs) for key in shared}
    return replace(
        runs[-1],
        value=estimate.value,
        interval=None if estimate.interval is None else _within_bounds(estimate.interval, runs[0].metric),
        num_items=sum(one.num_items for one in runs),
        details={**details, "num_runs": float(len(runs)), "lowest_run": min(values), "highest_run": max(values)},
    )


def _within_bounds(interval: Interval, metric: Metric) -> Interval:
    """No figure of speed is below 0 and no share above 1, whatever a symmetric interval says."""
    highest = 1.0 if metric is Metric.SLO_ATTAINMENT else interval.high
    return replace(interval, low=max(0.0, interval.low), high=min(highest, interval.high))
