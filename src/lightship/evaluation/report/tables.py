"""The report's tables: what each variant keeps, what it takes, how fast it is."""

from __future__ import annotations

from html import escape

from lightship.evaluation.report.data import ReportData, VariantEntry
from lightship.evaluation.report.layout import VARIANT_HEAD, column_head, folded, row_start, table
from lightship.evaluation.report.wording import ABSENT, data_element, figure_cell, three_digits
from lightship.ports.measurements import Measurement, Metric
from lightship.units import format_bytes

_QUALITY_COLUMNS = (
    (Metric.QUALITY_RECOVERY, "Quality kept", "of the reference"),
    (Metric.BITS_PER_BYTE, "Bits/byte", "lower is better"),
    (Metric.PERPLEXITY, "Perplexity", "per token"),
    (Metric.KL_NATS, "KL divergence", "nats/token"),
    (Metric.TOP1_AGREEMENT, "Top-1", "agreement"),
)
_RESOURCE_COLUMNS = (
    (Metric.PEAK_RSS_BYTES, "Memory", "peak RSS"),
    (Metric.STARTUP_S, "Start-up", "s to first token"),
)
_SPEED_ROWS = (
    (Metric.DECODE_TOKENS_PER_S, "Output", "tokens/s"),
    (Metric.TTFT_MS, "TTFT", "p50, ms"),
    (Metric.TPOT_MS, "TPOT", "p50, ms"),
    (Metric.SLO_ATTAINMENT, "Within SLO", "of requests"),
    (Metric.GOODPUT_REQUESTS_PER_S, "Goodput", "requests/s"),
)


def quality_table(data: ReportData) -> str:
    """Quality, size, memory and start-up of every variant."""
    columns = [*_QUALITY_COLUMNS, *_RESOURCE_COLUMNS]
    titles = [("Size", "on disk"), *((title, unit) for _, title, unit in columns)]
    head = "".join(column_head(title, unit) for title, unit in titles)
    rows = []
    for entry in data.variants:
        size = data_element(entry.size_bytes, format_bytes(entry.size_bytes))
        cells = "".join(f"<td>{_quality_cell(entry, metric)}</td>" for metric, _, _ in columns)
        rows.append(f"{row_start(entry)}<td>{size}</td>{cells}</tr>")
    return table("Quality, size and memory of every variant", f"{VARIANT_HEAD}{head}", rows)


def _quality_cell(entry: VariantEntry, metric: Metric) -> str:
    if metric is Metric.QUALITY_RECOVERY and entry.candidate and entry.candidate.is_reference:
        return f'{data_element(1.0, "100%")}<small class="interval">by definition</small>'
    return figure_cell(entry.figure(metric))


def speed_tables(data: ReportData) -> str:
    """A table of speed figures for each concurrency and one for the offered rates; only the deciding one is open."""
    parts = []
    for users in data.concurrencies:
        is_target = users == data.header.concurrency
        mark = " · the ladder is chosen here" if is_target else ""
        title = f"{users} concurrent {'request' if users == 1 else 'requests'}"
        rows = [
            row_start(entry) + _speed_cells({metric: entry.figure(metric, users) for metric, _, _ in _SPEED_ROWS})
            for entry in data.variants
        ]
        body = table(f"Speed at {title}", f"{VARIANT_HEAD}{_speed_head()}", rows)
        parts.append(folded(f"{title}{mark}", body, is_open=is_target or len(data.concurrencies) == 1))
    if any(entry.open_loop for entry in data.variants):
        parts.append(folded("Open loop, by offered rate", _open_loop_table(data), is_open=False))
    return "".join(parts)


def _open_loop_table(data: ReportData) -> str:
    rows = [
        f"{row_start(entry)}<td>{data_element(rate, three_digits(rate))}</td>"
        + _speed_cells({metric: load.figure(metric) for metric, _, _ in _SPEED_ROWS})
        for entry in data.variants
        for load in entry.open_loop
        for rate in (load.offered_requests_per_s,)
    ]
    head = f"{VARIANT_HEAD}{column_head('Offered', 'requests/s')}{_speed_head()}"
    return table("Speed by offered rate", head, rows)


def _speed_head() -> str:
    titles = [(title, unit) for _, title, unit in _SPEED_ROWS]
    titles += [("TTFT tail", "p95 · p99, ms"), ("TPOT tail", "p95 · p99, ms"), ("Requests", "n · errors")]
    return "".join(column_head(title, unit) for title, unit in titles)


def _speed_cells(figures: dict[Metric, Measurement | None]) -> str:
    cells = [figure_cell(figures[metric]) for metric, _, _ in _SPEED_ROWS]
    cells += [_tail_cell(figures[metric]) for metric in (Metric.TTFT_MS, Metric.TPOT_MS)]
    cells.append(_count_cell(figures[Metric.SLO_ATTAINMENT]))
    return "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _tail_cell(one: Measurement | None) -> str:
    if one is None or not {"p95", "p99"} <= one.details.keys():
        return ABSENT
    return " · ".join(data_element(one.details[key], three_digits(one.details[key])) for key in ("p95", "p99"))


def _count_cell(one: Measurement | None) -> str:
    if one is None:
        return ABSENT
    errors = one.details.get("errors")
    count = data_element(one.num_items, f"{one.num_items:,}")
    return count if errors is None else f"{count} · {data_element(errors, f'{errors:,.0f}')}"


def rejected_table(data: ReportData) -> str:
    """Every pair off the ladder with its reason; a sentence when there is none."""
    if not data.rejected:
        return '<p class="note">Every measured variant is on the ladder.</p>'
    rows = [
        f'<tr><th scope="row">{escape(one.name)}</th><td class="words">{escape(one.reason)}</td></tr>'
        for one in data.rejected
    ]
    return table("Variants off the ladder", f'{VARIANT_HEAD}<th scope="col" class="start">Why not</th>', rows)


def protocol_table(data: ReportData) -> str:
    """Every protocol with what it gave and over how many items."""
    rows = []
    for one in data.protocols:
        low, high = (data_element(bound, f"{bound:,}") for bound in (one.min_items, one.max_items))
        count = low if one.min_items == one.max_items else f"{low} – {high}"
        metrics = escape(", ".join(one.metrics))
        rows.append(
            f'<tr><th scope="row"><code>{escape(one.name)}</code></th><td class="words">{metrics}</td>'
            f"<td>{count}</td></tr>"
        )
    head = (
        '<th scope="col" class="start">Protocol</th><th scope="col" class="start">Gives</th>'
        '<th scope="col">Items<small>n per figure</small></th>'
    )
    return table("Measurement protocols", head, rows)
