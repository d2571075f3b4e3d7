"""Reserve before, settle after: the tenants' counters of one gateway process, backed by a store that may be shared.

    reservation = await ledger.reserve("team-a", limits, num_tokens=1200, nanousd=840_000)   # or a Refusal
    try: ...
    finally: ledger.settle(reservation, num_tokens=430, nanousd=301_000)                     # on every path

What a process may use it first takes from the store in an `Exchange`, some of it in advance: at most a sixteenth of
what is left. So most requests touch nothing but memory, and near a limit each request is decided by the store, exactly.
What was taken in advance and is not needed is given back within a second.

Never overspent: at any time, what the store counts as spent and held by all processes is at least what was really used
and is reserved, and nothing is granted beyond the limit. Only a request that turns out larger than it was reserved for
can pass a limit; the next ones then wait.

When a process dies, what it held is free again after `LEASE_S`; forgotten is then what it used up and had not reported
yet, at most a second's worth. One that was stopped for longer than its lease takes nothing more before it has asked.

When the store cannot be reached, `StoreLoss` says what happens; it is asked again once a second, and what was used up
meanwhile is reported then.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from lightship.gateway.tenants.account import Account, Left, Reservation
from lightship.gateway.tenants.ledger_store import LedgerStore, StoreUnavailableError
from lightship.gateway.tenants.limits import LEASE_S, Amounts, Exchange, Limits, Refusal, impossible
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)

# What was used is reported, and what is not needed given back, so often.
REPORT_INTERVAL_S = 1.0
# A store that did not answer is left alone for so long: a dead one costs one time-out a second, not one per request.
STORE_RETRY_S = 1.0
# A holder stops using what it holds this long before others may take it.
_LEASE_MARGIN_S = 2.0
# Taken in advance at most: the needs of so many requests like the one that asks.
_ADVANCE_REQUESTS = 64
# Tenants in one exchange, so that a shared store is never held for long.
_BATCH = 64


class Ledger:
    """See the module.

    Args:
        store: Of the counters.
        clock: `monotonic_s` for rates and leases, `unix_s` for days and months.
        holder: A name no other process has or had.
        on_store_loss: What happens without the store.
        num_processes: That share the store; what each may do alone while it cannot be reached.

    Concurrency: one event loop. `run` has to run beside it wherever the store is shared.
    """

    def __init__(
        self,
        store: LedgerStore,
        clock: Clock,
        *,
        holder: str,
        on_store_loss: StoreLoss = StoreLoss.BY_BUDGET,
        num_processes: int = 1,
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self.on_store_loss = on_store_loss
        self._num_processes = num_processes
        self._alone = MemoryStore(clock)
        self._accounts: dict[str, Account] = {}
        self._num_opened = 0
        self._sequence = 0
        self._store_retry_s = 0.0
        self._urgent: set[Account] = set()
        self._is_urgent = asyncio.Event()

    @property
    def num_reserved(self) -> int:
        """Reservations that are not settled."""
        return sum(account.num_running for account in self._accounts.values())

    @property
    def is_store_lost(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._store_retry_s > 0

    async def reserve(self, tenant: str, limits: Limits, *, num_tokens: int, nanousd: int = 0) -> Reservation | Refusal:
        """A reservation that has to be settled, or why there is none.

        Raises: StoreUnavailableError: the store is needed and cannot be reached.
        """
        now_s = self._clock.monotonic_s()
        account = self._accounts.get(tenant)
        if account is None or account.limits is not limits:
            account = self._open(tenant, limits, now_s)
        if now_s >= account.slot_end_s:
            account.start_slot(now_s)
        is_valid = now_s < account.lease_end_s and account.is_day_of(self._clock.unix_s())
        if is_valid and account.can_take(num_tokens, nanousd):
            return account.take(num_tokens, nanousd)
        return await self._ask(account, num_tokens, nanousd)

    def settle(self, reservation: Reservation, *, num_tokens: int, nanousd: int = 0) -> None:
        """The request is over and took this much. A second call does nothing."""
        if reservation.is_settled:
            return
        reservation.is_settled = True
        account = reservation.account
        account.give(reservation, num_tokens, nanousd)
        if self._store.is_shared and account.is_tight:
            self._urgent.add(account)
            self._is_urgent.set()

    def left(self, tenant: str) -> Left:
        """What this tenant has left of the minute, as far as this process knows."""
        account = self._accounts.get(tenant)
        if account is None:
            return Left(None, None, 0.0)
        return account.known_left(self._clock.monotonic_s())

    async def run(self) -> None:
        """Reports to the store, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_regularly())
            group.create_task(self._report_urgently())

    async def report(self) -> None:
        """Effects: the store knows what was used, and has back what was taken in advance and not needed."""
        now_s = self._clock.monotonic_s()
        await self._report([account for account in self._accounts.values() if account.is_due(now_s)])

    async def aclose(self) -> None:
        """Effects: reports as far as the store can be reached, and releases the store."""
        for account in self._accounts.values():
            account.num_taken = 0
        try:
            await self._report(list(self._accounts.values()))
        finally:
            await self._store.aclose()

    def _open(self, tenant: str, limits: Limits, now_s: float) -> Account:
        account = self._accounts.get(tenant)
        if account is None:
            self._num_opened += 1
            account = Account(f"{self._holder}.{self._num_opened}", tenant, limits, now_s)
            self._accounts[tenant] = account
        elif account.limits != limits:
            account.change_limits(limits)
        else:
            account.limits = limits
        return account

    async def _ask(self, account: Account, num_tokens: int, nanousd: int) -> Reservation | Refusal:
        if kind := impossible(account.limits, num_tokens=num_tokens, nanousd=nanousd):
            return Refusal(kind, math.inf, is_exhausted=True)
        account.num_asking += 1
        try:
            async with account.lock:
                return await self._take_or_exchange(account, num_tokens, nanousd)
        finally:
            account.num_asking -= 1

    async def _take_or_exchange(self, account: Account, num_tokens: int, nanousd: int) -> Reservation | Refusal:
        """The lock of the account is held: two exchanges about a tenant must not overtake each other."""
        while True:
            now_s = self._clock.monotonic_s()
            if now_s >= account.slot_end_s:
                account.start_slot(now_s)
            if now_s < account.lease_end_s and account.is_day_of(self._clock.unix_s()):
                if account.can_take(num_tokens, nanousd):
                    return account.take(num_tokens, nanousd)
                if refusal := account.standing_refusal(now_s, num_tokens, nanousd):
                    return refusal
            # Asked for as a whole, so that the store can tell whether it would ever fit; and where the lease or the day
            # is over, what was free is no longer ours.
            account.drop_free()
            account.num_tokens, account.nanousd = num_tokens, nanousd
            need = account.missing(num_tokens, nanousd)
            extra = account.advance(account.num_asking + _ADVANCE_REQUESTS)
            refusal = await self._exchange(account, need, extra)
            if refusal is not None:
                account.refuse(refusal, self._clock.monotonic_s(), num_tokens, nanousd)
                return refusal

    async def _exchange(self, account: Account, need: Amounts, extra: Amounts) -> Refusal | None:
        """Effects: the account has what it needs, from the store or without it, unless there is a refusal."""
        try:
            [refusal] = await self._exchange_with_store([(account, need, extra)])
        except StoreUnavailableError:
            if not self._may_count_alone(account.limits):
                raise
            return await self._exchange_alone(account, need, extra)
        return refusal

    async def _exchange_with_store(self, asked: Sequence[tuple[Account, Amounts, Amounts]]) -> list[Refusal | None]:
        now_s = self._clock.monotonic_s()
        if now_s < self._store_retry_s:
            raise StoreUnavailableError("the store of limits and budgets did not answer a moment ago")
        slots = [account.slots[-1] for account, *_ in asked]
        exchanges = [self._told(account, need, extra) for account, need, extra in asked]
        try:
            answers = await self._store.exchange(exchanges)
        except BaseException as error:  # a cancelled exchange too may have been written
            for account, *_ in asked:
                account.is_changed = True
            if isinstance(error, StoreUnavailableError):
                self._note_lost(error)
            raise
        self._note_found()
        for (account, *_), slot, exchange, answer in zip(asked, slots, exchanges, answers, strict=True):
            account.apply(exchange, answer, slot)
            account.acked_tokens, account.acked_nanousd = exchange.spent_tokens, exchange.spent_nanousd
            account.exchanged_s = now_s
            account.lease_end_s = now_s + LEASE_S - _LEASE_MARGIN_S if self._store.is_shared else math.inf
        return [answer.refusal for answer in answers]

    async def _exchange_alone(self, account: Account, need: Amounts, extra: Amounts) -> Refusal | None:
        slot = account.slots[-1]
        exchange = self._told(account, need, extra)
        share = msgspec.structs.replace(exchange, limits=exchange.limits.share(self._num_processes))
        [answer] = await self._alone.exchange([share])
        account.apply(exchange, answer, slot)
        account.is_changed = True  # the store has to hear of it when it is back
        account.lease_end_s = self._store_retry_s
        return answer.refusal

    def _told(self, account: Account, need: Amounts, extra: Amounts) -> Exchange:
        self._sequence += 1
        account.is_changed = False
        now_s, unix_s = self._clock.monotonic_s(), self._clock.unix_s()
        return account.exchange(now_s, unix_s, sequence=self._sequence, need=need, extra=extra)

    def _may_count_alone(self, limits: Limits) -> bool:
        if self.on_store_loss is StoreLoss.BY_BUDGET:
            return not limits.has_budget
        return self.on_store_loss is StoreLoss.ALLOW

    def _note_lost(self, error: StoreUnavailableError) -> None:
        if not self.is_store_lost:
            _log.warning("the store of limits and budgets cannot be reached: %s", error)
        self._store_retry_s = self._clock.monotonic_s() + STORE_RETRY_S

    def _note_found(self) -> None:
        if self.is_store_lost:
            _log.warning("the store of limits and budgets is back")
        self._store_retry_s = 0.0

    async def _report_regularly(self) -> None:
        while True:
            await self._clock.sleep(REPORT_INTERVAL_S)
            try:
                await self.report()
            except Exception:  # noqa: BLE001 # a fault in reporting must not end a gateway that serves
                _log.exception("limits and budgets were not reported")
            now_s = self._clock.monotonic_s()
            for account in [account for account in self._accounts.values() if account.is_forgettable(now_s)]:
                del self._accounts[account.tenant]

    async def _report_urgently(self) -> None:
        while True:
            await self._is_urgent.wait()
            self._is_urgent.clear()
            accounts, self._urgent = list(self._urgent), set()
            try:
                await self._report(accounts)
            except Exception:  # noqa: BLE001 # see `_report_regularly`
                _log.exception("limits and budgets were not reported")

    async def _report(self, accounts: list[Account]) -> None:
        """Effects: gives back what is free, and takes it again in advance where it was used in the last second."""
        for start in range(0, len(accounts), _BATCH):
            if self._clock.monotonic_s() < self._store_retry_s:
                return
            # One that is just asking reports by that. No other one makes the next step wait, so that two reports that
            # lock several accounts can never wait for each other.
            await self._report_batch([account for account in accounts[start : start + _BATCH] if not account.is_busy])

    async def _report_batch(self, accounts: list[Account]) -> None:
        async with AsyncExitStack() as stack:
            for account in accounts:
                await stack.enter_async_context(account.lock)
                account.drop_free()
            try:
                await self._exchange_with_store(
                    [(account, Amounts(), account.advance(account.num_taken)) for account in accounts]
                )
            except StoreUnavailableError:
                return  # said again in the next second
            for account in accounts:
                account.num_taken = 0
