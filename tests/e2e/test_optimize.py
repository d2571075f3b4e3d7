"""`lightship optimize` on real workers of the built-in model: what it finds, keeps, writes, and goes on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightship.spec.load import parse_spec

pytestmark = pytest.mark.local

# Loose promises: what is tested is the search, not the speed of this machine.
ARGUMENTS = (
    "--slo",
    "ttft=60s,tpot=9s",
    "--recipes",
    "quarter-depth",
    "--floor",
    "0.9",
    "--set",
    "measurement.concurrencies=[4]",
)
TARGET = ("--set", "measurement.target_concurrency=4")


@dataclass(frozen=True)
class User:
    """Somebody with a data directory and a folder of their own."""

    folder: Path

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """The command line and its environment."""
        return (
            [sys.executable, "-m", "lightship", "optimize", "builtin:fairytales", *ARGUMENTS, *TARGET, *arguments],
            {**os.environ, "LIGHTSHIP_HOME": str(self.folder / "home")},
        )

    def optimize(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One search."""
        command, environment = self.command(*arguments)
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(tmp_path_factory.mktemp("optimize"))


def record_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def fates(record: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["decision"]["fate"] for one in record["candidates"]}


def test_optimize_dry_run_tells_what_would_be_tried_and_makes_nothing(user: User) -> None:
    result = user.optimize("--dry-run")
    assert result.returncode == 0, result.stderr
    assert "fp16@openvino: data-free, about" in result.stdout
    assert "quarter-depth@openvino: data-free, about" in result.stdout
    assert not (user.folder / "home" / "artifacts").exists()


def test_optimize_recipe_for_an_engine_that_is_not_offered_says_so(user: User) -> None:
    result = user.optimize("--dry-run", "--recipes", "w8a8-rtn")
    assert "not here: w8a8-rtn@vllm: vllm serves what this recipe makes" in result.stdout


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and children inherit that: not those of this test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_optimize_stopped_by_a_signal_goes_on_where_it_was_and_writes_what_it_found(user: User) -> None:
    command, environment = user.command("--json")
    with subprocess.Popen(
        command, env=environment, cwd=user.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:  # the reference is scored before anything is loaded
            said.append(line)
            if "speed of fp16@openvino (" in line:
                break
        else:
            pytest.fail(f"it ended before it had measured a speed: {''.join(said)}")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    (journal,) = (user.folder / "home" / "searches").glob("*/journal.jsonl")
    before = journal.read_text().splitlines()
    assert [json.loads(line)["type"] for line in before] == ["built", "quality"]

    result = user.optimize("--json", "--write-spec", "found.yaml")
    assert result.returncode == 0, result.stderr
    assert "continuing a search: 2 results are there already" in result.stderr
    assert journal.read_text().splitlines()[:2] == before
    record = record_of(result)
    assert fates(record)["fp16@openvino"] == "kept"
    assert record["is_over"]
    assert set(record["frontier"]) <= set(fates(record))
    figures = {one["name"]: one["figures"] for one in record["candidates"]}
    # of the model card: the student predicts nearly as well in a third of the bytes
    assert 0.98 < figures["quarter-depth@openvino"]["quality"]["recovery"]["value"] < 1.0
    assert figures["quarter-depth@openvino"]["num_bytes"] < 0.4 * figures["fp16@openvino"]["num_bytes"]
    spec = parse_spec((user.folder / "found.yaml").read_text()).spec
    assert spec.variants[0] == "fp16"
    assert "quarter-depth" in spec.variants
    readable = (journal.parent / "record.md").read_text()
    assert "## Why each one lived or died" in readable
    assert (journal.parent / "report.html").exists()


def test_optimize_finished_search_measures_nothing_again(user: User) -> None:
    (journal,) = (user.folder / "home" / "searches").glob("*/journal.jsonl")
    before = journal.read_text()
    result = user.optimize()
    assert result.returncode == 0, result.stderr
    assert journal.read_text() == before
    assert "quarter-depth@openvino" in result.stdout
    assert "record: " in result.stdout


def test_optimize_tasks_that_are_named_decide_on_finalists(user: User) -> None:
    """The variants and figures of the search before are found again."""
    items = [
        {"question": "Once upon a", "choices": [" time", " carrot"], "answer": 0},
        {"question": "There was once a king who had three", "choices": [" slowly", " sons"], "answer": 1},
        {"question": "The princess was so beautiful that", "choices": [" everyone", " of of"], "answer": 0},
        {"question": "The wolf ran into the", "choices": [" very", " forest"], "answer": 1},
    ]
    (user.folder / "words.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (user.folder / "words.yaml").write_text(
        "version: 1\nname: words\nkind: multiple_choice\nitems: words.jsonl\n"
        'prompt: "{question}"\nchoices: choices\nanswer: answer\n'
    )
    result = user.optimize("--task", "words.yaml", "--json")
    assert "tasks of fp16@openvino" in result.stderr
    record = record_of(result)
    student = next(one for one in record["candidates"] if one["name"] == "quarter-depth@openvino")
    assert student["figures"]["tasks"]["num_items"] == 4
    assert "on tasks" in student["decision"]["reason"]


def test_optimize_limit_without_a_task_is_refused(user: User) -> None:
    result = user.optimize("--limit", "3")
    assert result.returncode == 2
    assert "--limit" in result.stderr
    assert "3 items of no task" in result.stderr
    assert "Name a task with --task" in result.stderr


def test_optimize_spec_file_that_exists_is_not_overwritten(user: User) -> None:
    (user.folder / "mine.yaml").write_text("model: {}\n")
    result = user.optimize("--write-spec", "mine.yaml")
    assert result.returncode == 2
    assert "the file is there already" in result.stderr
    assert (user.folder / "mine.yaml").read_text() == "model: {}\n"
