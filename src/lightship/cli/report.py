"""`lightship report`: the report of what is built and measured, without measuring."""

from __future__ import annotations

import argparse
import sys

from lightship.artifacts.home import measurement_path, report_folder
from lightship.artifacts.machine import this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.assess import assess, write_report
from lightship.cli.load_spec import load_spec
from lightship.cli.measure import Measurer
from lightship.cli.prepare import build_variants, resolve_model, surroundings
from lightship.errors import MeasurementError
from lightship.evaluation.report.data import report_json


def run_report(args: argparse.Namespace) -> int:
    """`lightship report` with parsed arguments; returns the exit code."""
    spec = load_spec(args).spec
    around = surroundings()
    built = build_variants(spec, resolve_model(spec, around), around)
    machine = this_machine()
    measurer = Measurer(spec, built, MeasurementStore(measurement_path(around.home)), machine, around)
    missing = [variant.manifest.name for variant in built.variants if not measurer.is_measured(variant)]
    if missing:
        raise MeasurementError(
            f"not measured yet under this spec: {', '.join(missing)}",
            where=spec.model.name,
            hint="Run `lightship up --no-serve` first.",
        )
    assessment = assess(spec, built, measurer, machine, around)
    path = write_report(assessment, report_folder(around.home, spec.model.name))
    sys.stdout.write(report_json(assessment.report).decode() + "\n" if args.json else f"{path}\n")
    return 0
