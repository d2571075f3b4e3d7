"""Tasks on the page: candidate against reference, item by item, and examples of what changed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import groupby

from lightship.evaluation.comparison import Flip, TaskComparison
from lightship.evaluation.ladder import percent
from lightship.evaluation.report.data import ReportData, is_gain
from lightship.evaluation.report.layout import column_head, section, table
from lightship.evaluation.report.wording import ABSENT, data_element, estimate_cell, listed, three_digits
from lightship.evaluation.statistics.bootstrap import Estimate

# Examples shown for one comparison; the JSON has all of them.
MAX_FLIPS = 10
# Share of their words that two answers must have in common for marks to help.
_MIN_SHARED = 0.4
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def task_section(data: ReportData) -> str:
    """A table per task with its flips beneath; "" where no task was run."""
    if not data.tasks:
        return ""
    groups = groupby(data.tasks, key=lambda one: (one.task, one.metric, one.protocol, one.reference_name))
    parts = [
        _task_table(task, metric, protocol, reference, list(found))
        for (task, metric, protocol, reference), found in groups
    ]
    note = (
        f"{_levels(data.tasks)}"
        "Both variants answered the same items, and are compared item by item. A flip is an item whose score changed: "
        "lost where the candidate does worse, gained where it does better. A difference is shown as one only where its "
        "interval leaves zero out; the others do not show that the variants are equal."
    )
    return section("Tasks", "".join(parts), note=note)


def _levels(tasks: Sequence[TaskComparison]) -> str:
    estimates = (part for one in tasks for part in (one.reference, one.candidate, one.difference, one.recovery))
    levels = sorted({part.interval.level for part in estimates if part and part.interval})
    words = listed([percent(level) for level in levels])
    return f"Small figures are {words} confidence intervals. " if levels else ""


def _task_table(task: str, metric: str, protocol: str, reference: str, found: list[TaskComparison]) -> str:
    titles = (
        ("Candidate", "", True),
        ("Difference", "points", False),
        ("Score", "candidate", False),
        ("Reference", "its score", False),
        ("Recovery", "of the reference", False),
        ("Flips", "lost · gained", False),
        ("p", "two-sided", False),
        ("Items", "clusters", False),
    )
    head = "".join(column_head(title, unit, is_text=is_text) for title, unit, is_text in titles)
    rows = [_row(one, is_one_method=len({other.method for other in found}) == 1) for one in found]
    methods = listed(sorted({one.method for one in found}))
    flips = "".join(_flips(one) for one in found)
    return (
        f"<h3>{escape(task)} · {escape(metric)}</h3>"
        f'<p class="note">Against {escape(reference)}, protocol <code>{escape(protocol)}</code>. '
        f"Interval of the difference: {escape(methods)}.</p>"
        f"{table(f'{task}, {metric}', head, rows)}{flips}"
    )


def _row(one: TaskComparison, *, is_one_method: bool) -> str:
    p_value = ABSENT if one.p_value is None else data_element(one.p_value, p_words(one.p_value))
    cells = (
        f"{estimate_cell(one.difference.value, one.difference.interval, points)}{_tag(one.difference)}",
        estimate_cell(one.candidate.value, one.candidate.interval, _score),
        estimate_cell(one.reference.value, one.reference.interval, _score),
        ABSENT if one.recovery is None else estimate_cell(one.recovery.value, one.recovery.interval, _score),
        f"{data_element(one.num_lost, f'{one.num_lost:,}')} · {data_element(one.num_gained, f'{one.num_gained:,}')}",
        p_value,
        f'{data_element(one.num_items, f"{one.num_items:,}")}<small class="interval">'
        f"{data_element(one.num_clusters, f'{one.num_clusters:,}')}</small>",
    )
    figures = "".join(f"<td>{cell}</td>" for cell in cells)
    method = "" if is_one_method else f"<small>{escape(one.method)}</small>"
    return f'<tr><th scope="row">{escape(one.candidate_name)}{method}</th>{figures}</tr>'


def _tag(difference: Estimate) -> str:
    interval = difference.interval
    if interval is None:
        return ""
    if interval.high < 0:
        return '<span class="tag bad">▼ worse</span>'
    if interval.low > 0:
        return '<span class="tag good">▲ better</span>'
    return '<span class="tag">no difference shown</span>'


def _score(share: float) -> str:
    return f"{share * 100:.1f}%"


def points(difference: float) -> str:
    """Score points with their sign.

    >>> points(-0.0125), points(0.0)
    ('−1.25', '0.00')
    """
    words = f"{difference * 100:+.2f}".replace("-", "−")
    return "0.00" if words[1:] == "0.00" else words


def p_words(p_value: float) -> str:
    """A p-value; a very small one as a bound.

    >>> p_words(0.0312), p_words(0.00000012)
    ('0.031', '< 0.0001')
    """
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def _flips(one: TaskComparison) -> str:
    if not one.flips:
        changed = f"{one.num_lost:,} lost and {one.num_gained:,} gained, of which no example was kept"
        words = changed if one.num_lost or one.num_gained else "no item changed"
        return f'<p class="note">{escape(one.candidate_name)}: {words}.</p>'
    shown = one.flips[:MAX_FLIPS]
    rest = f", the first {len(shown)} here and all in the JSON report" if len(shown) < len(one.flips) else ""
    summary = f"{escape(one.candidate_name)}: what changed ({one.num_lost:,} lost, {one.num_gained:,} gained{rest})"
    return (
        f'<details class="flips"><summary>{summary}</summary><ol>'
        f"{''.join(_flip(flip) for flip in shown)}</ol></details>"
    )


def _flip(flip: Flip) -> str:
    word, kind = ("▲ gained", "good") if is_gain(flip) else ("▼ lost", "bad")
    reference, candidate = marked_difference(flip.reference_answer, flip.candidate_answer)
    texts = (
        ("Prompt", escape(flip.prompt)),
        ("Target", escape(flip.target)),
        ("Reference", reference),
        ("Candidate", candidate),
    )
    shown = "".join(f'<dt>{title}</dt><dd class="excerpt">{words or "<em>empty</em>"}</dd>' for title, words in texts)
    scores = (
        f"{data_element(flip.reference_score, three_digits(flip.reference_score))} → "
        f"{data_element(flip.candidate_score, three_digits(flip.candidate_score))}"
    )
    return (
        f'<li><p><span class="tag {kind}">{word}</span> <code>{escape(flip.item_id)}</code> · score {scores}</p>'
        f'<dl class="texts">{shown}</dl></li>'
    )


def marked_difference(reference: str, candidate: str) -> tuple[str, str]:
    """Both answers as HTML with `<mark>` round the words in which they differ; unmarked where they share too little.

    >>> marked_difference("The answer is 42 & more.", "The answer is 41 & more.")
    ('The answer is <mark>42</mark> &amp; more.', 'The answer is <mark>41</mark> &amp; more.')
    """
    words: list[list[str]] = [_WORD.findall(answer) for answer in (reference, candidate)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    # quick_ratio is an upper bound and cheap: two answers that share little need no alignment
    if matcher.quick_ratio() < _MIN_SHARED or matcher.ratio() < _MIN_SHARED:
        return escape(reference), escape(candidate)
    marked = ["", ""]
    for kind, *bounds in matcher.get_opcodes():
        for side, (start, stop) in enumerate((bounds[:2], bounds[2:])):
            text = escape("".join(words[side][start:stop]))
            marked[side] += f"<mark>{text}</mark>" if text and kind != "equal" else text
    return marked[0], marked[1]
