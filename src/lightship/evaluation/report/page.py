"""The report as one HTML page: no script, no network, light and dark, wide, narrow and on paper.

Text from outside passes `html.escape` on its way in; the style sheet is inlined. Every figure is a `<data>` element
with its unrounded value.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from lightship.evaluation.ladder import percent
from lightship.evaluation.report.data import GateEntry, ReportData, RungEntry, VariantEntry
from lightship.evaluation.report.frontier_section import frontier_section
from lightship.evaluation.report.layout import section
from lightship.evaluation.report.load_section import load_section
from lightship.evaluation.report.resource_section import resource_section
from lightship.evaluation.report.tables import protocol_table, quality_table, rejected_table, speed_tables
from lightship.evaluation.report.task_section import task_section
from lightship.evaluation.report.wording import data_element, three_digits, utc_time

# Colour class and sign of the verdicts that are known; another one is shown as it is.
_VERDICTS = {
    **dict.fromkeys(("pass", "passed", "better", "equivalent", "non-inferior"), ("good", "✓ ")),
    **dict.fromkeys(("fail", "failed", "worse"), ("bad", "✗ ")),
    **dict.fromkeys(("undecided", "inconclusive", "unknown", "skipped"), ("open", "? ")),
}

_TERMS = (
    ("Quality kept", "The variant's quality as a share of the reference's, measured on the same text, item by item."),
    ("Bits/byte, perplexity", "How well the model predicts held-out text: per byte of text, and per token. Perplexity "
     "may be compared only under one tokenizer and protocol; bits/byte also across tokenizers."),
    ("KL divergence, top-1 agreement", "How far the variant's next-token distribution is from the reference's, and how "
     "often both find the same token most likely. They reject a damaged variant; they do not prove a good one."),
    ("TTFT", "Time from sending a request to its first output. TPOT: time per further output token, "
     "(end to end − TTFT) / (tokens − 1)."),
    ("Goodput", "Requests per second that met every limit of the SLO. Failed requests count as missed."),
    ("Output tokens/s", "Output tokens of all requests delivered inside the window in which every user was busy, per "
     "second of that window; prompts are processed in the same time."),
    ("Interval", "Confidence interval: Wilson for shares, batch means for rates, order statistics for medians; quality "
     "as its protocol says."),
    ("Closed loop, open loop", "In a closed loop each client sends its next request when the last is answered, so a "
     "slow server is asked less. In an open loop requests leave on a schedule whatever happens, as they do in the "
     "world."),
    ("Flip", "A task's item that the candidate scores differently than the reference. Few flips with no difference are "
     "better news than many that cancel out."),
    ("Frontier", "Variants that no other beats on quality, goodput, memory, size, and cost where a price is given, "
     "together."),
    ("Ladder, rung", "The order in which a deployment steps down under load: each rung is measurably faster than the "
     "one above and stays above the quality floor."),
)  # fmt: skip


def render_report(data: ReportData) -> str:
    """The whole page; the same text for the same data."""
    folder = files("lightship.evaluation.report")
    template = Template(folder.joinpath("page.html").read_text("utf-8"))
    css = folder.joinpath("page.css").read_text("utf-8").strip()
    body = "\n".join(
        [
            _head(data),
            _ladder(data),
            _gates(data),
            frontier_section(data),
            _quality(data),
            task_section(data),
            load_section(data),
            _speed(data),
            resource_section(data),
            section("Off the ladder", rejected_table(data)),
            _method(data),
            _terms(),
        ]
    )
    return template.substitute(title=escape(f"{data.header.model_name} – measured ladder"), css=css, body=body)


def _head(data: ReportData) -> str:
    header = data.header
    num_variants = len(data.variants)
    return (
        '<header><p class="eyebrow">Lightship · measured ladder</p>'
        f"<h1>{escape(header.model_name)}</h1>"
        f'<p class="lead">{num_variants} {"variant" if num_variants == 1 else "variants"} of '
        f"<code>{escape(header.source)}</code> measured on {escape(header.machine)}, "
        f"{_time_span(data)}.</p>{_tiles(data)}</header>"
    )


def _time_span(data: ReportData) -> str:
    first, last = utc_time(data.measured_from_unix_s), utc_time(data.measured_to_unix_s)
    return first if first == last else f"{first} to {last}"


def _tiles(data: ReportData) -> str:
    first, last = data.rungs[0], data.rungs[-1]
    num_rungs = len(data.rungs)
    slo = f"{data.header.slo_ttft_ms:g} / {data.header.slo_tpot_ms:g} ms"
    tiles = [("Ladder", f"{num_rungs} {'rung' if num_rungs == 1 else 'rungs'}", f"top rung {first.name}")]
    if num_rungs > 1 and first.speed > 0:
        note = f"{data.speed_basis} of {last.name} over {first.name}"
        tiles.append(("Headroom by stepping down", f"{last.speed / first.speed:.2f}×", note))
    else:
        tiles.append((f"{data.speed_basis.capitalize()}", f"{three_digits(last.speed)} {data.speed_unit}", last.name))
    tiles.append(("Lowest quality kept", percent(last.quality_recovery), f"floor {percent(data.quality_floor)}"))
    tiles.append(("SLO: TTFT / TPOT", slo, f"at {data.header.concurrency} concurrent requests"))
    cells = "".join(
        f'<div class="tile"><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(words)}</small></dd></div>'
        for title, value, words in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _ladder(data: ReportData) -> str:
    fastest = max(rung.speed for rung in data.rungs) or 1.0
    items = "".join(_rung(rung, data, fastest=fastest) for rung in data.rungs)
    note = f'<p class="warning">{escape(data.note)}</p>' if data.note else ""
    return (
        '<section><h2>The ladder</h2><p class="note">A deployment serves from rung 1 and steps down only under load. '
        f"Rungs are ordered by {escape(data.speed_basis)} measured at {data.header.concurrency} concurrent requests; a "
        f"lower rung must be at least {data.min_speedup:g} times as fast as the one above.</p>{note}"
        f'<ol class="rungs">{items}</ol></section>'
    )


def _rung(rung: RungEntry, data: ReportData, *, fastest: float) -> str:
    warnings = "".join(f'<p class="warning">Warning: {escape(text)}</p>' for text in rung.warnings)
    speedup = "" if rung.speedup is None else f" · {rung.speedup:.2f}× rung {rung.position - 1}"
    return (
        f'<li><span class="badge" aria-label="rung {rung.position}">{rung.position}</span>'
        f'<div><div class="rung-name">{escape(rung.name)}</div>'
        f'<div class="why">{escape(rung.reason)}</div>{warnings}</div>'
        f'<div class="measure">Quality kept<br><strong>'
        f"{data_element(rung.quality_recovery, percent(rung.quality_recovery))}</strong>"
        f"{_track(min(1.0, rung.quality_recovery))}</div>"
        f'<div class="measure">{escape(data.speed_basis.capitalize())}{speedup}<br><strong>'
        f"{data_element(rung.speed, three_digits(rung.speed))}</strong> {escape(data.speed_unit)}"
        f"{_track(rung.speed / fastest)}</div></li>"
    )


def _gates(data: ReportData) -> str:
    if not data.gates:
        return ""
    return section("Gates", f'<ul class="gates">{"".join(_gate(one) for one in data.gates)}</ul>')


def _gate(gate: GateEntry) -> str:
    kind, sign = _VERDICTS.get(gate.verdict.lower(), ("", ""))
    return (
        f'<li><span class="tag {kind}">{sign}{escape(gate.verdict)}</span>'
        f"<div><strong>{escape(gate.name)}</strong><p>{escape(gate.sentence)}</p></div></li>"
    )


def _track(share: float) -> str:
    return f'<span class="track" aria-hidden="true"><i style="width:{share * 100:.1f}%"></i></span>'


def _quality(data: ReportData) -> str:
    note = (
        f"Small figures are {_levels(data)} confidence intervals. Quality is measured on the serving engine itself, on "
        "text the variants were not calibrated with."
    )
    return section("Quality, size and memory", quality_table(data), note=note)


def _levels(data: ReportData) -> str:
    figures = (one for entry in data.variants for one in entry.figures)
    return " or ".join(percent(level) for level in sorted({one.interval.level for one in figures if one.interval}))


def _speed(data: ReportData) -> str:
    note = (
        "Measured over HTTP on the worker that serves the variant, in a closed loop: as many clients as the title "
        "says, each sending its next request when the last is answered. Latencies are medians with their intervals; "
        "tails beside them."
    )
    return section("Speed under load", speed_tables(data), note=note)


def _method(data: ReportData) -> str:
    header = data.header
    targets = sorted({_target_words(entry) for entry in data.variants})
    digests = "".join(
        f"<dt>{escape(entry.name)}</dt><dd><code>{escape(entry.digest)}</code><br>{escape(entry.weight_format)} · "
        f"{data_element(entry.num_parameters, f'{entry.num_parameters:,}')} parameters · {escape(entry.recipe)}</dd>"
        for entry in data.variants
    )
    return (
        '<section><h2>How it was measured</h2><dl class="facts">'
        f"<dt>Machine</dt><dd>{escape(header.machine)}</dd>"
        f"<dt>Target</dt><dd>{'<br>'.join(escape(words) for words in targets)}</dd>"
        f"<dt>Reference</dt><dd><code>{escape(header.reference_digest)}</code></dd>"
        f"<dt>Measured</dt><dd>{_time_span(data)}</dd>"
        f"<dt>Report made</dt><dd>{utc_time(header.created_unix_s)}</dd></dl>"
        f'{protocol_table(data)}<h3>Variants</h3><dl class="facts">{digests}</dl>'
        f"<h3>Reproduce</h3><pre><code>{escape(header.command)}</code></pre></section>"
    )


def _target_words(entry: VariantEntry) -> str:
    target = entry.target
    settings = "".join(f", {key}={value}" for key, value in sorted(target.settings.items()))
    return (
        f"{target.engine} {target.engine_version} on {target.device} ({target.instruction_set}), "
        f"{target.num_threads} threads{settings}"
    )


def _terms() -> str:
    entries = "".join(f"<dt>{escape(term)}</dt><dd>{escape(words)}</dd>" for term, words in _TERMS)
    return f'<section><h2>What the words mean</h2><dl class="terms">{entries}</dl></section>'
