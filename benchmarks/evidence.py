"""What the evidence scripts share: a line of figures beside its target, and the loop that prints them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightship.artifacts.machine import this_machine

ROOT = Path(__file__).resolve().parents[1]
# Where checkpoints and texts made elsewhere may lie; lines that need them say so when they do not.
DEFAULT_DATA = Path(os.environ.get("LIGHTSHIP_TEST_DATA", str(ROOT.parent / "shared" / "data")))


@dataclass(frozen=True)
class Line:
    """One figure beside its target; `is_met` is None for what could not be tried here."""

    number: str
    claim: str
    figure: str
    target: str
    is_met: bool | None


def run_topic(steps: Mapping[str, Callable[[], Iterable[Line]]], only: str) -> int:
    """Runs the chosen steps and prints their lines as they come; 1 if one falls short."""
    chosen = [number.strip() for number in only.split(",")]
    if unknown := [number for number in chosen if number not in steps]:
        sys.exit(f"no such line: {', '.join(unknown)}; there are {', '.join(steps)}")
    print(f"{datetime.now(UTC):%Y-%m-%d} | {this_machine().description} | Python {platform.python_version()}")
    falls_short = False
    for number in chosen:
        for line in steps[number]():
            mark = {True: "ok  ", False: "MISS", None: "skip"}[line.is_met]
            print(f"{mark} {line.number:3} {line.claim}: {line.figure} (target {line.target})", flush=True)
            falls_short |= line.is_met is False
    return 1 if falls_short else 0


def pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs tests of this checkout."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def figure_of(report: Any, name: str, metric: str) -> float:
    """One figure of the report's JSON."""
    variant = next(variant for variant in report["variants"] if variant["name"] == name)
    return float(next(figure["value"] for figure in variant["figures"] if figure["metric"] == metric))
