"""Gate results as JUnit XML, the form that CI systems show. Pure.

A fail is a `<failure>`. An undecided gate is an `<error>`: what reads this format shows errors in red, whereas skipped
tests pass for green, and a gate that nobody could judge must not.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from lightship.evaluation.gates.results import GateReport, GateResult
from lightship.evaluation.statistics.paired import Verdict

# XML 1.0 has no way to write these, escaped or not. Source: W3C XML 1.0, production 2 (Char).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUITE = "lightship gates"


def junit_xml(report: GateReport) -> bytes:
    """One test suite with a test case for each gate, in UTF-8; characters that XML lacks become U+FFFD."""
    counts = {
        "tests": str(len(report.results)),
        "failures": str(report.count(Verdict.FAIL)),
        "errors": str(report.count(Verdict.UNDECIDED)),
        "skipped": "0",
    }
    root = ET.Element("testsuites", {"name": _SUITE, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _SUITE, **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("baseline", report.baseline_name),
        ("candidate", report.candidate_name),
        ("confidence", f"{report.confidence:g}"),
        ("verdict", report.verdict.value),
    ):
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for result in report.results:
        _add_case(suite, result)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: ET.Element, result: GateResult) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": f"gates.{result.kind}", "name": _clean(result.name)})
    message = _clean(f"{result.requirement}: {result.sentence}")
    if result.verdict is Verdict.PASS:
        ET.SubElement(case, "system-out").text = message
        return
    tag = "failure" if result.verdict is Verdict.FAIL else "error"
    ET.SubElement(case, tag, {"type": result.verdict.value, "message": message}).text = message


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
