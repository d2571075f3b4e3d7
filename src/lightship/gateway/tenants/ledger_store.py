"""What a store of counters has to do; `memory_store`, `sqlite_store` and `redis_store` do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightship.gateway.tenants.limits import Answer, Exchange


class StoreUnavailableError(Exception):
    """The store did not answer in time, or cannot."""


class LedgerStore(Protocol):
    """Counters of all tenants, shared by the holders that use it. `is_shared` says that there may be several."""

    is_shared: bool

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        """The answer to each; all are about different tenants.

        Raises:
            StoreUnavailableError: nothing is known about what was written; saying it again does no harm.
            StaleExchangeError: a later exchange of the same holder was written before.
        """
        ...

    async def aclose(self) -> None:
        """Releases files and connections."""
        ...
