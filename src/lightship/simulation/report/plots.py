"""Which lines a simulation has, and on which axes they are drawn. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from lightship.evaluation.report.axes import Axes, Axis
from lightship.evaluation.report.wording import tick
from lightship.simulation.report.lines import Line
from lightship.simulation.result import SimulationResult

_HOUR_S, _MINUTE_S = 3600.0, 60.0


@dataclass(frozen=True)
class TimePlot:
    """One plot over time."""

    axes: Axes
    lines: tuple[Line, ...]


def label_of(result: SimulationResult) -> str:
    """What a simulation is called beside others."""
    return result.alternative or "as written"


def time_plots(results: Sequence[SimulationResult]) -> list[TimePlot]:
    """Goodput, degraded answers, refusals, latency, replicas and money over time, a line for each simulation."""
    slo = results[0].slo
    rate = "requests/s"
    plots = [
        _plot("Requests and goodput", f"{rate}", results, _good, first=_offered(results[0])),
        _plot("Degraded answers", rate, results, _degraded, is_more_better=False),
        _plot("Refused and failed", rate, results, _lost, is_more_better=False),
        _plot("Time to first token, p99", "seconds", results, _ttft, is_more_better=False, may_be_log=True,
              rule=(slo["ttft_s"], f"promise {slo['ttft_s']:g} s")),
        _plot("Replicas that serve", "replicas", results, _ready, is_more_better=False),
        _plot("Price of what is paid for", "$ per hour", results, _usd_per_hour, is_more_better=False),
    ]  # fmt: skip
    return [plot for plot in plots if plot.lines]


def _plot(
    title: str,
    unit: str,
    results: Sequence[SimulationResult],
    values: object,
    *,
    first: Line | None = None,
    is_more_better: bool = True,
    may_be_log: bool = False,
    rule: tuple[float, str] | None = None,
) -> TimePlot:
    assert callable(values)
    is_long = results[0].duration_s >= 2 * _HOUR_S
    x = Axis("Hours" if is_long else "Minutes", tick, is_more_better=True)
    y = Axis(unit[:1].upper() + unit[1:], tick, is_more_better=is_more_better, may_be_log=may_be_log)
    lines = [
        Line(label_of(result), style, tuple(zip(_times(result), values(result), strict=True)))
        for style, result in enumerate(results)
    ]
    return TimePlot(Axes(title, x, y, rule), (*lines, *([first] if first else [])))


def _times(result: SimulationResult) -> list[float]:
    unit_s = _HOUR_S if result.duration_s >= 2 * _HOUR_S else _MINUTE_S
    return [(index + 0.5) * result.bin_s / unit_s for index in range(len(result.regions[0].arrivals))]


def _offered(result: SimulationResult) -> Line:
    values = _summed([region.arrivals for region in result.regions], result)
    points = tuple(zip(_times(result), values, strict=True))
    return Line("offered", 6, points, is_dashed=True)


def _summed(series: Sequence[Sequence[float]], result: SimulationResult) -> list[float]:
    """Per second; the last bin may be shorter than the others."""
    found = []
    for index, values in enumerate(zip_longest(*series, fillvalue=0.0)):
        length_s = min(result.bin_s, result.duration_s - index * result.bin_s)
        found.append(sum(values) / max(length_s, 1e-9))
    return found


def _good(result: SimulationResult) -> list[float]:
    return _summed([region.good for region in result.regions], result)


def _degraded(result: SimulationResult) -> list[float]:
    return _summed([region.degraded for region in result.regions], result)


def _lost(result: SimulationResult) -> list[float]:
    return _summed([values for region in result.regions for values in (region.refused, region.failed)], result)


def _ttft(result: SimulationResult) -> list[float | None]:
    columns = zip(*(region.ttft_p99_s for region in result.regions), strict=True)
    return [max((one for one in column if one is not None), default=None) for column in columns]


def _ready(result: SimulationResult) -> list[float]:
    return [sum(column) for column in zip(*(fleet.ready for fleet in result.fleets), strict=True)]


def _usd_per_hour(result: SimulationResult) -> list[float]:
    weighted = [[one * fleet.usd_per_replica_hour for one in fleet.paid] for fleet in result.fleets]
    return [sum(column) for column in zip(*weighted, strict=True)]


def fleet_plots(result: SimulationResult) -> list[TimePlot]:
    """Replicas of each rung in each region, and the ladder's step where it can move: for one simulation."""
    times = _times(result)
    x = Axis("Hours" if result.duration_s >= 2 * _HOUR_S else "Minutes", tick, is_more_better=True)
    fleets = tuple(
        Line(fleet.name, style, tuple(zip(times, fleet.ready, strict=True)))
        for style, fleet in enumerate(result.fleets)
    )
    steps = tuple(
        Line(region.name, style, tuple(zip(times, region.ladder_step, strict=True)))
        for style, region in enumerate(result.regions)
    )
    name = label_of(result)
    replicas = Axes(f"Replicas by rung, {name}", x, Axis("Replicas", tick, is_more_better=False))
    if len(result.ladder) == 1:
        return [TimePlot(replicas, fleets)]
    step = Axes(f"Step of the ladder, {name}", x, Axis("Step (0 is the top)", tick, is_more_better=False))
    return [TimePlot(replicas, fleets), TimePlot(step, steps)]
