"""`lightship calibrate` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.ports.engine_profile import EngineLimits


def add_calibrate_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `calibrate`."""
    limits = EngineLimits()
    parser = subparsers.add_parser(
        "calibrate",
        help="measure what an endpoint's work costs and write an engine profile",
        description="Loads the endpoint for a few minutes, fits a cost model to what it saw, and writes a profile for "
        "`serve-simulated` and for planning. Nobody else may use the endpoint meanwhile.",
    )
    parser.add_argument("url", metavar="URL", help="root of the endpoint, for example http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, help="name to ask for")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the profile to write")
    parser.add_argument("--name", help="name of the profile (default: the model's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="which prompts are drawn; use another each time (default: 0)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each experiment (default: 5)")
    for flag, value, what in (
        ("--max-batched-tokens", limits.max_batched_tokens, "most tokens in one step"),
        ("--max-sequences", limits.max_sequences, "most sequences in one step"),
        ("--max-waiting-requests", limits.max_waiting_requests, "most requests waiting"),
        ("--kv-blocks", limits.num_kv_blocks, "blocks of the KV cache"),
        ("--kv-block-tokens", limits.kv_block_tokens, "tokens of one block"),
    ):
        parser.add_argument(flag, type=int, default=value, metavar="N", help=f"the engine's setting: {what} ({value})")
    parser.add_argument("--context-length", type=int, metavar="N", help="default: what the endpoint says")
    parser.set_defaults(run=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    from lightship.cli.model_commands import require_extra

    require_extra("numpy")
    from lightship.cli.calibrate import run_calibrate

    return run_calibrate(args)
