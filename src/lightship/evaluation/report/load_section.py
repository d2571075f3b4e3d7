"""Load curves on the page: latency against throughput in closed loops, everything against the rate in open ones. Pure.

A closed loop is drawn over what came out, since its load is a number of clients. An open loop is drawn over the rate
that was offered: beyond saturation the output no longer tells two loads apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from lightship.evaluation.ladder import percent
from lightship.evaluation.report.axes import Axes, Axis
from lightship.evaluation.report.curves import Curve, CurvePoint, render_curves
from lightship.evaluation.report.data import ReportData, VariantEntry
from lightship.evaluation.report.layout import Render, half_panel, panels, section
from lightship.evaluation.report.svg import NUM_STYLES, marker
from lightship.evaluation.report.wording import format_figure, three_digits, tick
from lightship.ports.measurements import Interval, Measurement, Metric

# What adds the curves that are missing.
BENCH_COMMAND = "lightship bench VARIANT --rate REQUESTS_PER_S"
_LATENCIES = ((Metric.TTFT_MS, "TTFT"), (Metric.TPOT_MS, "TPOT"))
_QUANTILES = ("p50", "p99")


def load_section(data: ReportData) -> str:
    """The curves there are figures for, what is missing and how to add it; "" for a report without speed figures."""
    has_open = any(entry.open_loop for entry in data.variants)
    if not (data.concurrencies or has_open):
        return ""
    loaded = [entry for entry in data.variants if entry.open_loop or any(one.concurrency for one in entry.figures)]
    shown, hidden = loaded[:NUM_STYLES], loaded[NUM_STYLES:]
    parts = [_legend(shown, data)]
    if data.concurrencies:
        note = (
            "Each number is the concurrency at its point. Where a curve turns upwards, more load brings delay and "
            "little more output."
        )
        parts.append(f'<h3>Closed loop: latency against throughput</h3><p class="note">{note}</p>')
        parts.append(panels(list(_closed_panels(shown, data)), kind="halves"))
    if has_open:
        note = (
            "Requests leave on a schedule, whether or not earlier ones are answered. The dotted line is where every "
            "request is good; a curve that falls away from it shows the rate that the variant cannot keep up with."
        )
        parts.append(f'<h3>Open loop: against the offered rate</h3><p class="note">{note}</p>')
        parts.append(panels(list(_open_panels(shown, data)), kind="halves"))
    if hidden:
        names = ", ".join(entry.name for entry in hidden)
        parts.append(f'<p class="note">Not drawn, but in the tables: {escape(names)}.</p>')
    parts += [f'<p class="missing">{words}</p>' for words in _missing(data, has_open=has_open)]
    return section("Load curves", "".join(parts))


def _closed_panels(shown: Sequence[VariantEntry], data: ReportData) -> Iterator[str]:
    throughput = Axis("Output tokens/s", tick, is_more_better=True)
    for metric, name in _LATENCIES:
        for quantile in _QUANTILES:
            title = f"{name} {quantile} against throughput"
            found = [_closed_points(entry, metric, quantile, data.short_name(entry)) for entry in shown]
            if curves := _curves(shown, found, data):
                yield half_panel(
                    title, _renderer(curves, _latency_axes(title, throughput, (metric, name, quantile), data))
                )


def _open_panels(shown: Sequence[VariantEntry], data: ReportData) -> Iterator[str]:
    offered = Axis("Offered requests/s", tick, is_more_better=True)
    target = data.header.slo_attainment
    rule = None if target is None else (target, f"target {percent(target)}")
    goodput = Axis("Goodput, requests/s", tick, is_more_better=True)
    share = Axis("Requests within the SLO", percent, is_more_better=True)
    plots = [
        (Metric.GOODPUT_REQUESTS_PER_S, "p50", Axes("Goodput", offered, goodput, has_identity=True)),
        (Metric.SLO_ATTAINMENT, "p50", Axes("SLO attainment", offered, share, rule)),
    ]
    plots += [
        (metric, quantile, _latency_axes(f"{name} {quantile}", offered, (metric, name, quantile), data))
        for metric, name in _LATENCIES
        for quantile in _QUANTILES
    ]
    for metric, quantile, axes in plots:
        found = [_open_points(entry, metric, quantile, data.short_name(entry)) for entry in shown]
        if curves := _curves(shown, found, data):
            yield half_panel(f"{axes.title} against offered rate", _renderer(curves, axes))


def _latency_axes(title: str, x: Axis, kind: tuple[Metric, str, str], data: ReportData) -> Axes:
    metric, name, quantile = kind
    limit_ms = data.header.slo_ttft_ms if metric is Metric.TTFT_MS else data.header.slo_tpot_ms
    latency = Axis(f"{name} {quantile}, ms", tick, is_more_better=False, may_be_log=True)
    return Axes(title, x, latency, (limit_ms, f"SLO {limit_ms:g} ms"))


def _curves(shown: Sequence[VariantEntry], found: Sequence[tuple[CurvePoint, ...]], data: ReportData) -> list[Curve]:
    return [
        Curve(data.short_name(entry), style, is_dashed=entry.rung is None, points=points)
        for style, (entry, points) in enumerate(zip(shown, found, strict=True))
        if points
    ]


def _closed_points(entry: VariantEntry, metric: Metric, quantile: str, name: str) -> tuple[CurvePoint, ...]:
    points = []
    for users in sorted({one.concurrency for one in entry.figures} - {0}):
        tokens, latency = entry.figure(Metric.DECODE_TOKENS_PER_S, users), entry.figure(metric, users)
        if tokens is None or latency is None or (value := _quantile(latency, quantile)) is None:
            continue
        points.append(
            CurvePoint(
                x=tokens.value,
                y=value,
                x_range=_span(tokens.interval),
                y_range=_span(latency.interval) if quantile == "p50" else None,
                label=str(users),
                hover=f"{name}, {users} concurrent: {three_digits(tokens.value)} tokens/s, {three_digits(value)} ms",
            )
        )
    return tuple(points)


def _open_points(entry: VariantEntry, metric: Metric, quantile: str, name: str) -> tuple[CurvePoint, ...]:
    units = {Metric.GOODPUT_REQUESTS_PER_S: " good requests/s", Metric.SLO_ATTAINMENT: " within the SLO"}
    points = []
    for load in entry.open_loop:
        figure, rate = load.figure(metric), load.offered_requests_per_s
        if figure is None or (value := _quantile(figure, quantile)) is None:
            continue
        words = f"{format_figure(metric, value)}{units.get(metric, ' ms')}"
        points.append(
            CurvePoint(
                x=rate,
                y=value,
                x_range=None,
                y_range=_span(figure.interval) if quantile == "p50" else None,
                label="",
                hover=f"{name}, {three_digits(rate)} requests/s offered: {words}",
            )
        )
    return tuple(points)


def _quantile(figure: Measurement, quantile: str) -> float | None:
    """The median is the figure itself; the tails are its details."""
    return figure.value if quantile == "p50" else figure.details.get(quantile)


def _renderer(curves: Sequence[Curve], axes: Axes) -> Render:
    def render(width: int, height: int, kind: str) -> str:
        return render_curves(curves, axes, width=width, height=height, kind=kind)

    return render


def _span(interval: Interval | None) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval else None


def _legend(shown: Sequence[VariantEntry], data: ReportData) -> str:
    items = []
    for style, entry in enumerate(shown):
        dashed = " dashed" if entry.rung is None else ""
        mark = f'<path class="curve s{style}{dashed}" d="M0 8H30"/>{marker(style, 15, 8, radius=4.5)}'
        rung = f" (rung {entry.rung})" if entry.rung else ""
        items.append((mark, f"{escape(data.short_name(entry))}{rung}"))
    items.append(('<path class="rule" d="M0 8H30"/>', "SLO"))
    cells = "".join(
        f'<li><svg class="long" viewBox="0 0 30 16" aria-hidden="true">{mark}</svg>{words}</li>'
        for mark, words in items
    )
    return f'<ul class="legend">{cells}</ul>'


def _missing(data: ReportData, *, has_open: bool) -> Iterator[str]:
    command = f"<code>{escape(BENCH_COMMAND)}</code>"
    if not has_open:
        yield (
            "No open-loop figures yet, so goodput against the offered rate is missing: clients in the world do not "
            f"wait for each other's answers. Add it with {command}."
        )
    if len(data.concurrencies) == 1:
        yield f"Only one concurrency was measured, so closed-loop curves are single points. Add others with {command}."
    lacking = [entry.name for entry in data.variants if entry.candidate and has_open and not entry.open_loop]
    if lacking:
        yield f"Without open-loop figures: {escape(', '.join(lacking))}. Add them with {command}."
