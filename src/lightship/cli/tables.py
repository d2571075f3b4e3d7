"""Prints tables at their natural width: a terminal that is too narrow wraps lines rather than losing figures."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_MAX_WIDTH = 400


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints the table on `console` (default: standard output), whole."""
    console = console or Console()
    wanted = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    wide = Console(file=console.file, width=max(console.width, wanted), force_terminal=console.is_terminal)
    wide.print(table)
