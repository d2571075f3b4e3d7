"""Which of a variant's open-loop figures belong into one report: of one workload, judged by one SLO. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightship.evaluation.performance.records import Slo
from lightship.ports.measurements import Measurement, Metric

_PREFIX = "open-loop-1/"
_JUDGED = frozenset({Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT})
# How much faster than recorded a trace was replayed: its rate, so that it does not make another workload.
_TIME_SCALE = re.compile(r"(?:^|-)x[0-9.e+]+")


def latest_workload(figures: Iterable[Measurement], slo: Slo) -> list[Measurement]:
    """The open-loop figures of the workload that was measured last, at every rate it was measured at.

    Figures of other workloads (longer prompts, another trace) or of another SLO would draw one curve through different
    things.
    """
    found = [one for one in figures if one.protocol.startswith(_PREFIX) and _is_judged_by(one, slo)]
    if not found:
        return []
    newest = max(found, key=lambda one: one.measured_unix_s)
    return [one for one in found if workload_of(one.protocol) == workload_of(newest.protocol)]


def workload_of(protocol: str) -> str:
    """The part of an open loop's protocol name that does not change with the rate.

    >>> workload_of("open-loop-1/poisson/p64-o32/r10/5+30s/seed0")
    'poisson/p64-o32'
    >>> workload_of("open-loop-1/trace-azure-1a2b3c4d/for60s-x2-len0.1/5+25s/seed1")
    'trace-azure-1a2b3c4d/for60s-len0.1'
    """
    _, kind, detail, *_ = protocol.split("/")
    return f"{kind}/{_TIME_SCALE.sub('', detail)}" if kind.startswith("trace-") else f"{kind}/{detail}"


def _is_judged_by(one: Measurement, slo: Slo) -> bool:
    return one.metric not in _JUDGED or one.protocol.removesuffix("/free-length").endswith(f"/{slo.name}")
