"""What every store of counters promises, and the ledger on top of each; memory is held to the pure decision itself."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.ledger_store import LedgerStore, StoreUnavailableError
from lightship.gateway.tenants.limits import (
    LEASE_S,
    SLOT_S,
    Amounts,
    Answer,
    Calendar,
    Exchange,
    LimitKind,
    Limits,
    Refusal,
    SlotUse,
    StaleExchangeError,
    calendar_at,
)
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.gateway.tenants.redis_store import RedisStore
from lightship.gateway.tenants.sqlite_store import SqliteStore

NOON = 1_795_780_800.0  # 2026-11-27 12:00 UTC
DAY_S = 86_400.0
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class ManualClock:
    """A `Clock` that moves when it is told to; both of its times do."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.jumped_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return NOON - 1000.0 + self.now_s + self.jumped_s

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


StoreFactory = Callable[[ManualClock], LedgerStore]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFactory:
    """Makes empty stores of one kind."""
    numbers = itertools.count()
    if request.param == "memory":
        return MemoryStore
    if request.param == "sqlite":
        return lambda clock: SqliteStore(tmp_path / str(next(numbers)) / "limits.sqlite", clock)
    url = request.getfixturevalue("redis_server").url
    # A minute: a busy machine must not turn a slow answer into a lost store.
    return lambda clock: RedisStore(url, clock=clock, prefix=f"test-{next(numbers)}", timeout_s=60)


def with_store(new_store: StoreFactory, test: Callable[[LedgerStore, ManualClock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = ManualClock()
        store = new_store(clock)
        try:
            await test(store, clock)
        finally:
            await store.aclose()

    asyncio.run(run())


# --- the store


def random_exchanges(source: random.Random, limits: Limits, num: int) -> Iterator[tuple[float, list[Exchange]]]:
    """(step of the clock, exchanges): three holders of two tenants that tell what holders tell."""
    sequence = itertools.count(1)
    spent: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    acked: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for _ in range(num):
        exchanges = []
        for tenant in source.sample(["team-a", "team-b"], source.randrange(1, 3)):
            holder = source.choice("abc")
            key = (holder, tenant)
            spent[key] = [total + source.randrange(50) for total in spent[key]]
            age_s = source.random() * SLOT_S
            slots = tuple(
                SlotUse(age_s + SLOT_S * slot, source.randrange(3), source.randrange(40))
                for slot in range(source.randrange(1, 13), -1, -1)
            )
            calendar = calendar_at(NOON + source.choice([0, 0, 0, DAY_S, -DAY_S]))
            exchange = Exchange(
                holder=holder,
                tenant=tenant,
                limits=limits,
                calendar=calendar,
                sequence=next(sequence),
                slots=slots,
                held=Amounts(0, 0, source.randrange(50), source.randrange(50), source.randrange(3)),
                spent_tokens=spent[key][0],
                spent_nanousd=spent[key][1],
                acked_tokens=acked[key][0],
                acked_nanousd=acked[key][1],
                need=source.choice([Amounts(), Amounts(1, source.randrange(60), source.randrange(60), 7, 1)]),
                extra=Amounts(source.randrange(9), source.randrange(99), source.randrange(99), 99, 3),
            )
            acked[key] = spent[key]
            exchanges.append(exchange)
        yield source.choice([0.0, 0.5, 3.0, 20.0, 100.0, 4000.0, -30.0]), exchanges


def small_limits(source: random.Random) -> Limits:
    def maybe(*choices: int) -> int | None:
        return source.choice([None, *choices])

    return Limits(
        maybe(5, 30, 200), maybe(200, 2000), maybe(1, 4, 40), maybe(500, 5000), maybe(9000), maybe(900), maybe(2000)
    )


@FEW
@given(seed=st.integers(0, 2**32))
def test_exchange_any_sequence_answers_as_the_pure_decision(new_store: StoreFactory, seed: int) -> None:
    source = random.Random(seed)
    limits = small_limits(source)

    async def test(store: LedgerStore, clock: ManualClock) -> None:
        reference = MemoryStore(clock)
        for step_s, exchanges in random_exchanges(source, limits, num=25):
            clock.now_s += step_s
            assert rounded(await store.exchange(exchanges)) == rounded(await reference.exchange(exchanges))

    with_store(new_store, test)


def rounded(answers: Sequence[Answer]) -> list[object]:
    """Lua adds up times in another order."""
    return [
        (answer.extra, answer.left, answer.refusal and (answer.refusal.kind, round(answer.refusal.wait_s, 6)))
        for answer in answers
    ]


TODAY = Calendar(20261127, 202611, 3600.0, 3 * DAY_S)


def report(sequence: int, **told: int) -> Exchange:
    return Exchange("a", "team", Limits(daily_tokens=100), TODAY, sequence, (SlotUse(0.0, 0, 0),), **told)  # type: ignore[arg-type]


def test_exchange_said_twice_counts_once(new_store: StoreFactory) -> None:
    async def test(store: LedgerStore, _: ManualClock) -> None:
        await store.exchange([report(1, spent_tokens=30)])
        [answer] = await store.exchange([report(2, spent_tokens=30)])
        assert answer.left.budget_tokens == 70

    with_store(new_store, test)


def test_exchange_that_comes_late_is_not_written(new_store: StoreFactory) -> None:
    async def test(store: LedgerStore, _: ManualClock) -> None:
        await store.exchange([report(2, spent_tokens=30)])
        with pytest.raises(StaleExchangeError):
            await store.exchange([report(1, spent_tokens=10)])
        [answer] = await store.exchange([report(3, spent_tokens=30)])
        assert answer.left.budget_tokens == 70

    with_store(new_store, test)


def test_exchange_large_sums_stay_exact(new_store: StoreFactory) -> None:
    async def test(store: LedgerStore, _: ManualClock) -> None:
        limits = Limits(monthly_nanousd=10**15 + 1)  # a million dollars and a billionth
        slots = (SlotUse(0.0, 0, 0),)
        await store.exchange([Exchange("a", "team", limits, TODAY, 1, slots, spent_nanousd=10**15 - 2)])
        [answer] = await store.exchange([Exchange("b", "team", limits, TODAY, 1, slots, need=Amounts(nanousd=2))])
        assert answer.refusal is None
        assert answer.left.nanousd == 1

    with_store(new_store, test)


# --- the ledger on a store


def reservation(result: Reservation | Refusal) -> Reservation:
    assert isinstance(result, Reservation), result
    return result


def refusal(result: Reservation | Refusal) -> Refusal:
    assert isinstance(result, Refusal)
    return result


def with_ledgers(
    new_store: StoreFactory, num: int, test: Callable[[list[Ledger], ManualClock], Awaitable[None]]
) -> None:
    async def run(store: LedgerStore, clock: ManualClock) -> None:
        await test([Ledger(store, clock, holder=f"process-{number}") for number in range(num)], clock)

    with_store(new_store, run)


async def give_back(ledger: Ledger) -> None:
    """What a second without requests does: after it nothing is held in advance."""
    await ledger.report()
    await ledger.report()


def test_reserve_beyond_tokens_per_min_waits_for_the_slot_to_pass(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], clock: ManualClock) -> None:
        first, second = ledgers
        limits = Limits(tokens_per_min=1000)
        reservation(await first.reserve("team", limits, num_tokens=600))
        await give_back(first)
        clock.now_s += 2
        refused = refusal(await second.reserve("team", limits, num_tokens=500))
        assert refused == Refusal(LimitKind.TOKENS_PER_MIN, 58.0, is_exhausted=False)
        reservation(await second.reserve("team", limits, num_tokens=400))
        clock.now_s += 58
        reservation(await second.reserve("team", limits, num_tokens=600))

    with_ledgers(new_store, 2, test)


def test_settle_gives_back_what_was_not_used(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        first, second = ledgers
        limits = Limits(tokens_per_min=1000, daily_tokens=1000)
        held = reservation(await first.reserve("team", limits, num_tokens=1000))
        refused = refusal(await second.reserve("team", limits, num_tokens=900))
        assert refused.kind is LimitKind.TOKENS_PER_MIN
        first.settle(held, num_tokens=100)
        first.settle(held, num_tokens=100)
        await give_back(first)
        ledger = Ledger(second._store, second._clock, holder="process-3")
        reservation(await ledger.reserve("team", limits, num_tokens=900))
        assert refusal(await ledger.reserve("team", limits, num_tokens=1)).kind is LimitKind.TOKENS_PER_MIN

    with_ledgers(new_store, 2, test)


def test_settle_zero_costs_no_budget(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        limits = Limits(daily_tokens=100, monthly_nanousd=50)
        for _again in range(50):
            held = reservation(await ledgers[0].reserve("team", limits, num_tokens=100, nanousd=50))
            ledgers[0].settle(held, num_tokens=0, nanousd=0)

    with_ledgers(new_store, 1, test)


def test_reserve_concurrent_requests_frees_with_each_end(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        limits = Limits(concurrent_requests=2)
        held = [reservation(await ledgers[0].reserve("team", limits, num_tokens=1)) for _ in range(2)]
        assert refusal(await ledgers[0].reserve("team", limits, num_tokens=1)).kind is LimitKind.CONCURRENT_REQUESTS
        ledgers[0].settle(held[0], num_tokens=1)
        reservation(await ledgers[0].reserve("team", limits, num_tokens=1))

    with_ledgers(new_store, 1, test)


def test_reserve_exhausted_budget_waits_for_the_next_day(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], clock: ManualClock) -> None:
        first, second = ledgers
        limits = Limits(daily_nanousd=100)
        first.settle(
            reservation(await first.reserve("team", limits, num_tokens=1, nanousd=100)), num_tokens=1, nanousd=100
        )
        await give_back(first)
        refused = refusal(await second.reserve("team", limits, num_tokens=1, nanousd=1))
        assert refused == Refusal(LimitKind.DAILY_USD, DAY_S / 2, is_exhausted=True)
        clock.now_s += DAY_S / 2
        reservation(await second.reserve("team", limits, num_tokens=1, nanousd=100))

    with_ledgers(new_store, 2, test)


def test_reserve_budget_held_by_requests_under_way_is_not_exhausted(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        limits = Limits(monthly_tokens=100)
        reservation(await ledgers[0].reserve("team", limits, num_tokens=80))
        refused = refusal(await ledgers[1].reserve("team", limits, num_tokens=80))
        assert refused == Refusal(LimitKind.MONTHLY_TOKENS, 1.0, is_exhausted=False)

    with_ledgers(new_store, 2, test)


def test_reserve_larger_than_the_limit_never_fits(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        refused = refusal(await ledgers[0].reserve("team", Limits(tokens_per_min=1000), num_tokens=1001))
        assert refused == Refusal(LimitKind.TOKENS_PER_MIN, math.inf, is_exhausted=True)

    with_ledgers(new_store, 1, test)


def test_budget_clock_jumps_and_returns_finds_what_was_spent(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], clock: ManualClock) -> None:
        first, second = ledgers
        limits = Limits(daily_tokens=100)
        first.settle(reservation(await first.reserve("team", limits, num_tokens=100)), num_tokens=100)
        await give_back(first)
        for jump_s in (400 * DAY_S, -2 * DAY_S):
            clock.jumped_s = jump_s
            second.settle(reservation(await second.reserve("team", limits, num_tokens=60)), num_tokens=60)
            await give_back(second)
        clock.jumped_s = 0
        assert refusal(await second.reserve("team", limits, num_tokens=1)).kind is LimitKind.DAILY_TOKENS
        clock.jumped_s = DAY_S
        reservation(await second.reserve("team", limits, num_tokens=100))

    with_ledgers(new_store, 2, test)


def test_store_clock_goes_back_neither_refunds_nor_blocks(new_store: StoreFactory) -> None:
    """As after a reboot: what was written before lies far ahead."""

    async def test(store: LedgerStore, clock: ManualClock) -> None:
        limits = Limits(tokens_per_min=100, concurrent_requests=1)
        reservation(await Ledger(store, clock, holder="before").reserve("team", limits, num_tokens=100))
        clock.now_s = 10.0
        after = Ledger(store, clock, holder="after")
        assert isinstance(await after.reserve("team", limits, num_tokens=100), Refusal)
        clock.now_s += 61
        reservation(await after.reserve("team", limits, num_tokens=100))

    with_store(new_store, test)


def test_holder_dies_its_reservations_expire(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], clock: ManualClock) -> None:
        dead, alive = ledgers
        limits = Limits(daily_tokens=100, concurrent_requests=1)
        reservation(await dead.reserve("team", limits, num_tokens=100))
        clock.now_s += LEASE_S - 1
        assert isinstance(await alive.reserve("team", limits, num_tokens=100), Refusal)
        clock.now_s += 1
        reservation(await alive.reserve("team", limits, num_tokens=100))

    with_ledgers(new_store, 2, test)


def test_holder_with_a_long_request_keeps_its_reservation(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], clock: ManualClock) -> None:
        busy, other = ledgers
        limits = Limits(daily_tokens=100)
        reservation(await busy.reserve("team", limits, num_tokens=60))
        for _ in range(100):
            clock.now_s += 1
            await busy.report()
        assert isinstance(await other.reserve("team", limits, num_tokens=60), Refusal)

    with_ledgers(new_store, 2, test)


def test_holder_stopped_beyond_its_lease_takes_nothing_unasked(new_store: StoreFactory) -> None:
    async def test(store: LedgerStore, clock: ManualClock) -> None:
        limits = Limits(daily_tokens=1600)
        stopped, other = (Ledger(store, clock, holder=name) for name in ("stopped", "other"))
        reservation(await stopped.reserve("team", limits, num_tokens=10))  # and 99 in advance
        clock.now_s += 60
        reservation(await other.reserve("team", limits, num_tokens=1590))
        assert isinstance(await stopped.reserve("team", limits, num_tokens=50), Refusal)

    if new_store is MemoryStore:
        pytest.skip("one process has no other one to give its lease to")
    with_store(new_store, test)


def test_limits_lowered_in_place_hold_for_the_next_request(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        before, after = Limits(requests_per_min=1000), Limits(requests_per_min=2)
        for _again in range(2):
            reservation(await ledgers[0].reserve("team", before, num_tokens=1))
        assert isinstance(await ledgers[0].reserve("team", after, num_tokens=1), Refusal)

    with_ledgers(new_store, 1, test)


def test_tenants_do_not_share(new_store: StoreFactory) -> None:
    async def test(ledgers: list[Ledger], _: ManualClock) -> None:
        limits = Limits(requests_per_min=1, daily_tokens=1)
        for tenant in ("a", "b", "a:b", "{a}", "ä"):
            reservation(await ledgers[0].reserve(tenant, limits, num_tokens=1))

    with_ledgers(new_store, 1, test)


# --- never overspent


@dataclass
class Running:
    ledger: int
    reservation: Reservation
    slot_s: float
    tokens: int
    nanousd: int


@dataclass
class Oracle:
    """What was really used, counted in the plainest way."""

    limits: Limits
    running: list[Running] = field(default_factory=list)
    ended: list[tuple[float, int]] = field(default_factory=list)  # start of the slot, tokens
    spent: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def settle(self, run: Running, clock: ManualClock, *, tokens: int, nanousd: int) -> None:
        self.running.remove(run)
        self.ended.append((run.slot_s, tokens))
        calendar = calendar_at(clock.unix_s())
        for period in (calendar.day, calendar.month):
            self.spent[period][0] += tokens
            self.spent[period][1] += nanousd

    def assert_within_limits(self, clock: ManualClock) -> None:
        limits, calendar = self.limits, calendar_at(clock.unix_s())
        recent = self.ended + [(run.slot_s, run.tokens) for run in self.running]
        recent = [entry for entry in recent if entry[0] > clock.now_s - 60]
        tokens = sum(run.tokens for run in self.running)
        nanousd = sum(run.nanousd for run in self.running)
        for limit, used in (
            (limits.concurrent_requests, len(self.running)),
            (limits.requests_per_min, len(recent)),
            (limits.tokens_per_min, sum(tokens for _, tokens in recent)),
            (limits.daily_tokens, self.spent[calendar.day][0] + tokens),
            (limits.monthly_tokens, self.spent[calendar.month][0] + tokens),
            (limits.daily_nanousd, self.spent[calendar.day][1] + nanousd),
            (limits.monthly_nanousd, self.spent[calendar.month][1] + nanousd),
        ):
            assert limit is None or used <= limit


class FlakyStore:
    """A `LedgerStore` that now and then fails, before or after it has written."""

    is_shared = True

    def __init__(self, inner: LedgerStore, source: random.Random) -> None:
        self._inner = inner
        self._source = source
        self.failure_share = 0.0

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        if self._source.random() < self.failure_share:
            if self._source.random() < 0.5:
                await self._inner.exchange(exchanges)
            raise StoreUnavailableError("scripted")
        return await self._inner.exchange(exchanges)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def report_all(ledgers: list[Ledger], store: FlakyStore, clock: ManualClock) -> None:
    """Every process reports to a store that works."""
    failure_share, store.failure_share = store.failure_share, 0.0
    clock.now_s += 1  # a lost store is asked again
    for ledger in ledgers:
        await ledger.report()
    store.failure_share = failure_share


async def act(
    source: random.Random, ledgers: list[Ledger], store: FlakyStore, oracle: Oracle, clock: ManualClock
) -> None:
    """One random thing that happens, followed by the check."""
    number = source.randrange(len(ledgers))
    match source.choice(["reserve"] * 6 + ["settle"] * 4 + ["report", "wait", "wait", "midnight", "back", "crash"]):
        case "reserve":
            tokens, nanousd = source.randrange(1, 60), source.randrange(1, 60)
            try:
                result = await ledgers[number].reserve("team", oracle.limits, num_tokens=tokens, nanousd=nanousd)
            except StoreUnavailableError:
                return
            if isinstance(result, Reservation):
                slot_s = clock.now_s - clock.now_s % SLOT_S
                oracle.running.append(Running(number, result, slot_s, tokens, nanousd))
                oracle.assert_within_limits(clock)
        case "settle" if oracle.running:
            run = source.choice(oracle.running)
            share = source.choice([0.0, 0.3, 1.0])
            tokens, nanousd = int(run.tokens * share), int(run.nanousd * share)
            ledgers[run.ledger].settle(run.reservation, num_tokens=tokens, nanousd=nanousd)
            oracle.settle(run, clock, tokens=tokens, nanousd=nanousd)
        case "report":
            await ledgers[number].report()
        case "wait":
            clock.now_s += source.choice([0.1, 1.0, 4.0, 8.0])
            for ledger in ledgers:
                await ledger.report()
        case "midnight" | "back" as turn:
            await report_all(ledgers, store, clock)  # what is not reported counts in the day in which it is
            clock.jumped_s += DAY_S / 2 if turn == "midnight" else -source.choice([60, DAY_S])
        case "crash":
            await report_all([ledgers[number]], store, clock)  # what it used up last would be forgotten
            ledgers[number] = Ledger(store, clock, holder=f"process-{source.getrandbits(64)}")
            oracle.running = [run for run in oracle.running if run.ledger != number]


@FEW
@given(seed=st.integers(0, 2**32), is_flaky=st.booleans())
def test_limits_any_interleaving_of_processes_are_never_passed(
    new_store: StoreFactory, seed: int, is_flaky: bool
) -> None:
    source = random.Random(seed)
    limits = small_limits(source)
    if is_flaky:  # alone, processes share only rates, and those only by guess
        limits = Limits(None, None, None, source.choice([500, 5000]), 9000, 900, 2000)

    async def test(inner: LedgerStore, clock: ManualClock) -> None:
        store = FlakyStore(inner, source)
        store.is_shared = inner.is_shared
        ledgers = [Ledger(store, clock, holder=f"process-{number}") for number in range(3)]
        oracle = Oracle(limits)
        store.failure_share = 0.2 if is_flaky else 0.0
        for _ in range(120):
            await act(source, ledgers, store, oracle, clock)
        store.failure_share = 0.0
        await assert_nothing_is_left_behind(ledgers, store, oracle, clock)

    with_store(new_store, test)


async def assert_nothing_is_left_behind(
    ledgers: list[Ledger], store: LedgerStore, oracle: Oracle, clock: ManualClock
) -> None:
    """When all have ended and a new month has begun, all of every limit is there again."""
    for run in oracle.running:
        ledgers[run.ledger].settle(run.reservation, num_tokens=0, nanousd=0)
    clock.now_s += 2  # a lost store is asked again
    for ledger in ledgers:
        assert ledger.num_reserved == 0
        await give_back(ledger)
    clock.now_s += 61
    clock.jumped_s += 40 * DAY_S
    limits = oracle.limits
    tokens = min(
        (limit for limit in (limits.tokens_per_min, limits.daily_tokens, limits.monthly_tokens) if limit), default=1
    )
    nanousd = min((limit for limit in (limits.daily_nanousd, limits.monthly_nanousd) if limit), default=1)
    fresh = Ledger(store, clock, holder="fresh")
    reservation(await fresh.reserve("team", limits, num_tokens=tokens, nanousd=nanousd))
