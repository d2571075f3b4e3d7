"""One engine call for all who ask the same at the same time.

A *flight* is one call of the engine below, made by a task of its own, so that it belongs to no client. Whoever asks the
same while it is under way comes on board and reads the same chunks, from the first one, as they come:

    the first to ask     starts the flight and pays for it
    another one          reads what has come so far, then what comes, at no cost
    the payer leaves     the next one on board pays; the call goes on
    the last one leaves  the call is cancelled at once
    it fails             before the first byte: everyone's failure. The layers below have tried other replicas within
                         their budget; a hundred retries on top would finish off an engine that is failing already.
                         After it: everyone's stream breaks, as it would have without company

Memory is bounded. A flight keeps all it has read, up to `max_entry_bytes`, and all flights together `max_flight_bytes`.
One that comes to a bound takes nobody on board any more, is not stored, and from then on is no faster than the fastest
of its readers; readers who lag behind what there is memory for are cut. Nobody ever waits for a slower client.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager

import msgspec

from lightship.gateway.cache.flight import Flight, FlightBudget, Reader
from lightship.ports.engine import Engine, EngineCall, EngineReply
from lightship.wire.errors import overloaded

_log = logging.getLogger(__name__)

# A look-up that began before an answer was stored may end after it; so many keys are remembered for that.
_MAX_LANDED_KEYS = 1024


class Landing(msgspec.Struct, frozen=True):
    """A call that came to its end.

    Args:
        call: As it was made.
        reply: Its status and headers, and its usage, complete.
        body: The whole body; None where it was too large to be kept.
    """

    call: EngineCall
    reply: EngineReply
    body: bytes | None


OnLanding = Callable[[Landing], Awaitable[None]]


class Flights:
    """All flights of one engine.

    Args:
        inner: Makes the calls.
        budget: Their memory.

    Concurrency: one event loop, while `running`.
    """

    def __init__(self, inner: Engine, budget: FlightBudget) -> None:
        self._inner = inner
        self._budget = budget
        self._group: asyncio.TaskGroup | None = None
        self._open: dict[Hashable, Flight] = {}
        self._tasks: dict[Flight, asyncio.Task[None]] = {}
        self._num_look_ups = 0
        self._landed: OrderedDict[Hashable, None] = OrderedDict()

    @property
    def num_under_way(self) -> int:
        """Flights whose call or whose landing is not over."""
        return len(self._tasks)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Flights can be made within the block; at its end those still under way are cancelled."""
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            except Exception as error:  # noqa: BLE001 # goes on below, as itself: the group would put it into another
                failure = error
            finally:
                self._group = None
                for flight, task in list(self._tasks.items()):
                    if not flight.is_over:
                        self._cancel(flight, task)
        if failure is not None:
            raise failure

    def board_open(self, key: Hashable) -> Reader | None:
        """A reader of the flight under this key; None where there is none to board."""
        flight = self._open.get(key)
        return None if flight is None or flight.is_full else flight.board()

    def start(self, key: Hashable | None, call: EngineCall, on_landing: OnLanding) -> Reader:
        """The paying reader of a new flight.

        Args:
            key: Others board under it; None keeps the flight for this reader alone.
            call: Made at once.
            on_landing: Awaited when the call has come to its end; until then others still board.
        """
        if self._group is None:
            raise RuntimeError("a cache whose flights are not running was asked for one")
        flight = Flight(self._budget, key)
        reader = flight.board()
        if key is not None:
            self._open[key] = flight
        self._tasks[flight] = self._group.create_task(self._fly(flight, call, on_landing))
        return reader

    async def leave(self, reader: Reader) -> None:
        """Effects: the reader is off; a flight that nobody is left on has ended when this returns."""
        flight = reader.flight
        flight.leave(reader)
        if flight.is_wanted or flight.is_over or (task := self._tasks.get(flight)) is None:
            return
        self._close_door(flight)
        self._cancel(flight, task)
        await asyncio.wait([task])

    def begin_look_up(self) -> None:
        """Effects: until `end_look_up` it is remembered which flights land."""
        self._num_look_ups += 1

    def end_look_up(self) -> None:
        """Effects: undoes one `begin_look_up`."""
        self._num_look_ups -= 1
        if not self._num_look_ups and self._landed:
            self._landed.clear()

    def has_landed(self, key: Hashable) -> bool:
        """Whether a flight under this key has landed since the look-up began, so that its answer may be stored now."""
        return key in self._landed

    async def _fly(self, flight: Flight, call: EngineCall, on_landing: OnLanding) -> None:
        flight.has_begun = True
        try:
            try:
                async with self._inner.open(call) as reply:
                    flight.begin(reply)
                    async for chunk in reply.chunks:
                        await flight.append(chunk)
            except Exception as error:  # noqa: BLE001 # every reader raises it, in the task it belongs to
                self._close_door(flight)
                flight.end(error)
                return
            flight.end()
            await self._land(flight, Landing(call, reply, flight.body()), on_landing)
        finally:
            self._forget(flight)

    async def _land(self, flight: Flight, landing: Landing, on_landing: OnLanding) -> None:
        try:
            await on_landing(landing)
        except Exception:  # noqa: BLE001 # the clients have their answer: a fault in storing it is nobody's failure
            _log.exception("request %s: its answer was not stored", landing.call.request_id)
        if flight.key is not None and self._num_look_ups:
            self._landed[flight.key] = None
            if len(self._landed) > _MAX_LANDED_KEYS:
                self._landed.popitem(last=False)

    def _cancel(self, flight: Flight, task: asyncio.Task[None]) -> None:
        task.cancel()
        if not flight.has_begun:
            self._forget(flight)  # its task never will

    def _forget(self, flight: Flight) -> None:
        self._close_door(flight)
        del self._tasks[flight]
        if not flight.is_over:  # cancelled, and nobody is left unless the process is being stopped
            flight.end(overloaded("This gateway is shutting down. Try again.", reason="shutdown"))

    def _close_door(self, flight: Flight) -> None:
        if flight.key is not None and self._open.get(flight.key) is flight:
            del self._open[flight.key]
