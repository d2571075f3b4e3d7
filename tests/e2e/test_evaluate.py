"""`lightship evaluate` and `bench` on real workers of the built-in model, and what the report makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.local

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GATES = """\
version: 1
tasks: [{task}]
gates:
  - {{task: nature, margin: 0.02}}
  - {{figure: quality_recovery, at_least: {floor}}}
"""


@dataclass(frozen=True)
class User:
    """Somebody with a data directory and a folder of their own."""

    folder: Path

    def lightship(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        environment = {**os.environ, "LIGHTSHIP_HOME": str(self.folder / "home")}
        command = [sys.executable, "-m", "lightship", *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(tmp_path_factory.mktemp("evaluate"))


def gates(user: User, *, floor: float) -> str:
    path = user.folder / "gates.yaml"
    path.write_text(GATES.format(task=EXAMPLES / "tasks" / "nature.yaml", floor=floor))
    return str(path)


def test_evaluate_int8_against_fp16_is_undecided_on_ten_items_and_keeps_its_text_quality(user: User) -> None:
    result = user.lightship("evaluate", "int8", "--baseline", "fp16", "--gate", gates(user, floor=0.99), "--json")
    assert result.returncode == 2, result.stderr
    assert "needs 773 items" in result.stderr
    by_name = {gate["name"]: gate["verdict"] for gate in json.loads(result.stdout)["gates"]["gates"]}
    assert by_name == {"nature": "undecided", "quality_recovery": "pass"}


def test_evaluate_student_fails_a_gate_that_asks_for_more_than_its_teacher_has(user: User) -> None:
    """Its recovery on the built-in tales is just below 100 %, as the model card says."""
    path = gates(user, floor=1.02)
    result = user.lightship("evaluate", "quarter-depth", "--baseline", "fp16", "--gate", path, "--markdown", "m.md")
    assert result.returncode == 1, result.stderr
    assert "fails" in (user.folder / "m.md").read_text()


def test_bench_and_report_show_load_curves_and_flips_of_what_was_measured(user: User) -> None:
    variants = ("--set", "variants=[fp16, int8]", "--set", "measurement.concurrencies=[8]")
    target = ("--set", "measurement.target_concurrency=8")
    assert user.lightship("up", "--no-serve", *variants, *target).returncode == 0
    load = ("--arrivals", "constant", "--rate", "4", "--duration", "1", "--warmup", "0")
    result = user.lightship("bench", "int8", *load, "--json")
    if "was late" in result.stderr:
        pytest.skip("NOT TESTED: this machine is too busy for a load client")
    assert result.returncode == 0, result.stderr
    report = json.loads(user.lightship("report", "--json", *variants, *target).stdout)
    int8 = next(one for one in report["variants"] if one["name"] == "int8@openvino")
    assert [load["offered_requests_per_s"] for load in int8["open_loop"]] == [pytest.approx(4, rel=0.5)]
    assert {task["candidate_name"] for task in report["tasks"]} == {"int8@openvino"}
