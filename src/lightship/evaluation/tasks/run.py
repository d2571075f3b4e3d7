"""Runs a task on an endpoint: several items at a time, each kept as soon as it is done, the file's order in the result.

    items not in the journal -> N workers -> asker -> journal -> TaskRun

One model answers a whole run: an endpoint that changes it in between is refused, also after a resumption.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from lightship.errors import LightshipError, MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.tasks.asking import Asked, Asker, ServedModelChangedError, asker, check_served
from lightship.evaluation.tasks.items import content_hash
from lightship.evaluation.tasks.journal import Journal, open_journal
from lightship.evaluation.tasks.results import TaskRun
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.task import Task
from lightship.evaluation.transport import Served
from lightship.ports import progress

MAX_CONCURRENCY = 256


async def run_task(
    endpoint: CompletionEndpoint,
    task: Task,
    *,
    subject: str,
    journal: Path | None = None,
    limit: int | None = None,
    concurrency: int = 2,
    progress_task: progress.Task | None = None,
) -> TaskRun:
    """The task's result on the model that serves at `endpoint`.

    Args:
        subject: What is evaluated, exactly enough that results of two subjects never share a journal: a variant's
            digest and target, or an address and a model's name.
        journal: File that keeps each finished item; where it has some already, only the others are asked.
        limit: At most so many items, from the beginning of the file.
        concurrency: Items under way at a time.
        progress_task: Told the number of finished items.

    Raises:
        MeasurementError: the endpoint cannot be asked in this way, gave no honest answer for an item (which is named),
            or changed its model; the journal is of another run.
        NetworkError: the endpoint cannot be reached, stays busy or takes too long. What was done stays in the journal.
    Effects: requests; writes the journal.
    Concurrency: `concurrency` items at a time, in tasks that end with the call.
    """
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise MeasurementError(f"concurrency must be 1..{MAX_CONCURRENCY}, got {concurrency}")
    task = task.first(limit)
    opened = nullcontext() if journal is None else open_journal(journal, protocol=task.protocol, subject=subject)
    with opened as kept:
        run = _Run(endpoint, task, kept, progress_task)
        run.resume()
        with run.telling_what_is_done():
            await run.ask_the_rest(concurrency)
    return _task_run(task, run.done)


@dataclass
class _Run:
    """A run under way. One event loop owns it; `done` grows item by item."""

    endpoint: CompletionEndpoint
    task: Task
    journal: Journal | None
    progress_task: progress.Task | None
    done: dict[str, Asked] = field(default_factory=dict)
    served: Served | None = None

    def resume(self) -> None:
        """Takes over what the journal has.

        Raises: MeasurementError: it holds an item the task has not, or as it is not, or of two models.
        """
        if self.journal is None:
            return
        hashes = {item.item_id: content_hash(item.fields) for item in self.task.items}
        for item_id, asked in self.journal.done.items():
            if hashes.get(item_id) != asked.result.item_hash:
                raise MeasurementError(
                    f"the journal holds an item {item_id!r} that is not the task's", where=str(self.journal.path)
                )
            self._take(asked, where=str(self.journal.path))

    async def ask_the_rest(self, concurrency: int) -> None:
        """Returns when every item is done."""
        missing = [item for item in self.task.items if item.item_id not in self.done]
        if not missing:
            return
        way = asker(self.endpoint, self.task)
        await way.prepare()
        waiting = iter(missing)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(missing))):
                    group.create_task(self._ask_in_turn(way, waiting))
        except ExceptionGroup as errors:
            raise _first_of_ours(errors) from errors

    async def _ask_in_turn(self, way: Asker, waiting: Iterator[Item]) -> None:
        for item in waiting:  # one iterator for all workers: each item goes to whoever is free
            with _naming(item):
                asked = await way.ask(item)
            self._take(asked, where=self.endpoint.base_url)
            if self.journal is not None:
                await self.journal.append(asked)

    def _take(self, asked: Asked, *, where: str) -> None:
        if self.served is None:
            self.served = asked.served
        check_served(self.served, asked.served, where=where)
        self.done[asked.result.item_id] = asked
        if self.progress_task is not None:
            self.progress_task.advance(done=len(self.done), total=len(self.task.items), note=asked.result.item_id)

    @contextmanager
    def telling_what_is_done(self) -> Iterator[None]:
        """Adds to an error how far the run came, and that it can go on."""
        try:
            yield
        except ServedModelChangedError:
            raise
        except LightshipError as error:
            if not self.done:
                raise
            what = f"{error.what}; {len(self.done)} of {len(self.task.items)} items are done"
            again = "Run the same command again to go on." if self.journal is not None else None
            hint = " ".join(part for part in (error.hint, again) if part) or None
            raise type(error)(what, where=error.where, hint=hint) from error


@contextmanager
def _naming(item: Item) -> Iterator[None]:
    try:
        yield
    except ServedModelChangedError:
        raise
    except LightshipError as error:
        raise type(error)(f"item {item.item_id!r}: {error.what}", where=error.where, hint=error.hint) from error


def _first_of_ours(errors: ExceptionGroup) -> Exception:
    """The first error a user can act on; several workers may fail of the same cause."""
    ours = errors.subgroup(LightshipError)
    return (ours or errors).exceptions[0]


def _task_run(task: Task, done: dict[str, Asked]) -> TaskRun:
    in_order = [done[item.item_id] for item in task.items]
    names = sorted({name for asked in in_order for name in asked.counts})
    return TaskRun(
        task=task.name,
        kind=task.kind,
        protocol=task.protocol,
        metrics=task.metrics,
        binary_metrics=task.binary_metrics,
        seed=task.seed,
        items=tuple(asked.result for asked in in_order),
        details={name: math.fsum(asked.counts.get(name, 0.0) for asked in in_order) for name in names},
    )
