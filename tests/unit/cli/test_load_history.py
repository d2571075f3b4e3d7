from __future__ import annotations

from lightship.cli.load_history import latest_workload
from lightship.evaluation.performance.records import Slo
from lightship.ports.measurements import Measurement, Metric, Target

SLO = Slo(ttft_ms=400, tpot_ms=40)
TARGET = Target("openvino", "1", "CPU", "avx2", 2)


def figure(protocol: str, at: float, metric: Metric = Metric.GOODPUT_REQUESTS_PER_S) -> Measurement:
    return Measurement(metric, 1.0, "sha256:a", TARGET, protocol, 10, None, at, "m")


SLOW = figure(f"open-loop-1/poisson/p64-o32/r10/5+30s/seed0/{SLO.name}", 1.0)
FAST = figure(f"open-loop-1/poisson/p64-o32/r50/5+30s/seed7/{SLO.name}", 2.0)
LATENCY = figure("open-loop-1/poisson/p64-o32/r50/5+30s/seed7", 2.0, Metric.TTFT_MS)


def test_latest_workload_every_rate_of_the_newest_comes_along() -> None:
    longer = figure(f"open-loop-1/poisson/p640-o32/r10/5+30s/seed0/{SLO.name}", 1.5)
    closed = figure("closed-loop-1/quick/p64-o32/c1-8-32/3x1s", 9.0)
    assert latest_workload([SLOW, longer, FAST, LATENCY, closed], SLO) == [SLOW, FAST, LATENCY]


def test_latest_workload_of_another_slo_is_left_out() -> None:
    strict = figure("open-loop-1/poisson/p64-o32/r10/5+30s/seed0/slo-ttft100ms-tpot40ms", 3.0)
    assert latest_workload([SLOW, strict], SLO) == [SLOW]
    free = figure(f"open-loop-1/poisson/p64-o32/r10/5+30s/seed0/{SLO.name}/free-length", 3.0)
    assert latest_workload([SLOW, free], SLO) == [SLOW, free]


def test_latest_workload_trace_at_several_speeds_is_one() -> None:
    once = figure(f"open-loop-1/trace-azure-1a2b3c4d/for60s-len0.1/5+25s/seed1/{SLO.name}", 1.0)
    twice = figure(f"open-loop-1/trace-azure-1a2b3c4d/for60s-x2-len0.1/5+25s/seed1/{SLO.name}", 2.0)
    shorter = figure(f"open-loop-1/trace-azure-1a2b3c4d/for60s-x2-len0.2/5+25s/seed1/{SLO.name}", 1.5)
    assert latest_workload([once, shorter, twice], SLO) == [once, twice]


def test_latest_workload_nothing_measured_gives_nothing() -> None:
    assert latest_workload([], SLO) == []
