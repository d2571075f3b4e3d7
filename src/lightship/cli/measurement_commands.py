"""`lightship measurements export`: every stored figure as JSON on stdout."""

from __future__ import annotations

import argparse
import os
import sys

from lightship.artifacts.home import data_home, measurement_path
from lightship.artifacts.measurements import MeasurementStore


def add_measurement_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `measurements` with its sub-command."""
    parser = subparsers.add_parser("measurements", help="the store of measured figures")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    export = commands.add_parser("export", help="print every figure as JSON, oldest first")
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    del args
    store = MeasurementStore(measurement_path(data_home(os.environ)))
    sys.stdout.write(store.export_json().decode())
    return 0
