"""`lightship serve`: several models behind one gateway on this machine, which make room for each other."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightship.cli.gateway_config import spill_rung
from lightship.cli.ladder_table import print_ladder
from lightship.cli.load_spec import load_spec
from lightship.cli.measured_ladder import prepare
from lightship.cli.prepare import surroundings
from lightship.cli.serving import refuse_idle_upstreams, reserved_port, serve
from lightship.errors import SpecError
from lightship.observability.logs import configure_logging
from lightship.spec.document import Spec
from lightship.spec.explain import leaves
from lightship.spec.paths import show_path


def run_serve(args: argparse.Namespace) -> int:
    """`lightship serve` with parsed arguments; returns the exit code."""
    configure_logging(component="serve", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being terminated cleans up as Ctrl-C does
    around = surroundings()
    specs = load_specs(args.files, args.overrides)
    for spec in specs:
        refuse_idle_upstreams(spec)
        spill_rung(spec, rung=0)
    with reserved_port(specs[0], is_serving=True) as gateway_port:
        models = [prepare(spec, around) for spec in specs]
    for one in models:
        print_ladder(Console(), one.assessment, one.built)
    asyncio.run(
        serve(models, around, gateway_port=gateway_port, read_specs=lambda: load_specs(args.files, args.overrides))
    )
    return 0


def load_specs(files: Sequence[Path], overrides: Sequence[str]) -> list[Spec]:
    """The specs in these files.

    Raises:
        SpecError: not acceptable; two of one name; or another than the first says what only the first may: everything
            about the gateway, and the memory of the machine.
    """
    specs = [load_spec(argparse.Namespace(file=file, overrides=list(overrides))).spec for file in files]
    names = Counter(spec.model.name for spec in specs)
    for file, spec in zip(files, specs, strict=True):
        if names[spec.model.name] > 1:
            hint = "Give each its own model.name, by which clients tell them apart."
            raise SpecError(f"{names[spec.model.name]} specs serve {spec.model.name!r}", where=str(file), hint=hint)
    shared = [(path, value) for path, value in leaves(specs[0]).items() if _is_shared(path)]
    for file, spec in zip(files[1:], specs[1:], strict=True):
        own, defaults = leaves(spec), leaves(Spec())
        for path, value in own.items():
            if _is_shared(path) and value != defaults.get(path) and (path, value) not in shared:
                what = f"{show_path(path)} is said by the first spec alone, for all models"
                raise SpecError(what, where=str(file), hint=f"Remove it here, or set it in {files[0]}.")
    return specs


def _is_shared(path: tuple[str | int, ...]) -> bool:
    return path[0] == "gateway" or path == ("replicas", "memory")
