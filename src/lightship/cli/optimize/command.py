"""`lightship optimize` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.cli.load_spec import add_spec_options

_DESCRIPTION = """\
Searches the recipes for those that keep the most quality in the fewest bytes at the highest goodput: what this machine
and its engines cannot run is left out before any work, cheap variants are made first, bad ones are dropped by their
divergence, and only what survives is tried with dearer algorithms. Every figure is measured on the engine that would
serve. A search that was stopped continues. Ends with a table, the frontier as a plot and a record that says why each
candidate lived or died.
"""


def add_optimize_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `optimize`."""
    parser = subparsers.add_parser(
        "optimize",
        help="search for the best recipes under a budget of bytes, quality, latency and time",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="builtin:NAME, a folder or hf:org/name@revision (default: the spec's)"
    )
    limits = parser.add_argument_group("what must be kept")
    limits.add_argument("--budget", metavar="SIZE", help="most bytes of a variant, like '1.2 GiB' (default: no limit)")
    limits.add_argument(
        "--floor", type=float, metavar="SHARE", help="least quality recovery, like 0.97 (default: the spec's)"
    )
    limits.add_argument(
        "--slo", metavar="LIMITS", help="latency promise, like ttft=400ms,tpot=40ms (default: the spec's)"
    )
    limits.add_argument(
        "--rate", metavar="RATE", help="good requests per second that a replica must carry, like 2/s (default: none)"
    )
    limits.add_argument(
        "--task",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a task that finalists must keep the floor on, paired with the reference; may be repeated (default: none; "
        "the prediction of held-out text decides)",
    )
    limits.add_argument("--limit", type=int, metavar="N", help="only the first N items of each task")
    effort = parser.add_argument_group("what the search may take")
    effort.add_argument("--time", default="1h", metavar="DURATION", help="like 30m or 2h (default: 1h)")
    effort.add_argument(
        "--engines", metavar="LIST", help="engines that may serve, like openvino,vllm (default: openvino)"
    )
    effort.add_argument("--recipes", metavar="LIST", help="only these recipes, by name (default: all that can be made)")
    effort.add_argument("--fresh", action="store_true", help="begin anew, also where an earlier search was stopped")
    effort.add_argument("--dry-run", action="store_true", help="only tell what would be tried, and what would not, why")
    output = parser.add_argument_group("output")
    output.add_argument("--write-spec", type=Path, metavar="FILE", help="write a spec that serves what was found")
    output.add_argument("--json", action="store_true", help="print the record as JSON in place of the table")
    add_spec_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lightship.cli.model_commands import require_local_extra

    require_local_extra()
    from lightship.cli.optimize.run import run_optimize

    return run_optimize(args)
