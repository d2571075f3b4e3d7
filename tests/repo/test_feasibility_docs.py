"""The table in `docs/feasibility.md` is the one that decides."""

from __future__ import annotations

import os
from pathlib import Path

from lightship.compression.feasibility.render import render_table
from lightship.compression.feasibility.support_table import support_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "feasibility.md"
END = "<!-- end -->"


def with_table(page: str) -> str:
    """The page with the table as it is now between its two comments."""
    start = page.index("-->\n", page.index("<!-- generated from")) + len("-->\n")
    return page[:start] + f"\n{render_table(support_table())}\n\n" + page[page.index(END) :]


def test_feasibility_page_holds_the_table_that_decides() -> None:
    page = PAGE.read_text("utf-8")
    current = with_table(page)
    if os.environ.get("UPDATE_GOLDENS") == "1":
        PAGE.write_text(current, "utf-8")
    assert page == current, "docs/feasibility.md is not current; `make goldens` rewrites it"
