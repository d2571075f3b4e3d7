"""How long work tells of itself; the command line draws it, tests record it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        """States how much is done (same unit as `total`), and optionally a short note."""
        ...


class Progress(Protocol):
    """Opens tasks."""

    def task(self, title: str) -> AbstractContextManager[Task]:
        """A context manager for one titled piece of work; leaving it normally marks it finished."""
        ...


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `Progress`."""
        del title
        yield _SilentTask()


class _SilentTask:
    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        del done, total, note
