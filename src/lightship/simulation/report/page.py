"""The page: what was simulated, what came of it, over time, and why. No script, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from lightship.evaluation.report.layout import column_head, half_panel, panels, section, table
from lightship.evaluation.report.wording import data_element, dollars, three_digits
from lightship.ports.engine import Outcome
from lightship.simulation.report.lines import render_lines
from lightship.simulation.report.plots import TimePlot, fleet_plots, label_of, time_plots
from lightship.simulation.result import SimulationResult, Summary, bin_words, worst_attainment

# Decisions that are shown; the JSON has more.
_MOST_DECISIONS = 40
_FAST = (
    "Engines were simulated in the fast way: whole runs of equal steps at once. It gives the same times as making "
    "every step, up to a full KV cache, where a request waits instead of another being preempted."
)
_EXACT = "Every step of every engine was made, with preemption where the KV cache was full."


def render_page(results: Sequence[SimulationResult]) -> str:
    """The whole page for one simulation or several on the same load; the same text for the same results."""
    folder = files("lightship.evaluation.report")
    template = Template(folder.joinpath("page.html").read_text("utf-8"))
    css = folder.joinpath("page.css").read_text("utf-8").strip()
    first = results[0]
    body = "\n".join(
        [
            _head(results),
            _summary_section(results),
            _plots_section(results),
            _groups_section(results),
            _fleet_section(results),
            _decision_section(results),
            _method_section(first),
        ]
    )
    return template.substitute(title=escape(f"{first.name} – simulation"), css=css, body=body)


def _head(results: Sequence[SimulationResult]) -> str:
    first = results[0]
    total = first.total
    tiles = [
        ("Requests", f"{total.num_requests:,}", f"{three_digits(total.offered_requests_per_s)} per second"),
        (
            "Within the promise",
            _share(total.attainment),
            f"{three_digits(total.goodput_requests_per_s)} good per second",
        ),
        ("Degraded answers", _share(total.degraded_share), f"{_share(total.mean_quality_loss)} of the quality lost"),
        ("Cost", dollars(first.usd), _per_good(first)),
    ]
    cells = "".join(
        f'<div class="tile"><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(words)}</small></dd></div>'
        for title, value, words in tiles
    )
    others = f" beside {len(results) - 1} other ways to run it" if len(results) > 1 else ""
    return (
        '<header><p class="eyebrow">Lightship · simulation</p>'
        f"<h1>{escape(first.name)}</h1>"
        f'<p class="lead">{first.duration_s / 3600:g} hours in virtual time, {escape(label_of(first))}{others}; seed '
        f'{first.seed}.</p><dl class="tiles">{cells}</dl></header>'
    )


def _summary_section(results: Sequence[SimulationResult]) -> str:
    rows: list[tuple[str, Callable[[SimulationResult], str]]] = [
        ("Requests", lambda one: f"{one.total.num_requests:,}"),
        ("Goodput, requests/s", lambda one: _figure(one.total.goodput_requests_per_s)),
        ("Within the promise", lambda one: _share(one.total.attainment)),
        (f"In the worst {bin_words(results[0])} of a region", lambda one: _share(worst_attainment(one))),
        *((outcome.value.capitalize(), _outcome(outcome)) for outcome in Outcome),
        ("Degraded share of answers", lambda one: _share(one.total.degraded_share)),
        ("Quality lost, mean over answers", lambda one: _share(one.total.mean_quality_loss)),
        ("Answered elsewhere", lambda one: f"{one.total.num_spilled:,}"),
        ("TTFT p50 / p99, s", lambda one: _pair(one.total.ttft_s)),
        ("TPOT p50 / p99, s", lambda one: _pair(one.total.tpot_s)),
        ("Replica hours", lambda one: _figure(sum(fleet.replica_hours for fleet in one.fleets))),
        ("Cost", lambda one: data_element(one.usd, dollars(one.usd))),
        ("Cost of 1M good output tokens", _per_good),
    ]
    head = column_head("", is_text=True) + "".join(column_head(label_of(one)) for one in results)
    body = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{value(one)}</td>" for one in results)}</tr>'
        for name, value in rows
    ]
    note = (
        "All ways to run it met the same requests at the same times (common random numbers)."
        if len(results) > 1
        else ""
    )
    return section("What came of it", table("Summary", head, body), note=note)


def _outcome(outcome: Outcome) -> Callable[[SimulationResult], str]:
    def words(one: SimulationResult) -> str:
        count = one.total.outcomes[outcome.value]
        return f"{count:,} ({_share(count / one.total.num_requests if one.total.num_requests else None)})"

    return words


def _plots_section(results: Sequence[SimulationResult]) -> str:
    parts = [_legend([(label_of(one), style) for style, one in enumerate(results)])]
    parts.append(panels([_panel(plot) for plot in time_plots(results)], kind="halves"))
    for one in results:
        parts.append(f"<h3>{escape(label_of(one))}</h3>")
        with_legends = [
            f"<div>{_panel(plot)}{_legend([(line.name, line.style) for line in plot.lines])}</div>"
            for plot in fleet_plots(one)
        ]
        parts.append(panels(with_legends, kind="halves"))
    return section(
        "Over time", "".join(parts), note="Requests are counted by when they came. Dashed: what was offered."
    )


def _panel(plot: TimePlot) -> str:
    def render(width: int, height: int, kind: str) -> str:
        return render_lines(plot.lines, plot.axes, width=width, height=height, kind=kind)

    return half_panel(plot.axes.title, render)


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    cells = "".join(
        f'<li><svg class="long" viewBox="0 0 30 16" aria-hidden="true"><path class="curve s{style % 8}" d="M0 8H30"/>'
        f"</svg>{escape(name)}</li>"
        for name, style in entries
    )
    return f'<ul class="legend">{cells}</ul>'


def _groups_section(results: Sequence[SimulationResult]) -> str:
    rows = []
    for one in results:
        groups = [("class", name, summary) for name, summary in one.by_priority.items()]
        groups += [("tenant", name, summary) for name, summary in one.by_tenant.items()]
        groups += [("clients of", region.name, region.clients) for region in one.regions if len(one.regions) > 1]
        rows += [_group_row(f"{kind} {name}", label_of(one), summary) for kind, name, summary in groups]
    head = "".join(
        column_head(title, is_text=index < 2)
        for index, title in enumerate(
            (
                "Requests of",
                "Way to run it",
                "Requests",
                "Good",
                "Degraded",
                "Rejected or evicted",
                "Failed",
                "TTFT p99, s",
            )
        )
    )
    return section("Classes, tenants and regions", table("Groups", head, rows))


def _group_row(name: str, label: str, one: Summary) -> str:
    refused = one.outcomes["rejected"] + one.outcomes["evicted"]
    cells = (
        f"{one.num_requests:,}",
        _share(one.attainment),
        _share(one.degraded_share),
        _share(refused / one.num_requests if one.num_requests else None),
        f"{one.outcomes['failed']:,}",
        _figure(one.ttft_s["p99"]),
    )
    values = "".join(f"<td>{value}</td>" for value in cells)
    return f'<tr><th scope="row">{escape(name)}</th><td class="start">{escape(label)}</td>{values}</tr>'


def _fleet_section(results: Sequence[SimulationResult]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(fleet.name)}</th><td class="start">{escape(label_of(one))}</td>'
        f"<td>{_figure(fleet.mean_ready)}</td><td>{_figure(fleet.most_ready)}</td><td>{fleet.num_starts:,}</td>"
        f"<td>{fleet.num_crashes:,}</td><td>{_figure(fleet.replica_hours)}</td>"
        f"<td>{data_element(fleet.usd, dollars(fleet.usd))}</td></tr>"
        for one in results
        for fleet in one.fleets
    ]
    titles = ("Replicas", "Way to run it", "Serving, mean", "Most", "Starts", "Crashes", "Hours paid", "Price")
    head = "".join(column_head(title, is_text=index < 2) for index, title in enumerate(titles))
    return section("Replicas and their price", table("Replicas", head, rows))


def _decision_section(results: Sequence[SimulationResult]) -> str:
    parts = []
    for one in results:
        counts = ", ".join(f"{name} {count:,}" for name, count in one.num_decisions_by_reason.items()) or "none"
        rows = "".join(
            f"<tr><td>{decision.at_s / 3600:.3f}</td><td class='start'>{escape(decision.region)}</td>"
            f"<td class='start'>{escape(decision.what)}</td><td>{decision.before} → {decision.after}</td>"
            f"<td class='start'>{escape(decision.reason)}</td><td class='words'>{escape(decision.detail)}</td></tr>"
            for decision in one.decisions[:_MOST_DECISIONS]
        )
        titles = ("Hour", "Region", "What", "From → to", "Reason", "In words")
        head = "".join(column_head(title, is_text=index not in (0, 3)) for index, title in enumerate(titles))
        parts.append(f"<h3>{escape(label_of(one))}</h3><p class='note'>{escape(counts)}</p>")
        parts.append(table(f"Decisions, {label_of(one)}", head, [rows]))
    note = (
        f"Every change of a number of replicas and every step of a ladder has its reason. The first {_MOST_DECISIONS} "
        "are shown; the JSON has thousands."
    )
    return section("Decisions", "".join(parts), note=note)


def _method_section(one: SimulationResult) -> str:
    rungs = "".join(
        f"<dt>{escape(rung.name)}</dt><dd>profile <code>{escape(rung.profile)}</code>, {escape(rung.origin)}: "
        f"{escape(rung.source)} {three_digits(rung.goodput_requests_per_s)} good requests/s of one replica at "
        f"{rung.concurrency} at a time; quality loss {rung.quality_loss:.1%}.</dd>"
        for rung in one.ladder
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in one.notes)
    slo = one.slo
    return section(
        "How it was simulated",
        f'<dl class="facts"><dt>Promise</dt><dd>first token within {slo["ttft_s"]:g} s, later ones within '
        f"{slo['tpot_s']:g} s each, for {slo['attainment']:.0%}</dd>"
        f"<dt>Engines</dt><dd>{escape(_FAST if one.fidelity == 'fast' else _EXACT)}</dd>"
        f"<dt>Decisions</dt><dd>the gateway's dispatcher, ladder, fair queue and choice of replicas, and the "
        f"controller's <code>scale</code>: the functions that serve</dd>{rungs}</dl>"
        f'<ul class="note">{notes}</ul>',
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _figure(value: float | None) -> str:
    return "–" if value is None else data_element(value, three_digits(value))


def _pair(times: dict[str, float | None]) -> str:
    return f"{_figure(times['p50'])} / {_figure(times['p99'])}"


def _per_good(one: SimulationResult) -> str:
    if one.usd_per_1m_good_tokens is None:
        return "no price"
    return f"{dollars(one.usd_per_1m_good_tokens)} per 1M good tokens"
