"""Everything about tenants in one gateway process, from its start to its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lightship.gateway.state import StateConfig
from lightship.gateway.tenants.authentication import Authenticator, KeyFailure
from lightship.gateway.tenants.config import TenantsConfig
from lightship.gateway.tenants.key_watch import KeyWatch
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.ledger_store import LedgerStore
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.gateway.tenants.sqlite_store import SqliteStore
from lightship.ports.clock import Clock


@dataclass(frozen=True)
class Tenants:
    """Keys for the app and counters for `LimitedEngine`."""

    authenticator: Authenticator
    ledger: Ledger
    watch: KeyWatch

    async def apply(self, config: TenantsConfig) -> None:
        """Effects: keys are read from where the configuration says now; counters stay as they are."""
        self.authenticator.are_keys_required = config.are_keys_required
        self.watch.look_at(_keys_path(config))
        await self.watch.refresh()


@asynccontextmanager
async def running_tenants(
    config: TenantsConfig,
    state: StateConfig,
    *,
    clock: Clock,
    on_key_failure: Callable[[KeyFailure], None],
    num_processes: int = 1,
) -> AsyncIterator[Tenants]:
    """The keys are read, and the counters shared, until the block ends.

    Raises: UsageError: Redis is wanted and its client is not installed.
    """
    # A name that no other process has or had, on no other machine.
    ledger = Ledger(
        open_ledger_store(state, clock),
        clock,
        holder=os.urandom(8).hex(),
        on_store_loss=config.on_store_loss,
        num_processes=num_processes,
    )
    authenticator = Authenticator(
        are_keys_required=config.are_keys_required, unix_s=clock.unix_s, on_failure=on_key_failure
    )
    watch = KeyWatch(_keys_path(config), authenticator, clock)
    try:
        await watch.refresh()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ledger.run()), group.create_task(watch.run())]
            try:
                yield Tenants(authenticator, ledger, watch)
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        watch.close()
        await ledger.aclose()


def open_ledger_store(state: StateConfig, clock: Clock) -> LedgerStore:
    """The store of counters that a gateway's state asks for.

    Raises: UsageError: Redis is wanted and its client is not installed, or its address cannot be read.
    """
    if state.redis_url:
        from lightship.gateway.tenants.redis_store import RedisStore  # needs an extra

        return RedisStore(state.redis_url, timeout_s=state.redis_timeout_s)
    if state.folder:
        return SqliteStore(Path(state.folder) / "limits.sqlite", clock)
    return MemoryStore(clock)


def _keys_path(config: TenantsConfig) -> Path | None:
    return Path(config.keys_path) if config.keys_path else None
