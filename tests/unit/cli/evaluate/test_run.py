"""The command as a user runs it, against endpoints whose answers are known by construction."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightship.cli.main import main

NUM_ITEMS = 130
GATES = """
version: 1
gates:
  - {task: colours, margin: 0.05, expected_disagreement: 0.05}
  - {figure: quality_recovery, at_least: 0.97}
"""
TASK = """
version: 1
name: colours
kind: multiple_choice
items: items.jsonl
prompt: "{question}"
choices: choices
answer: answer
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """A task whose right answer is always the second of two choices, texts, and gates."""
    items = [
        {"id": f"i{n}", "question": f"Colour {n}?", "choices": [f"wrong{n}", f"right{n}"], "answer": 1}
        for n in range(NUM_ITEMS)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "gates.yaml").write_text(GATES)
    texts = [f"The {word} ship went out to the sea again." for word in ("old", "red", "new", "big", "far", "low")]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


TEXTS = ("--set", "quality.text=texts.jsonl", "--model", "m")
GOOD = frozenset(f" right{n}" for n in range(NUM_ITEMS))


def run(*arguments: str) -> int:
    return main(["evaluate", *arguments, *TEXTS])


def test_evaluate_endpoint_alone_writes_its_text_quality(
    word_model: Any, serve: Callable[[Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine tokens per text, the position within it deciding -1, -1.01 or -1.02; 44 letters, and so many bytes."""
    url = serve(word_model())
    assert run(url, "-o", "out/record.json", "--json") == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text())["record"]
    by_metric = {one["metric"]: one["value"] for one in record["measurements"]}
    text = "The old ship went out to the sea again."
    nats = sum(1 + 0.01 * (position % 3) for position in range(len(text.split())))
    assert by_metric["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text))
    assert by_metric["perplexity"] == pytest.approx(math.exp(nats / len(text.split())))
    assert record["subject"]["served_fingerprint"] == "sha256:one"
    assert (tmp_path / "out" / "record.scores").exists()
    assert json.loads(capsys.readouterr().out)["candidate"]["subject"]["model"] == "m"


def test_evaluate_equal_candidate_passes_and_writes_both_summaries(
    word_model: Any, serve: Callable[[Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline, candidate = serve(word_model(GOOD)), serve(word_model(GOOD))
    code = run(
        candidate, "--baseline", baseline, "--gate", "gates.yaml", "--task", "task.yaml",
        "--junit", "j.xml", "--markdown", "m.md",
    )  # fmt: skip
    assert code == 0
    assert "PASS" in capsys.readouterr().out
    suite = ET.parse(tmp_path / "j.xml").getroot()
    assert len(list(suite.iter("testcase"))) == 2
    assert "passes every gate" in (tmp_path / "m.md").read_text()


def test_evaluate_gate_file_names_its_tasks_beside_itself(
    word_model: Any, serve: Callable[[Any], str], tmp_path: Path
) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    for name in ("task.yaml", "items.jsonl"):
        (tmp_path / name).rename(folder / name)
    (folder / "g.yaml").write_text("version: 1\ntasks: [task.yaml]\ngates: [{task: colours, margin: 0.05}]\n")
    baseline, candidate = serve(word_model(GOOD)), serve(word_model(GOOD))
    assert run(candidate, "--baseline", baseline, "--gate", "release/g.yaml") == 0


def test_evaluate_worse_candidate_fails(word_model: Any, serve: Callable[[Any], str]) -> None:
    """It lost every third item, far more than the margin of five points."""
    baseline = serve(word_model(GOOD))
    candidate = serve(word_model(frozenset(f" {'wrong' if n % 3 == 0 else 'right'}{n}" for n in range(NUM_ITEMS))))
    assert run(candidate, "--baseline", baseline, "--gate", "gates.yaml", "--task", "task.yaml") == 1


def test_evaluate_too_few_items_are_undecided_and_told_before(
    word_model: Any, serve: Callable[[Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    models = [word_model(GOOD), word_model(GOOD)]
    baseline, candidate = (serve(model) for model in models)
    arguments = (candidate, "--baseline", baseline, "--gate", "gates.yaml", "--task", "task.yaml", "--limit", "10")
    assert run(*arguments, "--dry-run") == 2
    # 6.18 * 0.05 / 0.05^2 = 123.7
    assert "needs 124 items" in capsys.readouterr().err
    assert [model.num_requests for model in models] == [0, 0]
    assert run(*arguments) == 2
    assert ": UNDECIDED" in capsys.readouterr().out


def test_evaluate_dry_run_with_enough_items_says_so(
    word_model: Any, serve: Callable[[Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(word_model())
    code = run(url, "--baseline", f"{url}#other", "--gate", "gates.yaml", "--task", "task.yaml", "--dry-run")
    assert code == 0
    assert "colours" in capsys.readouterr().err


def test_evaluate_records_compare_without_any_endpoint(
    word_model: Any, serve: Callable[[Any], str], tmp_path: Path
) -> None:
    """A release is compared with one that runs no more: the same verdict from its record and its scores."""
    good, bad = serve(word_model(GOOD)), serve(word_model(frozenset(f" wrong{n}" for n in range(NUM_ITEMS))))
    assert run(good, "--task", "task.yaml", "--text", "-o", "good.json") == 0
    assert run(bad, "--baseline", "good.json", "--gate", "gates.yaml", "--task", "task.yaml", "-o", "bad.json") == 1
    assert run("good.json", "--baseline", "bad.json", "--gate", "gates.yaml") == 2  # records are not paired on text
    (tmp_path / "gates.yaml").write_text("version: 1\ngates: [{task: colours, margin: 0.05}]\n")
    assert run("bad.json", "--baseline", "good.json", "--gate", "gates.yaml") == 1


def test_evaluate_endpoint_that_broke_off_goes_on_where_it_was(
    word_model: Any, serve: Callable[[Any], str], tmp_path: Path
) -> None:
    model = word_model(GOOD)
    url = serve(model)
    reply, limit = model.reply, 150

    def break_off(body: dict[str, Any]) -> dict[str, Any]:
        if model.num_requests > limit:
            raise ConnectionResetError
        answer: dict[str, Any] = reply(body)
        return answer

    model.reply = break_off
    assert run(url, "--task", "task.yaml") == 7
    limit = 10**6
    before = model.num_requests
    assert run(url, "--task", "task.yaml", "-o", "whole.json") == 0
    assert model.num_requests - before < 3 * NUM_ITEMS
    items = json.loads((tmp_path / "whole.json").read_text())["record"]["tasks"][0]["items"]
    assert [item["item_id"] for item in items] == [f"i{n}" for n in range(NUM_ITEMS)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("http://127.0.0.1:1", "--gate", "gates.yaml"), 2, "--baseline"),
        (("http://127.0.0.1:1", "--junit", "j.xml"), 2, "--gate"),
        (("http://127.0.0.1:1", "--dry-run"), 2, "--gate"),
        (("http://127.0.0.1:1", "--limit", "0"), 2, "at least 1"),
        (("http://127.0.0.1:1", "-o", "record.txt"), 2, ".json"),
        (("http://127.0.0.1:1", "--baseline", "http://127.0.0.1:1"), 2, "the same"),
        (("http://127.0.0.1:1", "--api-key-env", "NO_SUCH_KEY"), 2, "NO_SUCH_KEY"),
        (("http://127.0.0.1:1", "--task", "nowhere.yaml"), 8, "nowhere.yaml"),
        (("http://127.0.0.1:1", "--task", "task.yaml", "--task", "task.yaml"), 2, "two tasks"),
        (("http://127.0.0.1:1", "--gate", "none.yaml", "--baseline", "b.json"), 2, "none.yaml"),
        (("nowhere.json",), 8, "nowhere.json"),
        (("http://127.0.0.1:1", "--task", "task.yaml"), 7, "cannot be reached"),
    ],
)
def test_evaluate_bad_input_is_one_message_without_a_traceback(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_evaluate_gate_on_a_figure_that_is_never_taken_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gates.yaml").write_text("version: 1\ngates: [{figure: energy_j_per_output_token, at_most: 1}]\n")
    assert run("http://127.0.0.1:1", "--baseline", "http://127.0.0.1:2", "--gate", "gates.yaml") == 2
    assert "energy_j_per_output_token" in capsys.readouterr().err
