"""`lightship bench` on the command line; what it does is imported when it runs.

It needs numpy and nothing else of the extra `local`: the endpoint may be anywhere, and any server's.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from lightship.cli.load_spec import add_spec_options
from lightship.errors import UsageError

# Kept apart from `evaluation.performance.trace_formats`, which needs numpy's neighbours to be imported.
_TRACE_FORMATS = ("lightship", "mooncake", "azure")


def add_bench_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `bench`."""
    parser = subparsers.add_parser(
        "bench",
        help="load an endpoint and measure what its users see",
        description="Sends streaming completions to an OpenAI-compatible endpoint, on a schedule (open loop) or from "
        "a number of users (closed loop), and reports latencies, rates and goodput with their intervals. Figures of a "
        "variant are kept, and the report draws its load curves from them.",
    )
    parser.add_argument(
        "subject",
        metavar="SUBJECT",
        help="an endpoint (http://127.0.0.1:8000#model), or a variant of the spec, for which a worker is started",
    )
    parser.add_argument("--model", metavar="NAME", help="model to ask the endpoint for")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    _add_load_options(parser.add_argument_group("load"))
    _add_trace_options(parser.add_argument_group("recorded load"))
    _add_judging_options(parser.add_argument_group("judging"))
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result as JSON (lightship-load/1)")
    output.add_argument("--vllm-json", type=Path, metavar="FILE", help="write it with vLLM's field names, too")
    output.add_argument("--json", action="store_true", help="print JSON in place of the table")
    add_spec_options(parser)
    parser.set_defaults(run=_bench)


def _add_load_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--arrivals",
        choices=("constant", "poisson", "burst", "ramp", "closed"),
        help="pattern of arrivals (default: poisson; closed with --concurrency)",
    )
    group.add_argument("--rate", type=float, metavar="R", help="requests per second; of a ramp, at its start")
    group.add_argument("--rate-to", type=float, metavar="R", help="requests per second at the end of a ramp")
    group.add_argument("--burst-size", type=int, metavar="N", help="requests that come at once (default: 10)")
    group.add_argument(
        "--burstiness", type=float, metavar="F", help="below 1 poisson arrivals come in clumps, above 1 evenly"
    )
    group.add_argument("--concurrency", type=int, metavar="N", help="users of a closed loop")
    group.add_argument("--prompt-tokens", type=int, metavar="N", help="length of prompts (default: 64)")
    group.add_argument("--output-tokens", type=int, metavar="N", help="length of answers (default: 32)")
    group.add_argument(
        "--text", type=Path, metavar="FILE", help=".txt or .jsonl to make prompts of (default: built in)"
    )
    group.add_argument(
        "--duration", type=float, metavar="S", help="seconds that count (default: 30; trace: to its end)"
    )
    group.add_argument("--warmup", type=float, metavar="S", help="seconds of the same load before (default: 5)")
    group.add_argument("--drain", type=float, metavar="S", help="longest wait for answers at the end (default: 30)")
    group.add_argument("--seed", type=int, metavar="N", help="which arrivals and texts are drawn (default: a new one)")


def _add_trace_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--trace", type=Path, metavar="FILE", help="replay a trace, plain or .gz")
    group.add_argument("--format", choices=_TRACE_FORMATS, help="its format (default: by its first line)")
    group.add_argument("--start", type=float, metavar="S", help="offset in the trace, in its own time (default: 0)")
    group.add_argument("--time-scale", type=float, metavar="F", help="replay so many times as fast (default: 1)")
    group.add_argument("--length-scale", type=float, metavar="F", help="factor on all lengths (default: 1)")
    group.add_argument("--max-prompt-tokens", type=int, metavar="N", help="cut longer prompts to this")
    group.add_argument("--max-output-tokens", type=int, metavar="N", help="cut longer answers to this")


def _add_judging_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--slo-ttft-ms", type=float, metavar="MS", help="longest time to the first token")
    group.add_argument("--slo-tpot-ms", type=float, metavar="MS", help="longest mean time per token after the first")
    group.add_argument("--slo-e2e-ms", type=float, metavar="MS", help="longest time to the last token")
    group.add_argument("--search", choices=("rate", "concurrency"), help="find the highest load that keeps the SLO")
    group.add_argument("--attainment", type=float, metavar="SHARE", help="part that must keep it (default: 0.95)")
    group.add_argument(
        "--search-time", type=float, metavar="S", help="most seconds of load of a search (default: 1800)"
    )


def _bench(args: argparse.Namespace) -> int:
    if find_spec("numpy") is None:
        raise UsageError("measuring needs numpy, which is not installed", hint="Install it with `pip install numpy`.")
    from lightship.cli.bench_run import run_bench

    return run_bench(args)
