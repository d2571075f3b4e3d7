"""The page and the plots say what the simulation found, whatever its names look like."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from tests.unit.simulation.scenarios import kind, run, rung, small

from lightship.simulation.report.page import render_page
from lightship.simulation.report.standalone import write_plots
from lightship.simulation.result import SimulationResult, bin_words, worst_attainment

_VOID = {"meta", "br", "hr", "img", "link", "input", "wbr", "path", "rect", "circle", "line", "polyline"}
NASTY = "<b>\"&'"


class Outline(HTMLParser):
    """Tags that were opened and not closed, and the cells of tables by the words of their row's head."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self._cells: list[str] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self._cells = []
        self._is_cell = tag in {"td", "th"} or (self._is_cell and tag == "data")
        if tag in {"td", "th"}:
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self.open.pop() == tag
        if tag == "tr" and self._cells:
            self.rows.setdefault(self._cells[0], self._cells[1:])
        self._is_cell = self._is_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._is_cell and self._cells:
            self._cells[-1] += data


@pytest.fixture(scope="module")
def results() -> list[SimulationResult]:
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 40.0, "kinds": [kind()]}}}}
    both = run(small(placement="shared", name=NASTY, **crowded))
    alone = run(small(placement="shared", ladder=[rung("top")], **crowded))
    return [both, msgspec.structs.replace(alone, alternative=NASTY)]


def test_page_is_whole_and_says_what_was_found(results: list[SimulationResult]) -> None:
    page = render_page(results)
    assert not re.search(r"<script|https?://|<link|<b>", page)
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.rows["Requests"] == [f"{one.total.num_requests:,}" for one in results]
    assert outline.rows["Goodput, requests/s"] == [f"{one.total.goodput_requests_per_s:.3g}" for one in results]
    served = [one.total.outcomes["served"] for one in results]
    assert [words.split()[0] for words in outline.rows["Served"]] == [f"{number:,}" for number in served]
    worst = outline.rows[f"In the worst {bin_words(results[0])} of a region"]
    assert [float(words.rstrip("%")) / 100 for words in worst] == [
        pytest.approx(worst_attainment(one), abs=0.001) for one in results
    ]


def test_page_same_results_same_text(results: list[SimulationResult]) -> None:
    assert render_page(results) == render_page(results)


def test_plots_are_documents_of_their_own_with_a_line_and_a_name_for_each_way(
    results: list[SimulationResult], tmp_path: Path
) -> None:
    paths = write_plots(results, tmp_path)
    # six over time; replicas of both, and the step of the one that has a second rung
    assert len({path.name for path in paths}) == len(paths) == 9
    for path in paths:
        ElementTree.parse(path)
    goodput = next(path for path in paths if path.name == "requests-and-goodput.svg").read_text("utf-8")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", goodput)
    assert {"as written", NASTY, "offered"} <= {unescape(text) for text in texts}
    # two lines and what was offered, each drawn once and once in the legend
    assert goodput.count('class="curve') == 6
