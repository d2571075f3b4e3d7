"""`lightship toolchain ls|install|check|rm`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.table import Table

from lightship.artifacts.home import data_home
from lightship.cli.progress import progress_for_stderr
from lightship.cli.tables import print_table
from lightship.compression.toolchains.definitions import TOOLCHAINS, Toolchain
from lightship.compression.toolchains.environment import InstalledToolchain, ToolchainFolder
from lightship.errors import UsageError
from lightship.units import format_bytes


def add_toolchain_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `toolchain` with its sub-commands."""
    parser = subparsers.add_parser("toolchain", help="isolated environments for conversion and training")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="known toolchains and whether they are installed")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_ls)
    for name, run, text in (
        ("install", _install, "install one now, not on first use"),
        ("check", _check, "import what it is for"),
        ("rm", _rm, "remove it from the disk"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", help=f"one of {', '.join(TOOLCHAINS)}")
        command.set_defaults(run=run)


def toolchain_folder() -> ToolchainFolder:
    """Toolchains of this user's data directory."""
    return ToolchainFolder(data_home(os.environ) / "toolchains")


def _named(args: argparse.Namespace) -> Toolchain:
    if args.name not in TOOLCHAINS:
        raise UsageError(f"there is no toolchain {args.name!r}", hint=f"Known: {', '.join(TOOLCHAINS)}.")
    return TOOLCHAINS[args.name]


def _ls(args: argparse.Namespace) -> int:
    statuses = toolchain_folder().ls()
    if args.json:
        rows = [{"name": s.toolchain.name, "is_installed": s.is_installed, "folder": str(s.folder)} for s in statuses]
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    table = Table("name", "installed", "disk", "purpose")
    for status in statuses:
        toolchain = status.toolchain
        size = format_bytes(toolchain.approximate_bytes)
        table.add_row(toolchain.name, "yes" if status.is_installed else "no", f"~{size}", toolchain.purpose)
    print_table(table)
    return 0


def _install(args: argparse.Namespace) -> int:
    installed = toolchain_folder().ensure(_named(args), progress_for_stderr())
    sys.stdout.write(f"{installed.python}\n")
    return 0


def _check(args: argparse.Namespace) -> int:
    toolchain = _named(args)
    status = next(s for s in toolchain_folder().ls() if s.toolchain is toolchain)
    if not status.is_installed:
        raise UsageError(
            f"toolchain {toolchain.name} is not installed", hint="Run `lightship toolchain install` first."
        )
    toolchain_folder().check(InstalledToolchain(toolchain, Path(status.folder) / "bin" / "python"))
    sys.stdout.write("ok\n")
    return 0


def _rm(args: argparse.Namespace) -> int:
    removed = toolchain_folder().rm(_named(args))
    sys.stdout.write("removed\n" if removed else "it was not installed\n")
    return 0
