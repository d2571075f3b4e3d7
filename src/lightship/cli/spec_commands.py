"""`lightship spec explain | schema | check`: what a spec says, what it may say, and whether it is right."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lightship.cli.load_spec import add_spec_options, load_spec, read_spec_file
from lightship.spec.explain import leaves, show_value
from lightship.spec.load import parse_spec
from lightship.spec.paths import show_path
from lightship.spec.schema import spec_json_schema


def add_spec_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `spec` and its sub-commands.

    Effects: adds a parser to `subparsers`; each sets `run` to a function from its arguments to an exit code.
    """
    topic = subparsers.add_parser("spec", help="explain, check or describe lightship.yaml")
    commands = topic.add_subparsers(dest="command", required=True, metavar="COMMAND")

    explain = commands.add_parser("explain", help="print every value and where it came from")
    add_spec_options(explain)
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.set_defaults(run=run_explain)

    schema = commands.add_parser("schema", help="print the JSON Schema of the spec")
    schema.set_defaults(run=run_schema)

    check = commands.add_parser("check", help="check one spec file, without environment and flags")
    check.add_argument("file", type=Path, metavar="FILE", help="the spec file")
    check.set_defaults(run=run_check)


def run_explain(args: argparse.Namespace) -> int:
    """Prints path, value and origin of every setting; returns 0.

    Raises: SpecError, UsageError: as `load_spec`.
    Effects: writes to stdout.
    """
    loaded = load_spec(args)
    rows = [(show_path(path), value) for path, value in leaves(loaded.spec).items()]
    if args.json:
        listed = [{"path": path, "value": value, "origin": loaded.origins[path].value} for path, value in rows]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return 0
    table = [
        ("path", "value", "origin"),
        *((path, show_value(value), loaded.origins[path].value) for path, value in rows),
    ]
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    for path, value, origin in table:
        sys.stdout.write(f"{path:<{widths[0]}}  {value:<{widths[1]}}  {origin}\n")
    return 0


def run_schema(args: argparse.Namespace) -> int:
    """Prints the JSON Schema; returns 0.

    Effects: writes to stdout.
    """
    del args
    sys.stdout.write(json.dumps(spec_json_schema(), indent=2) + "\n")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Prints that the file is a valid spec; returns 0.

    Raises: SpecError: it is none, with every problem. UsageError: it cannot be read.
    Effects: writes to stdout.
    """
    file: Path = args.file
    parse_spec(read_spec_file(file), origin=str(file))
    sys.stdout.write(f"{file}: ok\n")
    return 0
