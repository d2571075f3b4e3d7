from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lightship.errors import UsageError
from lightship.gateway.state import StateConfig
from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.config import TenantsConfig
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.limits import Limits, Refusal
from lightship.gateway.tenants.redis_store import RedisStore
from lightship.gateway.tenants.running import Tenants, running_tenants
from lightship.ports.clock import SystemClock

BUDGET = Limits(daily_tokens=100)


async def take(tenants: Tenants, num_tokens: int) -> Reservation | Refusal:
    return await tenants.ledger.reserve("team", BUDGET, num_tokens=num_tokens)


def test_running_tenants_budget_outlives_the_process(tmp_path: Path) -> None:
    async def run() -> None:
        state = StateConfig(folder=str(tmp_path / "state"))
        for _ in range(2):
            async with running_tenants(
                TenantsConfig(), state, clock=SystemClock(), on_key_failure=lambda _: None
            ) as tenants:
                reserved = await take(tenants, 40)
                assert isinstance(reserved, Reservation)
                tenants.ledger.settle(reserved, num_tokens=40)
        async with running_tenants(
            TenantsConfig(), state, clock=SystemClock(), on_key_failure=lambda _: None
        ) as tenants:
            assert isinstance(await take(tenants, 21), Refusal)
            assert isinstance(await take(tenants, 20), Reservation)

    asyncio.run(run())


def test_running_tenants_reads_keys_before_it_serves_and_from_another_file_when_told(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = tmp_path / "one" / "keys.sqlite", tmp_path / "two" / "keys.sqlite"
        key, _ = KeyStore(first, SystemClock()).create("team-a")
        other, _ = KeyStore(second, SystemClock()).create("team-b")
        config = TenantsConfig(keys_path=str(first), are_keys_required=True)
        async with running_tenants(
            config, StateConfig(), clock=SystemClock(), on_key_failure=lambda _: None
        ) as tenants:
            authenticate = tenants.authenticator.authenticate
            assert authenticate([(b"x-api-key", key.encode())]).tenant == "team-a"
            await tenants.apply(TenantsConfig(keys_path=str(second)))
            assert authenticate([(b"x-api-key", other.encode())]).tenant == "team-b"
            assert authenticate([(b"x-api-key", key.encode())]).tenant == ""  # unknown, and no longer required
            await tenants.apply(TenantsConfig())
            assert authenticate([(b"x-api-key", other.encode())]).tenant == ""

    asyncio.run(run())


@pytest.mark.parametrize("url", ["redis://:secret@host:notaport/0", "nonsense://x:secret@y"])
def test_redis_address_that_cannot_be_read_is_told_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        RedisStore(url)
    assert "secret" not in str(caught.value)
