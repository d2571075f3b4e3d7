"""A copy of the objects of one kind that follows the server's.

    LISTING --done--> WATCHING --the server ends it, or it breaks--> WATCHING (from the last version seen)
       ^                  |
       '---- 410 Gone ----'          anything else that fails: a pause that grows, then on from where it was

What is copied stays when the server cannot be reached: `silent_s` tells how old it is, and whoever decides by it says
whether that is too old.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import NoReturn

from lightship.kubernetes.backoff import Backoff
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import GoneError, KubernetesError
from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)

# The server ends watches after 30 to 60 minutes by itself; ours end sooner, by lot, so that many do not end together.
_SHORTEST_WATCH_S, _LONGEST_WATCH_S = 180, 300
# A watch that held for this long shows that the server is well.
_LONG_ENOUGH_S = 5.0


class ObjectMirror:
    """The objects of a kind in one namespace, kept by one task (`run`).

    Args:
        client: The way to the server.
        resource: The kind.
        clock: Time.
        namespace: Where.
        label_selector: Which; "" takes all.
        on_change: Called in the event loop after each change of the objects or of how the server is reached.
        on_error: Called with each failure, for counting.
        most_objects: More than this are an error, not a leak.
        draw: Random numbers in [0, 1).
        backoff: Pauses after failures.
    """

    def __init__(
        self,
        client: KubernetesClient,
        resource: ApiResource,
        *,
        clock: Clock,
        namespace: str,
        label_selector: str = "",
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[KubernetesError], None] = lambda _: None,
        most_objects: int = 5_000,
        draw: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._clock = clock
        self._namespace = namespace
        self._label_selector = label_selector
        self._on_change = on_change
        self._on_error = on_error
        self._most_objects = most_objects
        self._draw = draw
        self._backoff = backoff or Backoff(draw=draw)
        self._objects: dict[str, JsonObject] = {}
        self._version = ""
        self._is_watching = False
        self._was_gone = False
        self._heard_s: float | None = None
        self.error: KubernetesError | None = None

    @property
    def objects(self) -> Mapping[str, JsonObject]:
        """The copy, by name; replaced, never changed in place, when something changes."""
        return self._objects

    @property
    def is_listed(self) -> bool:
        """Whether the objects were ever read."""
        return self._heard_s is not None

    def silent_s(self, now_s: float) -> float:
        """Seconds for which changes may have been missed: 0 while a watch is open, infinite before the first list."""
        if self._is_watching:
            return 0.0
        return float("inf") if self._heard_s is None else now_s - self._heard_s

    async def run(self) -> NoReturn:
        """Effects: keeps the copy up to date until it is cancelled. Never ends by an error of the server."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except GoneError:
                self._version = ""  # what happened since cannot be told any more: read all again
                if self._was_gone:  # a server that says so each time must not be asked without a pause
                    await self._clock.sleep(self._backoff.next_s())
                self._was_gone = True
            except KubernetesError as error:
                self._note_error(error)
                await self._clock.sleep(self._backoff.next_s())

    async def _list(self) -> None:
        listing = await self._client.list(
            self._resource,
            namespace=self._namespace,
            label_selector=self._label_selector,
            most_items=self._most_objects,
        )
        self._objects = {item["metadata"]["name"]: _slim(item) for item in listing.items}
        self._version = listing.resource_version
        self._note_contact()
        self._on_change()

    async def _watch(self) -> None:
        lasts_s = int(_SHORTEST_WATCH_S + (_LONGEST_WATCH_S - _SHORTEST_WATCH_S) * self._draw())
        started_s, num_events = self._clock.monotonic_s(), 0
        try:
            async with self._client.watching(
                self._resource,
                resource_version=self._version,
                namespace=self._namespace,
                label_selector=self._label_selector,
                lasts_s=lasts_s,
            ) as events:
                self._is_watching = True
                self._note_contact()
                self._on_change()
                async for event in events:
                    num_events += 1
                    self._take(event)
        finally:
            if self._is_watching:
                self._is_watching = False
                self._heard_s = self._clock.monotonic_s()
                self._on_change()
        if num_events or self._clock.monotonic_s() - started_s >= _LONG_ENOUGH_S:
            self._note_well()
        else:
            await self._clock.sleep(self._backoff.next_s())  # a watch that ends at once must not spin

    def _take(self, event: JsonObject) -> None:
        kind, obj = event["type"], event["object"]
        metadata = obj["metadata"]
        self._version = metadata["resourceVersion"]
        self._was_gone = False
        if kind == "BOOKMARK":
            return
        objects = dict(self._objects)
        if kind == "DELETED":
            objects.pop(metadata["name"], None)
        else:
            objects[metadata["name"]] = _slim(obj)
            if len(objects) > self._most_objects:
                self._version = ""
                raise KubernetesError(f"there are more than {self._most_objects} {self._resource}")
        self._objects = objects
        self._on_change()

    def _note_well(self) -> None:
        self._backoff.reset()
        self._was_gone = False

    def _note_contact(self) -> None:
        if self.error is not None:
            _log.info("%s are being watched again", self._resource)
        self.error = None
        self._heard_s = self._clock.monotonic_s()

    def _note_error(self, error: KubernetesError) -> None:
        if self.error is None or type(self.error) is not type(error):
            _log.warning("%s cannot be watched: %s", self._resource, error)
        self.error = error
        self._on_error(error)
        self._on_change()


def _slim(obj: JsonObject) -> JsonObject:
    """Without the record of who owns which field, which is half of an object and nothing to us."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return {**obj, "metadata": metadata}
