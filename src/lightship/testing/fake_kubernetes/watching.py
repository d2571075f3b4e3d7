"""Watches: what happened since a version, then what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import msgspec

from lightship.kubernetes.resources import JsonObject
from lightship.testing.fake_kubernetes.calls import Call
from lightship.testing.fake_kubernetes.failures import expired
from lightship.testing.fake_kubernetes.selecting import select
from lightship.testing.fake_kubernetes.store import Change, ObjectStore

_BOOKMARK_EVERY_S = 60.0


class WatchBrokenError(Exception):
    """The connection is cut without a proper end."""


async def watch_lines(call: Call, store: ObjectStore, *, is_cut: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """The events of one watch, one per line, until its time is over.

    Raises: WatchBrokenError: the test broke it off.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + float(call.query.get("timeoutSeconds", "1800"))
    given = call.query.get("resourceVersion", "")
    seen = int(given) if given not in {"", "0"} else store.version
    event = store.waiter()
    try:
        if not given or given == "0":
            for obj in store.objects(call.resource, call.namespace):
                if select(obj, call.query):
                    yield _line("ADDED", obj)
        while True:
            if seen < store.oldest_version:
                yield _line("ERROR", expired(f"{seen} ({store.oldest_version})").status)
                return
            event.clear()
            for change in [one for one in store.changes if one.version > seen]:
                seen = change.version
                if kind := _kind_for(change, call):
                    yield _line(kind, change.after)
            if is_cut():
                raise WatchBrokenError
            left_s = ends_s - loop.time()
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(min(left_s, _BOOKMARK_EVERY_S)):
                    await event.wait()
            except TimeoutError:
                seen = max(seen, store.version)
                if call.query.get("allowWatchBookmarks") == "true":
                    metadata = {"resourceVersion": str(seen)}
                    kinds = {"apiVersion": call.resource.api_version, "kind": call.resource.kind}
                    yield _line("BOOKMARK", {**kinds, "metadata": metadata})
    finally:
        store.leave(event)


def _kind_for(change: Change, call: Call) -> str:
    """How a watcher sees a change; "" where it does not."""
    if change.resource != call.resource or call.namespace not in {"", change.namespace}:
        return ""
    was_seen = change.before is not None and select(change.before, call.query)
    is_seen = select(change.after, call.query) and not change.is_deletion
    if is_seen:
        return "MODIFIED" if was_seen else "ADDED"
    return "DELETED" if was_seen else ""


def _line(kind: str, obj: JsonObject) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"
