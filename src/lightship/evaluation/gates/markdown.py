"""Gate results as Markdown for a pull request. Pure.

Names come from files and models, so all text is escaped: a name can neither break the table nor format it, nor call
the attention of a person whom `model@engine` happens to spell.
"""

from __future__ import annotations

import re

from lightship.evaluation.gates.results import GateKind, GateReport, GateResult
from lightship.evaluation.gates.task_gates import signed_points
from lightship.evaluation.statistics.paired import Verdict

_HEADLINES = {
    Verdict.PASS: "passes every gate",
    Verdict.FAIL: "fails",
    Verdict.UNDECIDED: "is undecided",
}
_COLUMNS = ("Gate", "Verdict", "Asked", "Items", "Figure", "p", "What was found")
_ALIGNMENT = ("---", "---", "---", "---:", "---:", "---:", "---")
# Punctuation that Markdown may read as markup; CommonMark allows a backslash before each of them.
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown_summary(report: GateReport) -> str:
    """A headline, the counts and a table with a row for each gate."""
    names = f"{_escaped(report.candidate_name)} against {_escaped(report.baseline_name)}"
    counts = ", ".join(
        f"{report.count(verdict)} {word}"
        for verdict, word in (
            (Verdict.PASS, "passed"),
            (Verdict.FAIL, "failed"),
            (Verdict.UNDECIDED, "undecided"),
        )
    )
    note = (
        f"Each claim at {report.confidence * 100:g} % one-sided confidence; p-values are those of a loss beyond the "
        "margin, Holm-adjusted over the tasks."
    )
    rows = [_row(_COLUMNS), _row(_ALIGNMENT), *(_row(_cells(result)) for result in report.results)]
    return "\n".join([f"### Gates: {names} {_HEADLINES[report.verdict]}", "", f"{counts}.", "", *rows, "", note, ""])


def _cells(result: GateResult) -> tuple[str, ...]:
    return (
        _escaped(result.name),
        f"**{result.verdict.upper()}**",
        _escaped(result.requirement),
        "–" if result.num_items is None else f"{result.num_items:,}",
        _escaped(_figure(result)),
        "–" if result.p_value is None else f"{result.p_value:.3g}",
        _escaped(result.sentence),
    )


def _figure(result: GateResult) -> str:
    if result.value is None:
        return "–"
    if result.kind is GateKind.TASK:
        return signed_points(result.value, result.interval)
    bounds = f" ({result.interval.low:.4g} to {result.interval.high:.4g})" if result.interval else ""
    return f"{result.value:.4g}{bounds}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """The text as it is, in one line, wherever Markdown stands it."""
    flat = " ".join(text.split())
    entities = "".join(_ENTITIES.get(character, character) for character in flat)
    # An empty comment after @ and between :// keeps forges from making mentions and links of what is plain text.
    return _MARKUP.sub(r"\\\1", entities).replace("@", "@<!-- -->").replace("://", ":<!-- -->//")
