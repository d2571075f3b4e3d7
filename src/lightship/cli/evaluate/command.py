"""`lightship evaluate` on the command line.

Exit codes with gates: 0 every gate passes, 1 one fails, 2 undecided (the items or runs do not suffice to tell).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.cli.load_spec import add_spec_options

_DESCRIPTION = """\
Asks a model the questions of tasks, scores held-out text, and measures speed under load, over the endpoint that serves
it. SUBJECT is a variant of the spec (int8), an endpoint (http://127.0.0.1:8000#model), or a record of an earlier run
(baseline.json). With a baseline everything is paired item by item; with gates the exit code says whether the candidate
may replace it: 0 pass, 1 fail, 2 undecided.
"""


def add_evaluate_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="quality and speed of a variant or endpoint, against a baseline and gates",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("candidate", metavar="SUBJECT", help="what is evaluated")
    parser.add_argument("--baseline", metavar="SUBJECT", help="what it is compared with")
    parser.add_argument(
        "--gate", type=Path, metavar="FILE", help="gates that the candidate must pass (needs a baseline)"
    )
    parser.add_argument(
        "--task", type=Path, action="append", default=[], metavar="FILE", help="a task file; may be repeated"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items of each task")
    parser.add_argument("--text", action="store_true", help="score held-out text (the default without tasks and gates)")
    parser.add_argument("--speed", action="store_true", help="measure speed under load")
    parser.add_argument("--window-tokens", type=int, metavar="N", help="longest prefix of a text that is scored")
    parser.add_argument(
        "--task-concurrency", type=int, default=4, metavar="N", help="items asked at a time (default: 4)"
    )
    parser.add_argument("--model", metavar="NAME", help="the model to ask endpoints for; default: the spec's")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the API key of endpoints")
    parser.add_argument("--fresh", action="store_true", help="ask every item again, also those asked before")
    parser.add_argument(
        "--dry-run", action="store_true", help="only tell whether the tasks have enough items for the gates"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="keep the candidate's record (.json)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the gates' verdicts as JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the gates' verdicts as Markdown")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_spec_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lightship.cli.model_commands import require_extra

    require_extra("numpy")
    from lightship.cli.evaluate.run import run_evaluate

    return run_evaluate(args)
