"""The report's tables: what each variant keeps, what it takes, how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lightship.evaluation.report.data import ReportData, VariantEntry
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
    head = "".join(f'<th scope="col">{title}<small>{unit}</small></th>' for title, unit in titles)
    rows = []
    for entry in data.variants:
        size = data_element(entry.size_bytes, format_bytes(entry.size_bytes))
        cells = "".join(f"<td>{_quality_cell(entry, metric)}</td>" for metric, _, _ in columns)
        rows.append(f"{_row_start(entry)}<td>{size}</td>{cells}</tr>")
    return _table("Quality, size and memory of every variant", f"{_name_head()}{head}", rows)


def _quality_cell(entry: VariantEntry, metric: Metric) -> str:
    if metric is Metric.QUALITY_RECOVERY and entry.candidate and entry.candidate.is_reference:
        return f'{data_element(1.0, "100%")}<small class="interval">by definition</small>'
    return figure_cell(entry.figure(metric))


def speed_tables(data: ReportData) -> str:
    """One table of speed figures for each concurrency."""
    parts = []
    for users in data.concurrencies:
        mark = " · the ladder is chosen here" if users == data.header.concurrency else ""
        noun = "request" if users == 1 else "requests"
        head = "".join(f'<th scope="col">{title}<small>{unit}</small></th>' for _, title, unit in _SPEED_ROWS)
        tails = "".join(
            f'<th scope="col">{title}<small>p95 · p99, ms</small></th>' for title in ("TTFT tail", "TPOT tail")
        )
        rows = [
            _row_start(entry)
            + "".join(f"<td>{figure_cell(entry.figure(metric, users))}</td>" for metric, _, _ in _SPEED_ROWS)
            + "".join(f"<td>{_tail_cell(entry.figure(one, users))}</td>" for one in (Metric.TTFT_MS, Metric.TPOT_MS))
            + f"<td>{_count_cell(entry.figure(Metric.SLO_ATTAINMENT, users))}</td></tr>"
            for entry in data.variants
        ]
        title = f"{users} concurrent {noun}"
        count_head = '<th scope="col">Requests<small>n · errors</small></th>'
        parts.append(f"<h3>{title}{mark}</h3>")
        parts.append(_table(f"Speed at {title}", f"{_name_head()}{head}{tails}{count_head}", rows))
    return "".join(parts)


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
    return _table("Variants off the ladder", f'{_name_head()}<th scope="col" class="start">Why not</th>', rows)


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
    return _table("Measurement protocols", head, rows)


def _name_head() -> str:
    return '<th scope="col" class="start">Variant</th>'


def _row_start(entry: VariantEntry) -> str:
    place = f"rung {entry.rung}" if entry.rung else "on the frontier" if entry.is_on_frontier else ""
    words = [place, "reference" if entry.candidate and entry.candidate.is_reference else ""]
    note = " · ".join(word for word in words if word)
    small = f"<small>{note}</small>" if note else ""
    kind = ' class="is-rung"' if entry.rung else ""
    return f'<tr{kind}><th scope="row">{escape(entry.name)}{small}</th>'


def _table(label: str, head: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
