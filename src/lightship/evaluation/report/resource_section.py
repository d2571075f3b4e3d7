"""Memory, cost and energy on the page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from lightship.evaluation.cost.from_measurements import NO_PRICE_NOTE
from lightship.evaluation.report.data import ReportData, VariantEntry
from lightship.evaluation.report.layout import VARIANT_HEAD, column_head, folded, row_start, section, table
from lightship.evaluation.report.newest_figures import COST_METRICS, cost_basis
from lightship.evaluation.report.wording import ABSENT, data_element, dollars, figure_cell, three_digits
from lightship.ports.measurements import Measurement, Metric
from lightship.units import format_bytes

_COST_COLUMNS = (
    (Metric.COST_USD_PER_1M_OUTPUT_TOKENS, "Output", "$/1M, whole cost"),
    (Metric.COST_USD_PER_1M_GOOD_TOKENS, "Good output", "$/1M, whole cost"),
    (Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS, "Prompt phase", "$/1M input"),
    (Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS, "Generation", "$/1M output"),
)


def resource_section(data: ReportData) -> str:
    """Memory of every variant with its estimate, and what tokens cost where a price is known."""
    memory_note = (
        "The estimate is for a full KV cache; the residual is the measured peak less the estimate, and lies far below "
        "zero where the load never filled the cache."
    )
    parts = [
        f'<h3>Memory</h3><p class="note">{memory_note}</p>{_memory_table(data)}',
        f"<h3>Cost and energy</h3>{_cost(data)}",
    ]
    # the page says itself how to add a price
    notes = [note for note in data.header.resource_notes if note != NO_PRICE_NOTE]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section("Memory, cost and energy", "".join([*parts, f'<ul class="note">{items}</ul>' if notes else ""]))


def _memory_table(data: ReportData) -> str:
    has_gpu = any(entry.figure(Metric.PEAK_GPU_BYTES) for entry in data.variants)
    titles = [
        ("Weights", "on disk"),
        ("Bits", "per parameter"),
        ("KV cache", "per token"),
        ("Estimate", "all of it"),
        ("Peak", "RSS"),
        *([("Peak", "GPU memory")] if has_gpu else []),
        ("Residual", "peak − estimate"),
    ]
    head = "".join(column_head(title, unit) for title, unit in titles)
    rows = [_memory_row(entry, has_gpu=has_gpu) for entry in data.variants]
    return table("Memory of every variant", f"{VARIANT_HEAD}{head}", rows)


def _memory_row(entry: VariantEntry, *, has_gpu: bool) -> str:
    cells = [
        data_element(entry.weight_bytes, format_bytes(entry.weight_bytes)),
        figure_cell(entry.figure(Metric.WEIGHT_BITS_PER_PARAMETER)),
        figure_cell(entry.figure(Metric.KV_BYTES_PER_TOKEN)),
        figure_cell(entry.figure(Metric.ESTIMATED_MEMORY_BYTES)),
        figure_cell(entry.figure(Metric.PEAK_RSS_BYTES)),
        *([figure_cell(entry.figure(Metric.PEAK_GPU_BYTES))] if has_gpu else []),
        _residual_cell(entry),
    ]
    return row_start(entry) + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _residual_cell(entry: VariantEntry) -> str:
    estimate = entry.figure(Metric.ESTIMATED_MEMORY_BYTES)
    residual = estimate.details.get("residual_bytes") if estimate else None
    if residual is None:
        return ABSENT
    return data_element(residual, f"{'+' if residual >= 0 else '−'}{format_bytes(abs(residual))}")


@dataclass(frozen=True)
class _CostRow:
    """One variant's cost under one load on one basis ("" where only energy is known)."""

    entry: VariantEntry
    concurrency: int
    offered_requests_per_s: float | None
    basis: str
    figures: dict[Metric, Measurement]
    energy: Measurement | None

    @property
    def is_open_loop(self) -> bool:
        """Whether requests left on a schedule."""
        return self.offered_requests_per_s is not None

    @property
    def details(self) -> dict[str, float]:
        """What the costs were computed with, the same for each of them."""
        return {key: value for one in self.figures.values() for key, value in one.details.items()}

    @property
    def load_words(self) -> str:
        """The load for a title; "" for none."""
        if self.is_open_loop:
            return "open loop"
        noun = "request" if self.concurrency == 1 else "requests"
        return f"{self.concurrency} concurrent {noun}" if self.concurrency else ""


def _cost(data: ReportData) -> str:
    rows = [row for entry in data.variants for row in _cost_rows(entry)]
    parts = []
    if any(row.figures for row in rows):
        parts.append(
            '<p class="note">Allocation spreads the price of the whole machine over its busy time, so idle time is '
            "paid for; usage counts only what the work consumed. Good output tokens are those of requests within the "
            "SLO. The prompt and generation phases split the whole cost between them: they are not added to it.</p>"
        )
    keys = sorted({(row.basis, row.is_open_loop, row.concurrency) for row in rows})
    is_one_load = len({key[1:] for key in keys}) == 1
    for key in keys:
        found = [row for row in rows if (row.basis, row.is_open_loop, row.concurrency) == key]
        title = ", ".join(word for word in (key[0].capitalize() or "Energy", found[0].load_words) if word)
        is_open = is_one_load or key[1:] == (False, data.header.concurrency)
        parts.append(folded(title, _cost_table(title, found), is_open=is_open))
    if not any(row.figures for row in rows):
        parts.append(
            '<p class="missing">No price given: add <code>cost:</code> to the spec, with <code>usd_per_hour</code>, '
            "<code>instance</code> or <code>hardware</code>.</p>"
        )
    if not any(row.energy for row in rows):
        parts.append('<p class="missing">No energy figures: no measurement read an energy counter.</p>')
    return "".join(parts)


def _cost_table(title: str, rows: Sequence[_CostRow]) -> str:
    columns = list(_cost_columns(rows))
    head = "".join(column_head(name, unit) for name, unit, _ in columns)
    lines = [
        row_start(row.entry) + "".join(f"<td>{cell(row)}</td>" for _, _, cell in columns) + "</tr>" for row in rows
    ]
    return table(title, f"{VARIANT_HEAD}{head}", lines)


def _cost_columns(rows: Sequence[_CostRow]) -> Iterator[tuple[str, str, Callable[[_CostRow], str]]]:
    """Title, unit and cells of every column that one of the rows has figures for."""
    if rows[0].is_open_loop:
        yield "Offered", "requests/s", _rate_cell
    if any(row.figures for row in rows):
        for metric, name, unit in _COST_COLUMNS:
            yield name, unit, partial(_cost_cell, metric=metric)
        yield "Price", "$ per hour", partial(_detail_cell, key="usd_per_hour", words=dollars)
        if rows[0].basis == "usage":
            yield "Consumed", "of the machine", partial(_detail_cell, key="consumed_share", words=_percent)
        else:
            yield "Utilisation", "busy share", partial(_detail_cell, key="utilisation", words=_percent)
    if any("break_even_utilisation" in row.details for row in rows):
        yield "Break-even", "tokens/month", partial(_detail_cell, key="break_even_tokens_per_month", words=_whole)
        yield "Needs", "busy share", partial(_detail_cell, key="break_even_utilisation", words=_percent)
    if any(row.energy for row in rows):
        yield "Energy", "J/output token", lambda row: figure_cell(row.energy)


def _rate_cell(row: _CostRow) -> str:
    rate = row.offered_requests_per_s
    return ABSENT if rate is None else data_element(rate, three_digits(rate))


def _cost_cell(row: _CostRow, *, metric: Metric) -> str:
    one = row.figures.get(metric)
    cell = figure_cell(one)
    if one is not None and row.basis == "allocation" and "full_use_usd_per_1m_tokens" in one.details:
        full = one.details["full_use_usd_per_1m_tokens"]
        cell += f'<small class="interval">{data_element(full, dollars(full))} at full use</small>'
    return cell


def _detail_cell(row: _CostRow, *, key: str, words: Callable[[float], str]) -> str:
    value = row.details.get(key)
    return ABSENT if value is None else data_element(value, words(value))


def _whole(count: float) -> str:
    return f"{count:,.0f}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def _cost_rows(entry: VariantEntry) -> Iterator[_CostRow]:
    loads: list[tuple[int, float | None, Sequence[Measurement]]] = [
        (users, None, [one for one in entry.figures if one.concurrency == users])
        for users in sorted({one.concurrency for one in entry.figures})
    ]
    loads += [(0, load.offered_requests_per_s, load.figures) for load in entry.open_loop]
    for users, rate, figures in loads:
        energy = next((one for one in figures if one.metric is Metric.ENERGY_J_PER_OUTPUT_TOKEN), None)
        costs = [one for one in figures if one.metric in COST_METRICS]
        for basis in sorted({cost_basis(one) for one in costs}) or ([""] if energy else []):
            of_basis = {one.metric: one for one in costs if cost_basis(one) == basis}
            yield _CostRow(entry, users, rate, basis, of_basis, energy)
