"""The frontier on the page: one plot for each pair of axes that figures exist for, the main pair large. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import combinations

from lightship.evaluation.frontier import Axis as FrontierAxis
from lightship.evaluation.ladder import percent
from lightship.evaluation.report.axes import Axes, Axis
from lightship.evaluation.report.data import ReportData, VariantEntry
from lightship.evaluation.report.layout import Render, large_figure, panels, section, third_panel
from lightship.evaluation.report.scatter import Point, render_scatter
from lightship.evaluation.report.wording import dollars, listed, three_digits, tick
from lightship.ports.measurements import Interval, Metric
from lightship.units import format_bytes

_MIB, _GIB = 2**20, 2**30
# Bytes from which an axis is written in GiB.
_FROM_GIB = 10 * _GIB
# Order in which an axis takes the upright place of a pair.
_ORDER = (FrontierAxis.QUALITY, FrontierAxis.GOODPUT, FrontierAxis.MEMORY, FrontierAxis.COST, FrontierAxis.SIZE)
_MAIN_PAIR = (FrontierAxis.QUALITY, FrontierAxis.GOODPUT)


@dataclass(frozen=True)
class _Figure:
    """One variant's figure on an axis, in the axis' unit, with its words for people."""

    value: float
    span: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class _Quantity:
    """An axis of the frontier: what a sentence and a plot call it, and the figures of the variants that have one."""

    noun: str
    axis: Axis
    short_title: str
    figures: dict[str, _Figure]


def frontier_section(data: ReportData) -> str:
    """The main pair large, every other pair of axes as small multiples beneath; "" where nothing competes."""
    entries = [entry for entry in data.variants if entry.candidate]
    if not entries:
        return ""
    quantities = {kind: _quantity(kind, entries, data) for kind in _ORDER}
    main, *others = [
        (y, x)
        for y, x in combinations(_ORDER, 2)
        if (y, x) == _MAIN_PAIR or quantities[y].figures.keys() & quantities[x].figures.keys()
    ]
    floor = (data.quality_floor, f"floor {percent(data.quality_floor)}")

    def plot(pair: tuple[FrontierAxis, FrontierAxis], *, is_large: bool) -> tuple[str, Render]:
        y, x = (quantities[kind] for kind in pair)
        title = f"{y.noun.capitalize()} against {x.noun}"
        rule = floor if pair[0] is FrontierAxis.QUALITY else None
        axes = Axes(title, x.axis, y.axis, rule) if is_large else Axes(title, _compact(x), _compact(y), rule)
        points = [
            _point(entry, data, x=x, y=y) for entry in entries if entry.name in x.figures and entry.name in y.figures
        ]

        def render(width: int, height: int, kind: str) -> str:
            return render_scatter(points, axes, width=width, height=height, kind=kind, labels_rungs=is_large)

        return title, render

    title, render = plot(main, is_large=True)
    small = [third_panel(*plot(pair, is_large=False)) for pair in others]
    rungs = " · ".join(f"{rung.position} {rung.name}" for rung in data.rungs)
    key = f'<p class="note">Rungs: {escape(rungs)}. The arrow of each axis points to the better side.</p>'
    rest = f"<h3>Every other pair of axes</h3>{key}{panels(small, kind='thirds')}" if small else ""
    note = (
        f"Off the frontier is what another variant beats on {escape(listed(data.frontier_axes))} together; the step "
        "line joins the best of the two axes of its own plot alone."
    )
    return section(title, f"{_legend()}{large_figure(render)}{rest}", note=note, kind="figure")


def _compact(quantity: _Quantity) -> Axis:
    axis = quantity.axis
    return Axis(quantity.short_title, axis.format, axis.is_more_better, axis.starts_at_zero)


def _quantity(kind: FrontierAxis, entries: list[VariantEntry], data: ReportData) -> _Quantity:
    match kind:
        case FrontierAxis.QUALITY:
            found = {one.name: _quality(one) for one in entries}
            return _Quantity(
                "quality", Axis("Quality kept", percent, True, starts_at_zero=False), "Quality kept", found
            )
        case FrontierAxis.GOODPUT:
            basis, unit = data.speed_basis.capitalize(), data.speed_unit
            axis = Axis(f"{basis} at {data.header.concurrency} concurrent requests, {unit}", tick, True)
            found = {one.name: _speed(one, data) for one in entries}
            return _Quantity("speed", axis, f"{basis}, {unit}", found)
        case FrontierAxis.MEMORY:
            memory = {one.name: one.candidate.memory_bytes for one in entries if one.candidate}
            return _bytes_quantity("memory", "Memory (peak RSS)", entries, memory, metric=Metric.PEAK_RSS_BYTES)
        case FrontierAxis.SIZE:
            sizes: dict[str, float | None] = {one.name: float(one.size_bytes) for one in entries}
            return _bytes_quantity("size", "Size on disk", entries, sizes, metric=None)
        case FrontierAxis.COST:
            costs = {one.name: _cost(one) for one in entries}
            axis = Axis("US$ per million good output tokens", lambda value: f"${tick(value)}", False)
            return _Quantity("cost", axis, "$ per 1M good tokens", {name: one for name, one in costs.items() if one})


def _quality(entry: VariantEntry) -> _Figure:
    candidate = entry.candidate
    assert candidate is not None
    value = candidate.quality_recovery
    return _Figure(value, _span(candidate.quality_interval), f"quality {percent(value)}")


def _speed(entry: VariantEntry, data: ReportData) -> _Figure:
    candidate = entry.candidate
    assert candidate is not None
    is_goodput = data.speed_unit == "requests/s"
    value = candidate.goodput_requests_per_s if is_goodput else candidate.tokens_per_s
    interval = candidate.goodput_interval if is_goodput else candidate.tokens_interval
    return _Figure(value, _span(interval), f"{three_digits(value)} {data.speed_unit}")


def _cost(entry: VariantEntry) -> _Figure | None:
    value = entry.candidate.cost_usd_per_1m_tokens if entry.candidate else None
    if value is None:
        return None
    # a cost stands on several bases; the interval is that of the one that competes
    costs = (one for one in entry.figures if one.metric is Metric.COST_USD_PER_1M_GOOD_TOKENS)
    interval = next((one.interval for one in costs if one.value == value), None)
    return _Figure(value, _span(interval), f"{dollars(value)} per million good tokens")


def _bytes_quantity(
    noun: str, title: str, entries: list[VariantEntry], values: dict[str, float | None], *, metric: Metric | None
) -> _Quantity:
    known = {name: value for name, value in values.items() if value is not None}
    unit, divisor = ("GiB", _GIB) if max(known.values(), default=0) >= _FROM_GIB else ("MiB", _MIB)
    figures = {}
    for entry in entries:
        if entry.name in known:
            measured = entry.figure(metric) if metric else None
            span = _span(measured.interval if measured else None, scale=1 / divisor)
            value = known[entry.name]
            figures[entry.name] = _Figure(value / divisor, span, f"{noun} {format_bytes(value)}")
    return _Quantity(noun, Axis(f"{title}, {unit}", tick, False), f"{noun.capitalize()}, {unit}", figures)


def _point(entry: VariantEntry, data: ReportData, *, x: _Quantity, y: _Quantity) -> Point:
    across, up = x.figures[entry.name], y.figures[entry.name]
    place = f"rung {entry.rung}, " if entry.rung else ""
    return Point(
        label=data.short_name(entry),
        x=across.value,
        y=up.value,
        x_range=across.span,
        y_range=up.span,
        rung=entry.rung,
        is_on_frontier=entry.is_on_frontier,
        hover=f"{entry.name}: {place}{up.words}, {across.words}",
    )


def _span(interval: Interval | None, *, scale: float = 1.0) -> tuple[float, float] | None:
    return (interval.low * scale, interval.high * scale) if interval else None


def _legend() -> str:
    marks = (
        ('<circle class="rung" cx="12" cy="8" r="7"/>', "rung, numbered from the top"),
        ('<circle class="kept" cx="12" cy="8" r="5"/>', "on the frontier, not a rung"),
        ('<circle class="beaten" cx="12" cy="8" r="5"/>', "beaten by another variant"),
        ('<path class="frontier" d="M1 12H12V4H23"/>', "best of these two axes"),
        ('<path class="bar" d="M2 8H22M2 4v8M22 4v8"/>', "confidence interval"),
    )
    items = "".join(
        f'<li><svg viewBox="0 0 24 16" aria-hidden="true">{mark}</svg>{words}</li>' for mark, words in marks
    )
    return f'<ul class="legend">{items}</ul>'
