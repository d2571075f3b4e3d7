"""`lightship serve-simulated` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_serve_simulated_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `serve-simulated`."""
    parser = subparsers.add_parser(
        "serve-simulated",
        help="serve a simulated engine: real HTTP, made-up text, and the timing of a profile",
        description="Serves the OpenAI API from a cost model of continuous batching. The text is made up; when it "
        "comes is what the profile says.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--profile", type=Path, metavar="FILE", help="an engine profile, as `calibrate` writes it")
    source.add_argument(
        "--preset",
        metavar="NAME",
        help="a profile that comes along (default: toy); a wrong name lists all",
    )
    parser.add_argument("--model", default="simulated", metavar="NAME", help="name of the model (default: simulated)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8085, help="port to listen on; 0 takes a free one (default: 8085)")
    parser.add_argument(
        "--load-delay", type=float, default=0.0, metavar="SECONDS", help="time from the start to ready (default: 0)"
    )
    parser.add_argument(
        "--mean-answer-tokens",
        type=int,
        default=128,
        metavar="TOKENS",
        help="mean length of answers that end by themselves (default: 128)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND[:NAME=VALUE,...]",
        help="break some requests on purpose; may be repeated. KIND is hang, status, slow_first_byte, error_event, "
        "truncate, trickle, reset, or a status such as 503. Names: share, num_requests, delay_s, retry_after_s, "
        "after_events. Example: truncate:share=0.1,after_events=3",
    )
    parser.add_argument(
        "--fault-seed", type=int, default=0, metavar="N", help="which requests a share hits (default: 0)"
    )
    parser.add_argument(
        "--fault-admin", action="store_true", help="let GET and POST /simulated/faults show and replace the faults"
    )
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from lightship.cli.serve_simulated import run_serve_simulated

    return run_serve_simulated(args)
