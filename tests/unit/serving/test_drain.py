from __future__ import annotations

import asyncio
from contextlib import suppress

from lightship.serving.drain import InFlight
from lightship.testing.virtual_time import run_in_virtual_time


def test_in_flight_waits_until_the_last_request_has_left() -> None:
    async def run() -> None:
        in_flight = InFlight()

        async def request(duration_s: float) -> None:
            with in_flight.request():
                await asyncio.sleep(duration_s)

        async with asyncio.TaskGroup() as group:
            group.create_task(request(2))
            group.create_task(request(5))
            await asyncio.sleep(1)
            assert in_flight.count == 2
            assert not await in_flight.wait_until_idle(timeout_s=3)
            assert await in_flight.wait_until_idle(timeout_s=3)
            assert asyncio.get_running_loop().time() == 5

    run_in_virtual_time(run())


def test_in_flight_request_that_fails_is_counted_down() -> None:
    in_flight = InFlight()
    with suppress(ZeroDivisionError), in_flight.request():
        raise ZeroDivisionError
    assert in_flight.count == 0


def test_in_flight_draining_stays() -> None:
    in_flight = InFlight()
    assert not in_flight.is_draining
    in_flight.start_draining()
    assert in_flight.is_draining
