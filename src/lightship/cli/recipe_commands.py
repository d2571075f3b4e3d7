"""`lightship recipes ls|show`: what variants can be made, and on which engine each one is served."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from lightship.cli.tables import print_table
from lightship.compression.feasibility.support_table import ENGINE_OF_FORMAT
from lightship.compression.recipes import PRESETS, SOURCES, SUMMARIES
from lightship.compression.steps.registry import find_step, formats_along
from lightship.errors import UsageError


def add_recipe_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `recipes` with its sub-commands."""
    parser = subparsers.add_parser("recipes", help="presets: what variants can be made")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="all presets with the engine that serves each")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_ls)
    show = commands.add_parser("show", help="one preset, its steps with every option, as it could stand in a spec")
    show.add_argument("name", help="a preset")
    show.set_defaults(run=_show)


def _ls(args: argparse.Namespace) -> int:
    rows = [
        {
            "name": name,
            "engine": ENGINE_OF_FORMAT[formats_along(recipe, SOURCES[name])[-1]],
            "summary": SUMMARIES[name],
            "steps": [{step.kind: step.options} for step in recipe.steps],
        }
        for name, recipe in PRESETS.items()
    ]
    if args.json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    table = Table("name", "engine", "steps", "what it is")
    for row in rows:
        steps = " > ".join(next(iter(step)) for step in row["steps"])
        table.add_row(str(row["name"]), str(row["engine"]), steps, str(row["summary"]))
    print_table(table)
    return 0


def _show(args: argparse.Namespace) -> int:
    if args.name not in PRESETS:
        nearest = difflib.get_close_matches(args.name, PRESETS, n=1)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise UsageError(f"there is no preset {args.name!r}", hint=f"{hint}Known: {', '.join(PRESETS)}.")
    recipe = PRESETS[args.name]
    formats = formats_along(recipe, SOURCES[args.name])
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"# {SUMMARIES[args.name]}; served by {ENGINE_OF_FORMAT[formats[-1]]}", markup=False)
    console.print(f"{args.name}:", markup=False)
    for step, form in zip(recipe.steps, formats, strict=False):
        definition = find_step(step.kind, form)
        console.print(f"  - {step.kind}: {_flow(step.options)}", markup=False)
        defaults = _defaults(definition.options_type, step.options)
        if defaults:
            console.print(f"    # by default {_flow(defaults)}", markup=False)
    return 0


def _defaults(options_type: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Options that the step leaves at their defaults."""
    return {
        field.name: field.default
        for field in msgspec.structs.fields(options_type)
        if field.name not in given and field.default is not msgspec.NODEFAULT
    }


def _flow(options: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {json.dumps(value)}" for name, value in options.items()) + "}"
