from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.errors import SpecError, UsageError
from lightship.evaluation.gates.gate_file import BoundKind, FigureGate, TaskGate, load_gates, parse_gates
from lightship.ports.measurements import Metric

WHOLE = """\
version: 1
confidence: 0.95          # one-sided, for every claim
power: 0.8
tasks: [tasks/arc.yaml, more.yaml]
gates:
  - task: arc-easy
    metric: acc_norm
    margin: 0.02
    expected_disagreement: 0.05
  - figure: quality_recovery
    at_least: 0.97
  - figure: kl_nats_per_token
    at_most: 0.05
  - figure: goodput_requests_per_s
    concurrency: 32
    at_least_ratio: 0.9
  - figure: ttft_ms
    name: first token
    protocol: chat/1
    concurrency: 8
    at_most_ratio: 1.1
"""


def test_parse_gates_reads_every_key() -> None:
    gates = parse_gates(WHOLE)
    assert (gates.confidence, gates.power, gates.two_sided_level) == (0.95, 0.8, 0.9)
    assert gates.alpha == pytest.approx(0.05)
    assert gates.gates == (
        TaskGate("arc-easy/acc_norm", "arc-easy", "acc_norm", 0.02, 0.05),
        FigureGate("quality_recovery", Metric.QUALITY_RECOVERY, BoundKind.AT_LEAST, 0.97, None, None),
        FigureGate("kl_nats_per_token", Metric.KL_NATS, BoundKind.AT_MOST, 0.05, None, None),
        FigureGate("goodput_requests_per_s@32", Metric.GOODPUT_REQUESTS_PER_S, BoundKind.AT_LEAST_RATIO, 0.9, 32, None),
        FigureGate("first token", Metric.TTFT_MS, BoundKind.AT_MOST_RATIO, 1.1, 8, "chat/1"),
    )
    assert gates.task_gates == gates.gates[:1]
    assert gates.tasks == ("tasks/arc.yaml", "more.yaml")


def test_parse_gates_what_is_left_out_has_a_default() -> None:
    gates = parse_gates("version: 1\ngates:\n  - {task: arc, margin: 0.01}\n  - {task: gsm, margin: 0.1}\n")
    assert (gates.confidence, gates.power) == (0.95, 0.8)
    # where a tenth may be lost, at least a tenth is expected to differ
    assert gates.gates == (TaskGate("arc", "arc", None, 0.01, 0.05), TaskGate("gsm", "gsm", None, 0.1, 0.1))


@pytest.mark.parametrize("metric", list(Metric))
def test_parse_gates_every_figure_has_one_side_that_is_better(metric: Metric) -> None:
    accepted = []
    for kind in ("at_least", "at_most"):
        with contextlib.suppress(SpecError):
            parse_gates(f"version: 1\ngates:\n  - {{figure: {metric}, {kind}: 0.5}}\n")
            accepted.append(kind)
    assert len(accepted) == 1


@dataclass(frozen=True)
class Wrong:
    name: str
    text: str
    where: str
    says: str


HEAD = "version: 1\ngates:\n"
TASK = HEAD + "  - task: arc\n    margin: 0.02\n"
WRONG = [
    Wrong("empty", "", "g.yaml", "a mapping from keys to values"),
    Wrong("list", "- task: arc\n", "g.yaml", "a mapping from keys to values"),
    Wrong("not yaml", "gates: [\n", "g.yaml:2", "not YAML"),
    Wrong("key twice", "version: 1\nversion: 1\n", "g.yaml:2", "'version' is there twice"),
    Wrong("no version", "gates:\n  - {task: arc, margin: 0.02}\n", "version", "missing; expected a whole number"),
    Wrong("other version", TASK.replace("1", "2", 1), "g.yaml:1: version", "version 2 is not known"),
    Wrong(
        "tasks as text", "version: 1\ntasks: arc.yaml\ngates: [{task: arc, margin: 0.02}]\n", "g.yaml:2", "a list of"
    ),
    Wrong("task twice", "version: 1\ntasks: [a, a]\ngates: [{task: arc, margin: 0.02}]\n", "g.yaml:2", "listed twice"),
    Wrong("no gates", "version: 1\n", "gates", "missing; expected a list"),
    Wrong("empty gates", "version: 1\ngates: []\n", "g.yaml:2: gates", "at least one gate"),
    Wrong("gates as mapping", "version: 1\ngates: {task: arc}\n", "g.yaml:2: gates", "expected a list"),
    Wrong("gate as text", HEAD + "  - arc\n", "g.yaml:3: gates[0]", "a gate is a mapping, got arc"),
    Wrong("unknown key", "confidense: 0.9\n" + TASK, "g.yaml:1: confidense", "Did you mean confidence?"),
    Wrong("unknown key far", "colour: red\n" + TASK, "g.yaml:1: colour", "Valid keys here: version, confidence,"),
    Wrong("unknown gate key", TASK + "    metrik: acc\n", "g.yaml:5: gates[0].metrik", "Did you mean metric?"),
    Wrong("key of the other kind", TASK + "    at_least: 1\n", "g.yaml:5: gates[0].at_least", "a gate on a figure"),
    Wrong("confidence as percent", "confidence: 95\n" + TASK, "g.yaml:1: confidence", "write 0.95 for 95 %"),
    Wrong("confidence of a coin", "confidence: 0.5\n" + TASK, "g.yaml:1: confidence", "> 0.5 and < 1, got 0.5"),
    Wrong("power too low", "power: 0.3\n" + TASK, "g.yaml:1: power", ">= 0.5 and < 1, got 0.3"),
    Wrong("no margin", HEAD + "  - task: arc\n", "g.yaml:3: gates[0].margin", "missing; expected a number"),
    Wrong(
        "margin in points", HEAD + "  - task: arc\n    margin: 2\n", "g.yaml:4: gates[0].margin", "0.02 for 2 points"
    ),
    Wrong("margin zero", HEAD + "  - {task: arc, margin: 0}\n", "gates[0].margin", "> 0 and < 1, got 0"),
    Wrong("margin null", HEAD + "  - {task: arc, margin: null}\n", "gates[0].margin", "nothing (null)"),
    Wrong("margin text", HEAD + "  - {task: arc, margin: '0.02'}\n", "gates[0].margin", "expected a number"),
    Wrong("margin bool", HEAD + "  - {task: arc, margin: true}\n", "gates[0].margin", "expected a number"),
    Wrong("task a number", HEAD + "  - {task: 12, margin: 0.02}\n", "gates[0].task", "Put quotes around it"),
    Wrong("task empty", HEAD + "  - {task: '', margin: 0.02}\n", "gates[0].task", "expected a name"),
    Wrong(
        "disagreement below margin",
        TASK + "    expected_disagreement: 0.01\n",
        "g.yaml:5: gates[0].expected_disagreement",
        "0.01 is less than the margin of 0.02",
    ),
    Wrong("neither kind", HEAD + "  - {margin: 0.02}\n", "g.yaml:3: gates[0]", "neither a task nor a figure"),
    Wrong("both kinds", TASK + "    figure: ttft_ms\n", "g.yaml:3: gates[0]", "both a task and a figure"),
    Wrong("unknown figure", HEAD + "  - {figure: ttft, at_most: 9}\n", "gates[0].figure", "Did you mean ttft_ms?"),
    Wrong("no bound", HEAD + "  - {figure: ttft_ms}\n", "gates[0]", "has no bound"),
    Wrong("two bounds", HEAD + "  - {figure: ttft_ms, at_most: 9, at_most_ratio: 1}\n", "gates[0]", "has 2 bounds"),
    Wrong("wrong side", HEAD + "  - {figure: ttft_ms, at_least: 9}\n", "gates[0].at_least", "Write at_most instead"),
    Wrong(
        "wrong side of a ratio",
        HEAD + "  - {figure: goodput_requests_per_s, at_most_ratio: 0.9}\n",
        "gates[0].at_most_ratio",
        "Write at_least_ratio instead",
    ),
    Wrong(
        "ratio of a ratio",
        HEAD + "  - {figure: quality_recovery, at_least_ratio: 0.9}\n",
        "gates[0].at_least_ratio",
        "relative to the reference already. Write at_least instead",
    ),
    Wrong(
        "share in percent", HEAD + "  - {figure: top1_agreement, at_least: 97}\n", "gates[0].at_least", "0.97 for 97 %"
    ),
    Wrong("recovery in percent", HEAD + "  - {figure: quality_recovery, at_least: 97}\n", "gates[0]", "0.97 for 97 %"),
    Wrong("negative bound", HEAD + "  - {figure: ttft_ms, at_most: -1}\n", "gates[0].at_most", ">= 0, got -1"),
    Wrong("infinite bound", HEAD + "  - {figure: ttft_ms, at_most: 1e999}\n", "gates[0].at_most", "expected a number"),
    Wrong(
        "ratio in percent", HEAD + "  - {figure: ttft_ms, at_most_ratio: 110}\n", "gates[0]", "0.9 keeps nine tenths"
    ),
    Wrong(
        "concurrency a fraction",
        HEAD + "  - {figure: ttft_ms, at_most: 9, concurrency: 1.5}\n",
        "gates[0].concurrency",
        "a whole number from 0",
    ),
    Wrong(
        "same name",
        TASK + "  - {task: arc, margin: 0.05}\n",
        "g.yaml:5: gates[1]",
        "a second gate is called 'arc'. The first is gates[0] in line 3",
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_parse_gates_wrong_file_is_refused_with_file_path_and_what(case: Wrong) -> None:
    with pytest.raises(SpecError) as refused:
        parse_gates(case.text, origin="g.yaml")
    assert refused.value.where is not None
    assert case.where in refused.value.where
    assert refused.value.where.startswith("g.yaml")
    assert case.says in str(refused.value)


def test_parse_gates_tells_every_problem_at_once_in_the_order_of_the_file() -> None:
    text = "version: 1\nconfidence: 95\ngates:\n  - {task: arc, margin: 2}\n  - {figure: ttft, at_most: 9}\n"
    with pytest.raises(SpecError) as refused:
        parse_gates(text, origin="g.yaml")
    lines = str(refused.value).splitlines()
    assert lines[0] == "g.yaml: 3 problems"
    assert [line.split(": ")[1] for line in lines[1:]] == ["confidence", "gates[0].margin", "gates[1].figure"]


def test_load_gates_reads_a_file_and_names_it_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(WHOLE, encoding="utf-8")
    gates = load_gates(file)
    assert gates == parse_gates(WHOLE)
    assert gates.origin == str(file)
    file.write_text("version: 1\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"release\.yaml"):
        load_gates(file)


def test_load_gates_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: there is no such file"):
        load_gates(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_gates(tmp_path)


def test_load_gates_other_bytes_than_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_bytes(b"version: 1\ngates: \xff\n")
    with pytest.raises(SpecError, match=r"g\.yaml:2: not UTF-8 text"):
        load_gates(file)
    file.write_bytes(b"#" * (2**18 + 1))
    with pytest.raises(SpecError, match="longer than"):
        load_gates(file)
