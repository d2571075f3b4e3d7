"""Entry point of `lightship`: parses the command line, runs one command, turns errors into one message.

Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 checkpoint, 4 store, 5 toolchain, 6 engine, 7 network,
8 measurement, 130 stopped by Ctrl-C. `evaluate` with gates: 0 pass, 1 fail, 2 undecided. `plan`: 1 not possible.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from lightship import __version__
from lightship.cli.artifact_commands import add_artifact_commands
from lightship.cli.bench import add_bench_command
from lightship.cli.calibrate_command import add_calibrate_command
from lightship.cli.deploy.command import add_deploy_commands
from lightship.cli.evaluate.command import add_evaluate_command
from lightship.cli.gateway_command import add_gateway_command
from lightship.cli.key_commands import add_key_commands
from lightship.cli.measurement_commands import add_measurement_commands
from lightship.cli.model_commands import add_model_commands
from lightship.cli.optimize.command import add_optimize_command
from lightship.cli.plan.command import add_plan_command
from lightship.cli.recipe_commands import add_recipe_commands
from lightship.cli.simulate.command import add_simulate_command
from lightship.cli.simulated_command import add_serve_simulated_command
from lightship.cli.spec_commands import add_spec_commands
from lightship.cli.status_command import add_status_command
from lightship.cli.toolchain_commands import add_toolchain_commands
from lightship.errors import LightshipError


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="lightship", description="From a checkpoint to a measured ladder of variants behind one gateway."
    )
    parser.add_argument("--version", action="version", version=f"lightship {__version__}")
    subparsers = parser.add_subparsers(dest="topic", required=True, metavar="COMMAND")
    add_model_commands(subparsers)
    add_optimize_command(subparsers)
    add_plan_command(subparsers)
    add_simulate_command(subparsers)
    add_gateway_command(subparsers)
    add_deploy_commands(subparsers)
    add_key_commands(subparsers)
    add_evaluate_command(subparsers)
    add_bench_command(subparsers)
    add_calibrate_command(subparsers)
    add_serve_simulated_command(subparsers)
    add_status_command(subparsers)
    add_spec_commands(subparsers)
    add_recipe_commands(subparsers)
    add_artifact_commands(subparsers)
    add_measurement_commands(subparsers)
    add_toolchain_commands(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; data goes to stdout, everything else to stderr."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except LightshipError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except BrokenPipeError:
        return 0  # the reader of a pipe left: not our failure


def _print_error(error: LightshipError) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error[/] {escape(error.where or '')}".rstrip())
    console.print(f"  {error.what}", markup=False)
    if error.hint:
        console.print(f"  {error.hint}", markup=False, style="dim")
