"""`lightship simulate` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Runs a whole service in virtual time: the gateway's own admission, ladder, routing and fair queue and the controller's
own scaling, on engines as models of their time, under any traffic, in several regions, with crashes, outages and cold
starts. Nothing is started or downloaded. Prints goodput, outcomes, quality and cost; --html draws them over time.
"""


def add_simulate_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `simulate`."""
    parser = subparsers.add_parser(
        "simulate",
        help="what would become of a service: goodput, quality and cost of a day, in minutes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="?", type=Path, metavar="FILE", help="the scenario, as YAML")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="changes the scenario, like slo.ttft_s=0.5 or ladder.0.scaling.max_replicas=9; may be repeated",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME",
        help="also runs it in another way on the same requests: no-ladder, ladder-first, replicas-first, fixed, exact, "
        "or one of the scenario's `alternatives`; may be repeated",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="decides everything random (default: the scenario's)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="writes the page")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="writes each plot of the page as an SVG file")
    parser.add_argument("--json", action="store_true", help="prints everything as JSON")
    parser.add_argument("--schema", action="store_true", help="prints the JSON Schema of scenario files")
    parser.set_defaults(run=_simulate)


def _simulate(args: argparse.Namespace) -> int:
    from lightship.cli.simulate.run import run_simulate

    return run_simulate(args)
