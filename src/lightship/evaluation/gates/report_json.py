"""Gate results as JSON for programs. Pure."""

from __future__ import annotations

import msgspec

from lightship.evaluation.gates.results import GateReport
from lightship.evaluation.statistics.paired import Verdict

# Raised when a key changes its meaning or goes; new keys may come without.
SCHEMA_VERSION = 1


def gate_report_json(report: GateReport) -> bytes:
    """The whole report with its verdict and exit code, indented; bounds that are infinite become null."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "baseline": report.baseline_name,
        "candidate": report.candidate_name,
        "confidence": report.confidence,
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "counts": {verdict.value: report.count(verdict) for verdict in Verdict},
        "gates": report.results,
    }
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"
