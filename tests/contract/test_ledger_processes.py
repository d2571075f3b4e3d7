"""Budgets shared by real processes, and a real Redis that dies, hangs and comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.redis_server import RedisServer

from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.ledger_store import StoreUnavailableError
from lightship.gateway.tenants.limits import Limits, Refusal
from lightship.gateway.tenants.redis_store import RedisStore
from lightship.ports.clock import SystemClock

# Four clients of one process reserve more than they use, until the budget is gone; then what was used is printed.
SPENDER = """
import asyncio, os, sys
from lightship.gateway.state import StateConfig
from lightship.gateway.tenants.config import TenantsConfig
from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.limits import Limits
from lightship.gateway.tenants.running import running_tenants
from lightship.ports.clock import SystemClock

LIMITS = Limits(daily_tokens=int(sys.argv[3]))

async def spend(ledger):
    used = 0
    while True:
        reserved = await ledger.reserve("team", LIMITS, num_tokens=100)
        if not isinstance(reserved, Reservation):
            if reserved.is_exhausted:
                return used
            await asyncio.sleep(0.02)
            continue
        await asyncio.sleep(0)
        ledger.settle(reserved, num_tokens=60)
        used += 60

async def main():
    state = StateConfig(folder=sys.argv[1], redis_url=sys.argv[2], redis_timeout_s=5)
    none = lambda failure: None
    async with running_tenants(TenantsConfig(), state, clock=SystemClock(), on_key_failure=none) as tenants:
        print(sum(await asyncio.gather(*[spend(tenants.ledger) for _ in range(4)])))

asyncio.run(main())
"""
NUM_PROCESSES = 4
BUDGET = 200_000


def used_by_processes(folder: Path, redis_url: str) -> int:
    command = [sys.executable, "-c", SPENDER, str(folder), redis_url, str(BUDGET)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(NUM_PROCESSES)]
    try:
        return sum(int(process.communicate(timeout=60)[0]) for process in processes)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_budget_shared_by_processes_is_used_up_and_never_passed_sqlite(tmp_path: Path) -> None:
    used = used_by_processes(tmp_path, "")
    assert BUDGET - 100 * 4 * NUM_PROCESSES <= used <= BUDGET


@pytest.mark.slow
def test_budget_shared_by_processes_is_used_up_and_never_passed_redis(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    used = used_by_processes(tmp_path, redis_server.url)
    assert BUDGET - 100 * 4 * NUM_PROCESSES <= used <= BUDGET


class SkippingClock(SystemClock):
    """The machine's clock, from which a test can skip a part."""

    skipped_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.skipped_s


RATE, TOTAL = Limits(requests_per_min=100), Limits(daily_tokens=1000)


async def served(ledger: Ledger, tenant: str, limits: Limits) -> bool:
    try:
        result = await ledger.reserve(tenant, limits, num_tokens=10)
    except StoreUnavailableError:
        return False
    if isinstance(result, Refusal):
        return False
    ledger.settle(result, num_tokens=10)
    return True


def test_redis_dies_rates_are_counted_alone_and_spending_is_reported_when_it_is_back(
    private_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        clock = SkippingClock()
        ledger = Ledger(RedisStore(private_redis_server.url, timeout_s=5), clock, holder="a", num_processes=4)
        assert await served(ledger, "rate", RATE)
        await ledger.report()
        await ledger.report()  # nothing is held in advance
        private_redis_server.kill()
        results = [await served(ledger, "rate", RATE) for _ in range(40)]
        assert results == [True] * 24 + [False] * 16  # a quarter of the rate, one of which was used before
        assert not await served(ledger, "total", TOTAL)
        private_redis_server.start()
        clock.skipped_s += 1.1  # a lost store is left alone for a second
        assert await served(ledger, "total", TOTAL)
        other = Ledger(RedisStore(private_redis_server.url, timeout_s=5), clock, holder="b")
        await ledger.report()
        await ledger.report()
        assert sum([await served(other, "rate", RATE) for _ in range(100)]) == 75
        for each in (ledger, other):
            await each.aclose()
        assert caplog.text.count("cannot be reached") == 1
        assert caplog.text.count("is back") == 1

    asyncio.run(run())


def test_redis_hangs_costs_one_time_out_a_second(private_redis_server: RedisServer) -> None:
    async def run() -> None:
        clock = SkippingClock()
        ledger = Ledger(RedisStore(private_redis_server.url, timeout_s=0.2), clock, holder="a")
        assert await served(ledger, "total", TOTAL)
        await ledger.report()
        await ledger.report()
        private_redis_server.stop_answering()
        try:
            started_s = time.monotonic()
            results = await asyncio.gather(*[served(ledger, f"tenant-{number}", TOTAL) for number in range(100)])
            results += [await served(ledger, "total", TOTAL) for _ in range(100)]
            assert not any(results)
            assert time.monotonic() - started_s < 2  # 200 requests; each on its own would take 40 s
        finally:
            private_redis_server.answer_again()
        clock.skipped_s += 1.1
        assert await served(ledger, "total", TOTAL)
        await ledger.aclose()

    asyncio.run(run())


def test_redis_starts_anew_scripts_are_loaded_again(private_redis_server: RedisServer) -> None:
    async def run() -> None:
        clock = SkippingClock()
        ledger = Ledger(RedisStore(private_redis_server.url, timeout_s=5), clock, holder="a")
        result = await ledger.reserve("team", TOTAL, num_tokens=1000)
        assert isinstance(result, Reservation)
        private_redis_server.restart()
        await ledger.report()  # the connection is found dead
        clock.skipped_s += 1.1
        await ledger.report()
        other = Ledger(RedisStore(private_redis_server.url, timeout_s=5), clock, holder="b")
        assert isinstance(await other.reserve("team", TOTAL, num_tokens=1), Refusal)  # told again by who held it
        for each in (ledger, other):
            await each.aclose()

    asyncio.run(run())
