"""Progress bars on stderr: drawn when it is a terminal, one line per finished task when it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from lightship.ports.progress import Progress, Task
from lightship.units import format_duration


def progress_for_stderr() -> Progress:
    """Bars for a terminal, plain lines otherwise."""
    return TerminalProgress(Console(stderr=True)) if sys.stderr.isatty() else LineProgress(Console(stderr=True))


class TerminalProgress:
    """A bar, count and time per task."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `ports.progress.Progress`."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        started = time.monotonic()
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(escape(title), total=None, note="")
            yield _RichTask(bars, bar)
        self._console.print(f"[green]✓[/] {escape(title)} [dim]{format_duration(time.monotonic() - started)}[/]")


class _RichTask:
    def __init__(self, bars: RichProgress, bar: object) -> None:
        self._bars = bars
        self._bar = bar

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        """See `ports.progress.Task`."""
        fields = {} if note is None else {"note": note}
        self._bars.update(self._bar, completed=round(done), total=None if total is None else round(total), **fields)  # type: ignore[arg-type]


class LineProgress:
    """One line when a task has ended; for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `ports.progress.Progress`."""
        started = time.monotonic()
        yield _NoTask()
        took = format_duration(time.monotonic() - started)
        self._console.print(f"{title}: {took}", highlight=False, markup=False, soft_wrap=True)


class _NoTask:
    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        """See `ports.progress.Task`."""
        del done, total, note
