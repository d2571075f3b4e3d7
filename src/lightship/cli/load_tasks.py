"""Task files that an option names, read; items that lie on a hub are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightship.artifacts.home import hub_cache
from lightship.artifacts.sources.hub import fetch_dataset_file
from lightship.cli.prepare import Surroundings
from lightship.errors import UsageError
from lightship.evaluation.tasks.loading import load_task
from lightship.evaluation.tasks.task import Task


def load_one_task(path: Path, around: Surroundings) -> Task:
    """The task in a file.

    Raises: MeasurementError: it is not acceptable. NetworkError: its items cannot be fetched.
    Effects: may download.
    """
    cache = hub_cache(around.home)
    return load_task(
        path,
        fetch=lambda source, name: fetch_dataset_file(
            source, name, cache=cache, progress=around.progress, clock=around.clock
        ),
    )


def load_tasks(paths: Sequence[Path], *, limit: int | None, around: Surroundings) -> tuple[Task, ...]:
    """The tasks in the files, the first `limit` items of each.

    Raises: UsageError: two of one name. See `load_one_task`.
    """
    tasks = tuple(load_one_task(path, around).first(limit) for path in paths)
    refuse_same_names(tasks)
    return tasks


def refuse_same_names(tasks: Sequence[Task]) -> None:
    """Raises: UsageError: two tasks have one name, so that nobody could tell their results apart."""
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two tasks are called {name!r}", where="tasks", hint="Give one of them another `name`.")
