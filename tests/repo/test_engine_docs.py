"""The tables of features and quirks in docs/engines.md are what the adapters declare."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from lightship.engines.base import EngineAdapter, EngineFeature, EngineQuirk
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.vllm.adapter import VllmAdapter

DOCS = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
BEGIN = "<!-- generated from what the adapters declare; `make goldens` rewrites it -->\n"
END = "<!-- end -->"
ADAPTERS: tuple[EngineAdapter[Any], ...] = (OpenVinoAdapter(), VllmAdapter(), LlamacppAdapter(), SimulatedAdapter())
BASE = Path(__file__).resolve().parents[2] / "src" / "lightship" / "engines" / "base.py"


def meanings() -> dict[str, str]:
    """What the comment beside a member says, by its value."""
    return dict(re.findall(r'^    [A-Z0-9_]+ = "(\w+)"  # (.+)$', BASE.read_text("utf-8"), flags=re.MULTILINE))


def table(title: str, members: Iterable[StrEnum], declared: str) -> str:
    named = [one.name for one in ADAPTERS]
    lines = [f"| {title} | {' | '.join(named)} | |", "|---" * (len(named) + 2) + "|"]
    for member in members:
        marks = ["x" if member in getattr(one, declared) else "" for one in ADAPTERS]
        if any(marks):
            lines.append(f"| `{member}` | {' | '.join(marks)} | {meanings().get(member, '')} |")
    return "\n".join(lines) + "\n"


def test_engine_tables_are_current() -> None:
    """UPDATE_GOLDENS=1 rewrites them and still fails, so that the change is looked at."""
    text = DOCS.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    committed, _, after = rest.partition(END)
    tables = (table("feature", EngineFeature, "features"), table("quirk", EngineQuirk, "quirks"))
    generated = "\n" + "\n".join(tables) + "\n"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        DOCS.write_text(before + BEGIN + generated + END + after, encoding="utf-8")
    assert committed == generated, "run: make goldens"
