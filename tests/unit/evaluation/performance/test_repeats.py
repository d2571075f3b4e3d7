from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.repeats import combine_runs
from lightship.ports.measurements import Interval, Measurement, Metric, Target

TARGET = Target("openvino", "1", "CPU", "avx2", 2)
SPEED = Measurement(
    metric=Metric.GOODPUT_REQUESTS_PER_S,
    value=10.0,
    variant_digest="sha256:a",
    target=TARGET,
    protocol="p",
    num_items=20,
    interval=Interval(9.0, 11.0, 0.95),
    measured_unix_s=1.0,
    machine="m",
    concurrency=8,
    details={"window_s": 1.0, "errors": 0.0},
)


def test_combine_runs_mean_interval_counts_and_range_by_hand() -> None:
    """10, 12, 14: mean 12, t(2) = 4.3027, s = 2, half a width of 4.968."""
    values = (10.0, 14.0, 12.0)
    runs = [[replace(SPEED, value=value, measured_unix_s=at)] for at, value in enumerate(values, start=1)]
    [combined] = combine_runs(runs)
    assert (combined.value, combined.num_items, combined.measured_unix_s) == (12.0, 60, 3.0)
    assert combined.interval is not None
    assert combined.interval.low == pytest.approx(7.032, abs=1e-3)
    assert combined.interval.high == pytest.approx(16.968, abs=1e-3)
    assert combined.details == {
        "window_s": 1.0,
        "errors": 0.0,
        "num_runs": 3.0,
        "lowest_run": 10.0,
        "highest_run": 14.0,
    }


def test_combine_runs_single_run_keeps_its_own_interval() -> None:
    assert combine_runs([[SPEED]]) == [SPEED]


def test_combine_runs_figures_of_different_load_or_protocol_stay_apart() -> None:
    others = [replace(SPEED, concurrency=32, value=40.0), replace(SPEED, protocol="q", value=50.0)]
    combined = combine_runs([[SPEED, *others], [SPEED, *others]])
    assert [(one.concurrency, one.protocol, one.value) for one in combined] == [
        (8, "p", 10.0),
        (32, "p", 40.0),
        (8, "q", 50.0),
    ]


def test_combine_runs_figure_that_one_run_lacks_is_averaged_over_the_others() -> None:
    latency = replace(SPEED, metric=Metric.TTFT_MS)
    combined = combine_runs([[SPEED, latency], [SPEED], [SPEED, replace(latency, value=20.0)]])
    found = next(one for one in combined if one.metric is Metric.TTFT_MS)
    assert (found.value, found.details["num_runs"]) == (15.0, 2.0)


def test_combine_runs_interval_stays_where_the_figure_can_be() -> None:
    share = replace(SPEED, metric=Metric.SLO_ATTAINMENT)
    [combined] = combine_runs([[replace(share, value=1.0)], [replace(share, value=0.2)]])
    assert combined.interval == Interval(0.0, 1.0, 0.95)


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEED, variant_digest="sha256:b"),
        replace(SPEED, machine="n"),
        replace(SPEED, target=replace(TARGET, num_threads=4)),
    ],
)
def test_combine_runs_of_different_things_are_refused(other: Measurement) -> None:
    with pytest.raises(MeasurementError, match="different variants"):
        combine_runs([[SPEED], [other]])


def test_combine_runs_nothing_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no run"):
        combine_runs([])
