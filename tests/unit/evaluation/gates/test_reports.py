from __future__ import annotations

import json
import math
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from lightship.evaluation.gates.decide import judge_gates
from lightship.evaluation.gates.gate_file import parse_gates
from lightship.evaluation.gates.junit import junit_xml
from lightship.evaluation.gates.markdown import markdown_summary
from lightship.evaluation.gates.report_json import gate_report_json
from lightship.evaluation.gates.results import GateKind, GateReport, GateResult
from lightship.evaluation.statistics.paired import Verdict
from lightship.ports.measurements import Interval, Metric

PASSED = GateResult(
    "arc", GateKind.TASK, Verdict.PASS, "loses at most 2 points", "fine", 1000, -0.001, Interval(-0.01, 0.008, 0.9), 1.0
)
FAILED = GateResult("kl", GateKind.FIGURE, Verdict.FAIL, "at most 0.05", "too far", 50, 0.09, None)
OPEN = GateResult("gsm", GateKind.TASK, Verdict.UNDECIDED, "loses at most 1 point", "too few")


def report(*results: GateResult, candidate: str = "int4@openvino") -> GateReport:
    return GateReport("base@openvino", candidate, 0.95, results)


@pytest.mark.parametrize(
    ("results", "verdict", "exit_code"),
    [
        ([PASSED], Verdict.PASS, 0),
        ([PASSED, FAILED], Verdict.FAIL, 1),
        ([PASSED, OPEN], Verdict.UNDECIDED, 2),
        ([OPEN, FAILED, PASSED], Verdict.FAIL, 1),
    ],
)
def test_gate_report_only_all_passed_is_green(results: list[GateResult], verdict: Verdict, exit_code: int) -> None:
    one = report(*results)
    assert (one.verdict, one.exit_code) == (verdict, exit_code)


def test_judge_gates_keeps_the_order_of_the_file(build: Any) -> None:
    gates = parse_gates(
        "version: 1\ngates:\n"
        "  - {figure: kl_nats_per_token, at_most: 0.05}\n"
        "  - {task: arc, margin: 0.02}\n"
        "  - {figure: quality_recovery, at_least: 0.97}\n"
    )
    reference, candidate = build.runs(20, 20, 1000)
    figures = [build.figure(Metric.KL_NATS, 0.01), build.figure(Metric.QUALITY_RECOVERY, 0.99)]
    one = judge_gates(
        gates,
        baseline=build.record("base", tasks=[reference]),
        candidate=build.record("int4", tasks=[candidate], figures=figures),
    )
    assert [result.name for result in one.results] == ["kl_nats_per_token", "arc", "quality_recovery"]
    assert (one.verdict, one.baseline_name, one.candidate_name) == (Verdict.PASS, "base", "int4")


def test_junit_xml_counts_and_tags_are_what_ci_systems_read() -> None:
    root = ET.fromstring(junit_xml(report(PASSED, FAILED, OPEN)))
    suite = root.find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    cases = suite.findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [
        ("gates.task", "arc"),
        ("gates.figure", "kl"),
        ("gates.task", "gsm"),
    ]
    assert [[child.tag for child in case] for case in cases] == [["system-out"], ["failure"], ["error"]]
    failure, error = cases[1][0], cases[2][0]
    assert (failure.get("type"), failure.get("message")) == ("fail", "at most 0.05: too far")
    assert (error.get("type"), error.text) == ("undecided", "loses at most 1 point: too few")
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties == {
        "baseline": "base@openvino",
        "candidate": "int4@openvino",
        "confidence": "0.95",
        "verdict": "fail",
    }


def test_junit_xml_hostile_text_stays_text() -> None:
    hostile = GateResult('a"<b>&\x00\x1b\ud800', GateKind.TASK, Verdict.FAIL, "]]>", "line\n<x/>")
    case = ET.fromstring(junit_xml(report(hostile, candidate="\x07"))).find("testsuite/testcase")
    assert case is not None
    assert case.get("name") == 'a"<b>&\ufffd\ufffd\ufffd'
    assert case[0].text == "]]>: line\n<x/>"


def test_markdown_summary_has_a_row_for_each_gate() -> None:
    lines = markdown_summary(report(PASSED, FAILED, OPEN)).splitlines()
    assert lines[0] == "### Gates: int4@<!-- -->openvino against base@<!-- -->openvino fails"
    assert lines[2] == "1 passed, 1 failed, 1 undecided."
    table = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert {len(row) for row in cells} == {7}
    assert cells[2] == [
        "arc",
        "**PASS**",
        "loses at most 2 points",
        "1,000",
        r"\-0.10 points (\-1.00 to \+0.80)".replace("(", r"\(").replace(")", r"\)"),
        "1",
        "fine",
    ]
    assert cells[3][:6] == ["kl", "**FAIL**", "at most 0.05", "50", "0.09", "–"]
    assert cells[4][:6] == ["gsm", "**UNDECIDED**", "loses at most 1 point", "–", "–", "–"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines\r\nthree", "two lines three"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("`code` *bold* _it_", r"\`code\` \*bold\* \_it\_"),
        ("[x](y)", r"\[x\]\(y\)"),
        ("back\\slash|", r"back\\slash\|"),
        ("@team", "@<!-- -->team"),
        ("https://x", "https:<!-- -->//x"),
    ],
)
def test_markdown_summary_hostile_text_stays_text_in_one_cell(text: str, shown: str) -> None:
    hostile = GateResult(text, GateKind.TASK, Verdict.PASS, "asked", text)
    row = next(line for line in markdown_summary(report(hostile)).splitlines() if "**PASS**" in line)
    assert row == f"| {shown} | **PASS** | asked | – | – | – | {shown} |"


def test_gate_report_json_holds_verdict_exit_code_and_every_gate() -> None:
    unbounded = GateResult("goodput", GateKind.FIGURE, Verdict.PASS, "r", "s", 5, 2.0, Interval(1.0, math.inf, 0.95))
    data = json.loads(gate_report_json(report(PASSED, OPEN, unbounded)))
    assert (data["schema_version"], data["verdict"], data["exit_code"]) == (1, "undecided", 2)
    assert data["counts"] == {"pass": 2, "fail": 0, "undecided": 1}
    assert data["gates"][0]["interval"] == {"low": -0.01, "high": 0.008, "level": 0.9}
    assert data["gates"][1]["sentence"] == "too few"
    assert data["gates"][2]["interval"]["high"] is None


def test_gate_report_json_of_judged_tasks_carries_the_comparison(build: Any) -> None:
    gates = parse_gates("version: 1\ngates:\n  - {task: arc, margin: 0.02}\n")
    reference, candidate = build.runs(3, 1, 100)
    judged = judge_gates(
        gates, baseline=build.record("base", tasks=[reference]), candidate=build.record("int4", tasks=[candidate])
    )
    comparison = json.loads(gate_report_json(judged))["gates"][0]["comparison"]
    assert (comparison["num_lost"], comparison["num_gained"], comparison["method"]) == (3, 1, "Tango score")
    assert [flip["item_id"] for flip in comparison["flips"]] == ["arc-0", "arc-1", "arc-2", "arc-3"]
