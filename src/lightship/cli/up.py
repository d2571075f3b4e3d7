"""`lightship up`: resolve, build what is missing, measure what is unmeasured, choose the ladder, serve it."""

from __future__ import annotations

import argparse
import asyncio
import signal

from rich.console import Console

from lightship.cli.gateway_config import spill_rung
from lightship.cli.ladder_table import print_ladder
from lightship.cli.load_spec import load_spec
from lightship.cli.measured_ladder import prepare
from lightship.cli.prepare import surroundings
from lightship.cli.serving import refuse_idle_upstreams, reserved_port, serve
from lightship.observability.logs import configure_logging


def run_up(args: argparse.Namespace) -> int:
    """`lightship up` with parsed arguments; returns the exit code."""
    configure_logging(component="up", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being terminated cleans up as Ctrl-C does
    spec, around, is_serving = load_spec(args).spec, surroundings(), not args.no_serve
    refuse_idle_upstreams(spec)
    spill_rung(spec, rung=0)  # a price that is not there is told now, not after minutes of measuring
    with reserved_port(spec, is_serving=is_serving) as gateway_port:
        prepared = prepare(spec, around, is_forced=args.remeasure)
    print_ladder(Console(), prepared.assessment, prepared.built)
    if is_serving:
        asyncio.run(serve([prepared], around, gateway_port=gateway_port, read_specs=lambda: [load_spec(args).spec]))
    else:
        Console().print(f"report: {prepared.report_path}", highlight=False, soft_wrap=True)
    return 0
