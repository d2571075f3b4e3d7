"""`lightship plan` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.cli.load_spec import add_spec_options

_DESCRIPTION = """\
Will it fit, how fast is it, how many replicas does the traffic need, what do they cost, and what to change where it
does not fit. Nothing is started or downloaded. Each figure says where it comes from: measured here, counted in the
manifest, worked out by the roofline, a vendor's data sheet, given by you, or assumed. Exits with 1 where the plan is
not possible.
"""


def add_plan_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `plan`."""
    parser = subparsers.add_parser(
        "plan",
        help="what a model takes, how many replicas a traffic needs, and what they cost",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = parser.add_argument_group("model (default: the spec's, with the variants it names)")
    model.add_argument("model", nargs="?", metavar="MODEL", help="builtin:NAME or a folder")
    model.add_argument("--model-shape", type=Path, metavar="FILE", help="config.json of a model one does not have")
    model.add_argument("--bits", metavar="LIST", help="bits per weight of its variants, like 16,8,4 (default: 16)")
    model.add_argument(
        "--engine", metavar="NAME", help="openvino, vllm or llamacpp (default: of each variant's format)"
    )
    machine = parser.add_argument_group("machine of one replica (default: this one)")
    machine.add_argument("--gpu", metavar="NAME", help="like h100-sxm or l4, `auto` for this machine's; implies vllm")
    machine.add_argument(
        "--gpus", type=int, metavar="N", help="how many of them (default: 1, or all of this machine's)"
    )
    machine.add_argument("--memory", metavar="SIZE", help="host memory, like '64 GiB'")
    machine.add_argument("--cores", type=float, metavar="N", help="cores of a replica")
    machine.add_argument(
        "--bandwidth", type=float, metavar="GB/s", help="of memory (default: measured here in seconds)"
    )
    machine.add_argument("--tflops", type=float, metavar="T", help="16-bit arithmetic (default: measured here)")
    machine.add_argument("--read-rate", type=float, metavar="MB/s", help="slowest rate at which weights are read")
    machine.add_argument("--hardware", action="store_true", help="only show what this machine is")
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument("--rate", metavar="RATE", help="mean requests, like 5/s or 90/min (default: 1/s)")
    traffic.add_argument("--peak", metavar="RATE", help="requests in the busiest hour (default: mean x peak factor)")
    traffic.add_argument("--users", type=float, metavar="N", help="in place of --rate, with --requests-per-user-day")
    traffic.add_argument("--requests-per-user-day", type=float, metavar="N")
    traffic.add_argument("--peak-factor", type=float, default=3.0, metavar="X", help="peak over mean (default: 3)")
    traffic.add_argument("--peak-hours", type=float, default=2.0, metavar="H", help="hours a day (default: 2)")
    traffic.add_argument("--prompt-tokens", type=float, default=256.0, metavar="N", help="mean (default: 256)")
    traffic.add_argument("--output-tokens", type=float, default=128.0, metavar="N", help="mean (default: 128)")
    traffic.add_argument("--slo", metavar="LIMITS", help="like ttft=400ms,tpot=40ms (default: the spec's)")
    money = parser.add_argument_group("cost and margins")
    money.add_argument(
        "--price", type=float, metavar="USD", help="of one replica's machine per hour (default: the spec's)"
    )
    money.add_argument("--cloud-price", metavar="IN/OUT", help="USD per million tokens to compare with, like 0.15/0.60")
    money.add_argument(
        "--efficiency", type=float, metavar="SHARE", help="of the roofline reached (default: 0.5, assumed)"
    )
    money.add_argument("--spare", type=int, default=1, metavar="N", help="replicas beyond the load's (default: 1)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the plan as JSON")
    output.add_argument("--explain", action="store_true", help="print each figure's arithmetic and source")
    add_spec_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lightship.cli.plan.run import run_plan

    return run_plan(args)
