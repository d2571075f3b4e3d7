"""What the evidence scripts share: a line of figures beside its target, and the loop that prints them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from lightship.artifacts.machine import this_machine

ROOT = Path(__file__).resolve().parents[1]
# Where checkpoints and texts made elsewhere may lie; lines that need them say so when they do not.
DEFAULT_DATA = Path(os.environ.get("LIGHTSHIP_TEST_DATA", str(ROOT.parent / "shared" / "data")))
BENCHMARKS = Path(__file__).resolve().parent
# How the benchmarks print a check: whether it holds, a number perhaps, what was found, and the target in brackets.
_CHECK = re.compile(
    r"(?P<mark>ok|NO|MISS|skip) +(?:\d\w* {2,})?(?P<found>.*?)(?: \((?P<target>[^()]*(?:\([^()]*\)[^()]*)*)\))?"
)
_IS_MET = {"ok": True, "NO": False, "MISS": False, "skip": None}


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


def from_script(number: str, claim: str, script: str, *options: str) -> Iterator[Line]:
    """The checks of a benchmark that prints its own, one line each, and ends with 1 where one falls short."""
    if not (BENCHMARKS / script).is_file():
        yield Line(number, claim, f"NOT TRIED: benchmarks/{script} is not there", "", None)
        return
    command = [sys.executable, str(BENCHMARKS / script), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    checks = [check for line in result.stdout.splitlines() if (check := _CHECK.fullmatch(line.strip()))]
    for letter, check in zip(ascii_lowercase, checks, strict=False):
        target = (check["target"] or "").removeprefix("target ")
        yield Line(f"{number}{letter}", claim, check["found"], target, _IS_MET[check["mark"]])
    if not checks or (result.returncode and all(_IS_MET[check["mark"]] for check in checks)):
        said = f"{result.stdout}\n{result.stderr}".strip().splitlines()
        was_tried = not any(line.startswith("NOT TRIED") for line in said)
        figure = f"ended with {result.returncode}: {' | '.join(said[-3:])}"
        yield Line(number, claim, figure, "0", False if was_tried else None)


def from_tests(number: str, claim: str, *tests: str) -> Iterator[Line]:
    """Tests that pass, and how many; skipped ones are no evidence."""
    result = pytest("-n", "0", *tests)
    summary = result.stdout.strip().splitlines()[-1] if result.stdout.strip() else result.stderr[-300:]
    is_met = result.returncode == 0 and "skipped" not in summary
    yield Line(number, claim, summary, "pass, none skipped", is_met)


def figure_of(report: Any, name: str, metric: str) -> float:
    """One figure of the report's JSON."""
    variant = next(variant for variant in report["variants"] if variant["name"] == name)
    return float(next(figure["value"] for figure in variant["figures"] if figure["metric"] == metric))
