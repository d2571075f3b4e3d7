"""`lightship up`, `lightship serve` and `lightship report` on the command line; what they do is imported when they run.

Building, measuring and serving need the extra `local`; the other commands must work without it.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from lightship.cli.load_spec import add_spec_options
from lightship.errors import UsageError


def add_model_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `up`, `serve` and `report`."""
    up = subparsers.add_parser("up", help="build, measure and serve what the spec names (the main job)")
    add_spec_options(up)
    up.add_argument("--no-serve", action="store_true", help="stop after building, measuring and the report")
    up.add_argument("--remeasure", action="store_true", help="measure again what has figures already")
    up.set_defaults(run=_up)
    serve = subparsers.add_parser("serve", help="several models behind one gateway, which make room for each other")
    serve.add_argument(
        "files", nargs="+", type=Path, metavar="SPEC", help="one spec per model; the first says the gateway"
    )
    serve.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE", help="set a value in every spec"
    )
    serve.set_defaults(run=_serve)
    report = subparsers.add_parser("report", help="write the report of what is measured (HTML, or JSON on stdout)")
    add_spec_options(report)
    report.add_argument("--json", action="store_true", help="print the report's figures as JSON")
    report.set_defaults(run=_report)


def _up(args: argparse.Namespace) -> int:
    require_local_extra()
    from lightship.cli.up import run_up

    return run_up(args)


def _serve(args: argparse.Namespace) -> int:
    require_local_extra()
    from lightship.cli.serve import run_serve

    return run_serve(args)


def _report(args: argparse.Namespace) -> int:
    require_local_extra()
    from lightship.cli.report import run_report

    return run_report(args)


def require_local_extra() -> None:
    """Raises: UsageError: the engine for this machine is not installed."""
    require_extra("numpy", "openvino", "openvino_genai", "nncf")


def require_extra(*modules: str) -> None:
    """Raises: UsageError: one of these modules, which come with the extra `local`, is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        hint = "Install it with `pip install 'lightship[local]'`."
        raise UsageError(f"the local engine is not installed ({', '.join(missing)} missing)", hint=hint)
