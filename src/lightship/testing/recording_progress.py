"""A progress that remembers what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightship.ports.progress import Task


class RecordingProgress:
    """Remembers titles and every (done, total) pair, in order."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.advances: list[tuple[float, float | None]] = []

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `ports.progress.Progress`."""
        self.titles.append(title)
        yield _RecordingTask(self)


class _RecordingTask:
    def __init__(self, progress: RecordingProgress) -> None:
        self._progress = progress

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        """See `ports.progress.Task`."""
        del note
        self._progress.advances.append((done, total))
