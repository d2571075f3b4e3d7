"""Building blocks of the page: sections, tables that scroll in their own box, figures for wide and narrow pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TypeAlias

from lightship.evaluation.report.data import VariantEntry

# Pixels: the widths the page has room for on a desktop and on a phone.
_WIDE, _NARROW = 1030, 350
_HALF = 500
_THIRD = 336

# Draws for a width and a height in pixels and a CSS class.
Render: TypeAlias = Callable[[int, int, str], str]


def section(title: str, body: str, *, note: str = "", kind: str = "") -> str:
    """A titled section; `note` is HTML."""
    start = f'<section class="{kind}">' if kind else "<section>"
    words = f'<p class="note">{note}</p>' if note else ""
    return f"{start}<h2>{escape(title)}</h2>{words}{body}</section>"


def table(label: str, head: str, rows: Sequence[str]) -> str:
    """A table that scrolls sideways inside its own box; `head` and `rows` are HTML."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def folded(title: str, body: str, *, is_open: bool) -> str:
    """A part that opens when its title is chosen, and is whole on paper; `body` is HTML."""
    state = " open" if is_open else ""
    return f'<details class="fold"{state}><summary>{escape(title)}</summary>{body}</details>'


def column_head(title: str, unit: str = "", *, is_text: bool = False) -> str:
    """A column's title with its unit beneath."""
    small = f"<small>{escape(unit)}</small>" if unit else ""
    kind = ' class="start"' if is_text else ""
    return f'<th scope="col"{kind}>{escape(title)}{small}</th>'


VARIANT_HEAD = column_head("Variant", is_text=True)


def row_start(entry: VariantEntry) -> str:
    """The opening of a variant's row: its name and its place."""
    place = f"rung {entry.rung}" if entry.rung else "on the frontier" if entry.is_on_frontier else ""
    words = [place, "reference" if entry.candidate and entry.candidate.is_reference else ""]
    note = " · ".join(word for word in words if word)
    small = f"<small>{note}</small>" if note else ""
    kind = ' class="is-rung"' if entry.rung else ""
    return f'<tr{kind}><th scope="row">{escape(entry.name)}{small}</th>'


def large_figure(render: Render) -> str:
    """A plot over the whole width, drawn once for wide and once for narrow pages: letters keep their size."""
    return render(_WIDE, 440, "wide") + render(_NARROW, 340, "narrow")


def half_panel(title: str, render: Render) -> str:
    """A captioned plot of half the width."""
    return _panel(title, render(_HALF, 320, "wide") + render(_NARROW, 290, "narrow"))


def third_panel(title: str, render: Render) -> str:
    """A captioned plot of a third of the width."""
    return _panel(title, render(_THIRD, 262, ""))


def _panel(title: str, body: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"


def panels(items: Sequence[str], *, kind: str) -> str:
    """Panels side by side as the page has room: `thirds` or `halves`."""
    return f'<div class="panels {kind}">{"".join(items)}</div>'
