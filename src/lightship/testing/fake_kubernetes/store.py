"""Objects, versions, and what happened to them."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.testing.fake_kubernetes.owners import Owners

Key = tuple[ApiResource, str, str]


@dataclass
class Record:
    """One object and who owns its fields."""

    obj: JsonObject
    owners: Owners = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One thing that happened: `before` is None for what was made, `after` the last state of what is gone."""

    version: int
    resource: ApiResource
    namespace: str
    before: JsonObject | None
    after: JsonObject
    is_deletion: bool = False


class ObjectStore:
    """All objects, and the last changes of them.

    Args:
        kept_changes: Older ones are forgotten; a watch that asks for them gets 410.
    """

    def __init__(self, *, kept_changes: int = 1000) -> None:
        self.version = 1000
        self.records: dict[Key, Record] = {}
        self.changes: deque[Change] = deque(maxlen=kept_changes)
        self.oldest_version = self.version
        self.after_write: list[Callable[[], None]] = []
        self._waiters: set[asyncio.Event] = set()
        self._is_notifying = False

    def objects(self, resource: ApiResource, namespace: str = "") -> Iterator[JsonObject]:
        """All of a kind, in one namespace or all."""
        for (kind, where, _), record in sorted(self.records.items(), key=lambda item: item[0][1:]):
            if kind == resource and namespace in {"", where}:
                yield record.obj

    def write(self, resource: ApiResource, record: Record) -> None:
        """Effects: the object is as given from now on, with a new version."""
        metadata = record.obj["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        before = self.records.get(key)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.records[key] = record
        self._note(resource, key[1], before.obj if before else None, record.obj)

    def remove(self, resource: ApiResource, obj: JsonObject) -> None:
        """Effects: the object is gone."""
        metadata = obj["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        record = self.records.pop(key)
        self.version += 1
        last = copy.deepcopy(record.obj)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._note(resource, key[1], record.obj, last, is_deletion=True)

    def forget_changes(self) -> None:
        """Effects: no watch can start from before now."""
        self.changes.clear()
        self.oldest_version = self.version

    def waiter(self) -> asyncio.Event:
        """An event that is set at each change, until `leave`."""
        event = asyncio.Event()
        self._waiters.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        """Effects: the event is not set any more."""
        self._waiters.discard(event)

    def wake_all(self) -> None:
        """Effects: every watcher looks again."""
        for event in self._waiters:
            event.set()

    def _note(
        self,
        resource: ApiResource,
        namespace: str,
        before: JsonObject | None,
        after: JsonObject,
        *,
        is_deletion: bool = False,
    ) -> None:
        if len(self.changes) == self.changes.maxlen:
            self.oldest_version = self.changes[0].version
        self.changes.append(
            Change(self.version, resource, namespace, before, copy.deepcopy(after), is_deletion=is_deletion)
        )
        self.wake_all()
        if not self._is_notifying:
            self._is_notifying = True
            try:
                self._run_hooks()
            finally:
                self._is_notifying = False

    def _run_hooks(self) -> None:
        """Effects: hooks run until they change nothing more."""
        version = 0
        while version != self.version:
            version = self.version
            for hook in self.after_write:
                hook()
