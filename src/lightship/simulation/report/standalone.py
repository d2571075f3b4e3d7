"""The plots over time as SVG files of their own: with their colours, a title and a legend inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lightship.evaluation.report.svg import CHAR_WIDTH
from lightship.simulation.report.lines import render_lines
from lightship.simulation.report.plots import TimePlot, fleet_plots, time_plots
from lightship.simulation.result import SimulationResult

_WIDTH, _HEIGHT, _HEAD = 720, 320, 48
# Those of the page in its light theme.
_COLOURS = ("#0a5aa8", "#9a4a00", "#1b6e3c", "#a1247a", "#00666f", "#5b3fb0", "#4a5560", "#b0281e")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#566370}.axis-title,.title{fill:#17212b}.title{font-weight:600}"
    ".grid{stroke:#e8edf1}.axis{stroke:#566370}.rule{stroke:#a03c2a;stroke-dasharray:5 4}.rule-label{fill:#a03c2a}"
    ".curve{fill:none;stroke-width:1.6;stroke-linejoin:round}.dashed{stroke-dasharray:5 4}"
    + "".join(f".s{style}{{stroke:{colour}}}" for style, colour in enumerate(_COLOURS))
)


def write_plots(results: Sequence[SimulationResult], folder: Path) -> list[Path]:
    """Effects: writes one file for each plot, named by its title. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = [*time_plots(results), *(plot for one in results for plot in fleet_plots(one))]
    written = []
    for plot in plots:
        name = re.sub(r"[^a-z0-9]+", "-", plot.axes.title.lower()).strip("-")
        path = folder / f"{name}.svg"
        path.write_text(standalone(plot), "utf-8")
        written.append(path)
    return written


def standalone(plot: TimePlot) -> str:
    """One plot as a whole SVG document."""
    drawn = render_lines(plot.lines, plot.axes, width=_WIDTH, height=_HEIGHT)
    inside = drawn[drawn.index(">") + 1 : -len("</svg>")]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-_HEAD} {_WIDTH} {_HEIGHT + _HEAD}" role="img" '
        f'aria-label="{escape(plot.axes.title)}"><style>{_STYLE}</style>'
        f'<rect y="{-_HEAD}" width="{_WIDTH}" height="{_HEIGHT + _HEAD}" fill="#ffffff"/>'
        f'<text class="title" x="12" y="{20 - _HEAD}">{escape(plot.axes.title)}</text>'
    ]
    x = 12.0
    for line in plot.lines:
        dashed = " dashed" if line.is_dashed else ""
        parts.append(
            f'<path class="curve s{line.style % len(_COLOURS)}{dashed}" d="M{x:.0f} {36 - _HEAD}h22"/>'
            f'<text x="{x + 28:.0f}" y="{40 - _HEAD}">{escape(line.name)}</text>'
        )
        x += 48 + CHAR_WIDTH * len(line.name)
    return "".join([*parts, inside, "</svg>\n"])
