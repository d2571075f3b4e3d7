"""What the ledger does over time; what every store makes of it is in the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.limits import Answer, Exchange, Limits, Refusal
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time


class SharedStore(MemoryStore):
    """A store in memory that several ledgers use; each exchange takes `delay_s`, and is counted."""

    is_shared = True

    def __init__(self, delay_s: float = 0.001) -> None:
        super().__init__(LoopClock())
        self.delay_s = delay_s
        self.num_exchanges = 0
        self.fault: Exception | None = None

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        self.num_exchanges += len(exchanges)
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault
        return await super().exchange(exchanges)


@asynccontextmanager
async def ledgers(store: SharedStore, *names: str) -> AsyncIterator[list[Ledger]]:
    """Ledgers that report, as they do in a gateway."""
    made = [Ledger(store, LoopClock(), holder=name) for name in names]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ledger.run()) for ledger in made]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()


def run(main: Coroutine[Any, Any, None]) -> None:
    run_in_virtual_time(main)


def reservation(result: Reservation | Refusal) -> Reservation:
    assert isinstance(result, Reservation), result
    return result


def test_settle_near_the_limit_frees_it_for_others_at_once() -> None:
    async def main() -> None:
        async with ledgers(SharedStore(), "a", "b") as (first, second):
            limits = Limits(concurrent_requests=1)
            held = reservation(await first.reserve("team", limits, num_tokens=1))
            first.settle(held, num_tokens=1)
            await asyncio.sleep(0.01)
            reservation(await second.reserve("team", limits, num_tokens=1))

    run(main())


def test_advance_that_is_not_used_is_given_back_within_two_seconds() -> None:
    async def main() -> None:
        async with ledgers(SharedStore(), "a", "b") as (first, second):
            limits = Limits(daily_tokens=1000)
            first.settle(reservation(await first.reserve("team", limits, num_tokens=100)), num_tokens=100)
            await asyncio.sleep(2.1)
            reservation(await second.reserve("team", limits, num_tokens=900))

    run(main())


def test_reserve_many_at_once_asks_the_store_for_all_of_them() -> None:
    async def main() -> None:
        store = SharedStore()
        async with ledgers(store, "a") as (ledger,):
            limits = Limits(requests_per_min=100_000, daily_tokens=10**9)
            results = await asyncio.gather(*[ledger.reserve("team", limits, num_tokens=100) for _ in range(500)])
            assert all(isinstance(result, Reservation) for result in results)
            assert store.num_exchanges <= 5

    run(main())


def test_reserve_over_the_limit_does_not_ask_the_store_each_time() -> None:
    async def main() -> None:
        store = SharedStore()
        async with ledgers(store, "a") as (ledger,):
            limits = Limits(requests_per_min=1)
            reservation(await ledger.reserve("team", limits, num_tokens=1))
            results = [await ledger.reserve("team", limits, num_tokens=1) for _ in range(1000)]
            assert all(isinstance(result, Refusal) for result in results)
            assert store.num_exchanges == 2

    run(main())


def test_reserve_cancelled_while_asking_holds_nothing_for_long() -> None:
    async def main() -> None:
        async with ledgers(SharedStore(delay_s=0.5), "a", "b") as (first, second):
            limits = Limits(daily_tokens=100)
            task = asyncio.create_task(first.reserve("team", limits, num_tokens=100))
            await asyncio.sleep(0.499)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert first.num_reserved == 0
            await asyncio.sleep(3)
            reservation(await second.reserve("team", limits, num_tokens=100))

    run(main())


def test_accounts_of_tenants_that_are_gone_are_forgotten() -> None:
    async def main() -> None:
        async with ledgers(SharedStore(), "a") as (ledger,):
            limits = Limits(requests_per_min=1000, daily_tokens=10**6)
            for number in range(1000):
                held = reservation(await ledger.reserve(f"tenant-{number}", limits, num_tokens=10))
                ledger.settle(held, num_tokens=10)
            assert len(ledger._accounts) == 1000
            await asyncio.sleep(70)
            assert len(ledger._accounts) == 0
            # What was spent is not: it is in the store.
            assert isinstance(await ledger.reserve("tenant-7", Limits(daily_tokens=10), num_tokens=1), Refusal)

    run(main())


def test_fault_in_reporting_is_logged_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = SharedStore()
        async with ledgers(store, "a", "b") as (first, second):
            limits = Limits(daily_tokens=100)
            first.settle(reservation(await first.reserve("team", limits, num_tokens=100)), num_tokens=40)
            store.fault = ZeroDivisionError("scripted")
            await asyncio.sleep(3)
            store.fault = None
            await asyncio.sleep(3)
            reservation(await second.reserve("team", limits, num_tokens=60))

    run(main())
    assert "were not reported" in caplog.text


def test_aclose_gives_everything_back() -> None:
    async def main() -> None:
        store = SharedStore()
        first, second = (Ledger(store, LoopClock(), holder=name) for name in "ab")
        limits = Limits(daily_tokens=100, concurrent_requests=1)
        first.settle(reservation(await first.reserve("team", limits, num_tokens=100)), num_tokens=1)
        await first.aclose()
        reservation(await second.reserve("team", limits, num_tokens=99))

    run(main())
