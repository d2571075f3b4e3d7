from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.gateway.tenants.config import LimitConfig, PriceConfig, TenantsConfig
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.ledger_store import StoreUnavailableError
from lightship.gateway.tenants.limiting import LimitedEngine
from lightship.gateway.tenants.limits import Answer, Exchange
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.ports.engine import AttemptError, CallTerms, EngineCall, EngineReply, StreamBrokenError, TokenUsage
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, always, error_reply, stream_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import ApiError

CALL = EngineCall(
    path="/v1/chat/completions",
    body=b"{}",
    request_id="req-1",
    model="tales",
    served_model="tales",
    is_streaming=True,
    terms=CallTerms(tenant="team", num_prompt_tokens=100, max_output_tokens=400),
)
PRICES = {
    "tales": PriceConfig(usd_per_1m_input_tokens=1.0, usd_per_1m_output_tokens=2.0),
    "tales@int4": PriceConfig(usd_per_1m_input_tokens=0.5, usd_per_1m_output_tokens=1.0),
}
VARIANTS = {"tales": ["fp16", "int4"]}
SERVED = always(stream_reply("a", "b"))
COUNTED = TokenUsage(90, 0, 10, is_reported=True)


class UsageEngine(FakeEngine):
    """A fake engine whose replies say what they cost, as those of the layer that counts do."""

    def __init__(self, script: Script, usage: TokenUsage, rung: int = 0) -> None:
        super().__init__(script)
        self._usage = usage
        self._rung = rung

    def open(self, call: EngineCall) -> Any:
        opened = super().open(call)
        usage, rung = self._usage, self._rung

        class Counted:
            async def __aenter__(self) -> EngineReply:
                reply = await opened.__aenter__()
                reply.usage, reply.rung = replace(usage), rung
                return reply

            async def __aexit__(self, *error: Any) -> bool | None:
                return await opened.__aexit__(*error)

        return Counted()


@dataclass
class Setup:
    engine: LimitedEngine
    ledger: Ledger

    async def ask(self, call: EngineCall = CALL) -> EngineReply:
        async with self.engine.open(call) as reply:
            async for _ in reply.chunks:
                pass
            return reply

    async def refused(self, call: EngineCall = CALL) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.ask(call)
        return caught.value

    def spent(self, tenant: str = "team") -> tuple[int, int]:
        account = self.ledger._accounts[tenant]
        assert self.ledger.num_reserved == 0
        return account.spent_tokens, account.spent_nanousd


def limited(
    script: Script = SERVED,
    *,
    usage: TokenUsage = COUNTED,
    rung: int = 0,
    store: Any = None,
    on_store_loss: StoreLoss = StoreLoss.BY_BUDGET,
    random_share: Callable[[], float] = lambda: 0.0,
    **limits: Any,
) -> Setup:
    clock = LoopClock()
    ledger = Ledger(store or MemoryStore(clock), clock, holder="test")
    config = TenantsConfig(limits={"default": LimitConfig(**limits)}, prices=PRICES, on_store_loss=on_store_loss)
    inner = UsageEngine(script, usage, rung)
    engine = LimitedEngine(inner, ledger=ledger, config=config, variants=VARIANTS, random_share=random_share)
    return Setup(engine, ledger)


def run(main: Coroutine[Any, Any, None]) -> None:
    run_in_virtual_time(main)


def test_open_served_settles_what_the_engine_counted_at_the_price_of_the_rung() -> None:
    async def main() -> None:
        setup = limited(rung=1, monthly_usd=1.0)
        await setup.ask()
        assert setup.spent() == (100, 90 * 500 + 10 * 1000)

    run(main())


def test_open_reserves_at_the_highest_price() -> None:
    async def main() -> None:
        at_most_usd = (100 * 1.0 + 400 * 2.0) / 1e6
        setup = limited(daily_usd=at_most_usd * 0.999)
        error = await setup.refused()
        assert error.headers["x-should-retry"] == "false"
        assert "USD per day" in error.message

    run(main())


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (error_reply(503), AttemptError),
        (FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE), AttemptError),
        (error_reply(400), None),
    ],
)
def test_open_failed_before_anything_was_generated_costs_nothing(
    reply: FakeReply, raised: type[Exception] | None
) -> None:
    async def main() -> None:
        setup = limited(always(reply), daily_tokens=10_000)
        if raised is None:
            await setup.ask()
        else:
            with pytest.raises(raised):
                await setup.ask()
        assert setup.spent() == (0, 0)

    run(main())


def test_open_stream_breaks_costs_prompt_and_counted_events() -> None:
    async def main() -> None:
        script = always(stream_reply("a", "b", fault=Fault.CLOSE_AFTER_CHUNKS))
        setup = limited(script, usage=TokenUsage(num_output_tokens=2), daily_tokens=10_000)
        with pytest.raises(StreamBrokenError):
            await setup.ask()
        assert setup.spent() == (102, 100 * 1000 + 2 * 2000)

    run(main())


def test_open_answer_from_the_cache_costs_nothing() -> None:
    async def main() -> None:
        hit = FakeReply(headers={"content-type": "application/json", "x-cache": "hit-exact"})
        setup = limited(always(hit), usage=TokenUsage(), daily_tokens=10_000)
        await setup.ask()
        assert setup.spent() == (0, 0)

    run(main())


def test_open_answer_of_a_shared_call_whose_caller_left_is_paid_by_who_stayed() -> None:
    async def main() -> None:
        hit = FakeReply(headers={"content-type": "application/json", "x-cache": "hit-exact"})
        setup = limited(always(hit), daily_tokens=10_000)
        await setup.ask()
        assert setup.spent() == (100, 90 * 1000 + 10 * 2000)

    run(main())


def test_open_client_leaves_before_the_first_byte_costs_nothing() -> None:
    async def main() -> None:
        setup = limited(always(FakeReply(fault=Fault.HANG)), concurrent_requests=1)
        task = asyncio.create_task(setup.ask())
        await asyncio.sleep(1)
        assert setup.ledger.num_reserved == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert setup.spent() == (0, 0)

    run(main())


def test_open_beyond_the_rate_is_429_with_the_time_to_wait() -> None:
    async def main() -> None:
        setup = limited(requests_per_min=2, random_share=lambda: 0.5)
        await asyncio.sleep(12)  # the slot begins at 10
        await setup.ask()
        reply = await setup.ask()
        assert reply.headers["x-ratelimit-limit-requests"] == "2"
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert reply.headers["x-ratelimit-reset-requests"] == "58.0s"
        assert "x-ratelimit-limit-tokens" not in reply.headers
        error = await setup.refused()
        assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert error.headers["x-reject-reason"] == "rate-limit"
        assert error.headers["retry-after"] == "60"  # 58 and its jitter, at most what clients wait for
        assert error.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in error.headers
        await asyncio.sleep(58)
        await setup.ask()

    run(main())


def test_open_headers_of_tokens_show_the_reservation() -> None:
    async def main() -> None:
        setup = limited(tokens_per_min=1000)
        async with setup.engine.open(CALL) as reply:
            assert reply.headers["x-ratelimit-remaining-tokens"] == "500"
        assert (await setup.ask()).headers["x-ratelimit-remaining-tokens"] == "400"

    run(main())


def test_open_exhausted_budget_is_not_to_be_tried_again() -> None:
    async def main() -> None:
        setup = limited(usage=TokenUsage(100, 0, 400, is_reported=True), daily_tokens=500)
        await setup.ask()
        error = await setup.refused()
        assert error.headers["x-reject-reason"] == "budget"
        assert error.headers["x-should-retry"] == "false"
        assert error.headers["retry-after"] == "86400"
        assert error.code == "insufficient_quota"

    run(main())


def test_open_budget_reserved_by_others_may_be_tried_again() -> None:
    async def main() -> None:
        setup = limited(daily_tokens=500)
        async with setup.engine.open(CALL):
            error = await setup.refused()
        assert error.headers["retry-after"] == "1"
        assert "x-should-retry" not in error.headers

    run(main())


def test_open_tenant_without_limits_passes() -> None:
    async def main() -> None:
        clock = LoopClock()
        ledger = Ledger(MemoryStore(clock), clock, holder="test")
        config = TenantsConfig(limits={"other": LimitConfig(requests_per_min=1)})
        inner = UsageEngine(always(stream_reply("a")), TokenUsage())
        engine = LimitedEngine(inner, ledger=ledger, config=config, variants={}, random_share=random.random)
        for _ in range(3):
            await Setup(engine, ledger).ask()
        assert ledger.num_reserved == 0

    run(main())


def test_apply_new_limits_keep_what_was_used() -> None:
    async def main() -> None:
        setup = limited(requests_per_min=1)
        await setup.ask()
        await setup.refused()
        setup.engine.apply(TenantsConfig(limits={"team": LimitConfig(requests_per_min=2)}), VARIANTS)
        await setup.ask()
        await setup.refused()

    run(main())


class LostStore:
    """A store that cannot be reached and counts how often it was tried."""

    is_shared = True

    def __init__(self) -> None:
        self.num_tries = 0

    async def exchange(self, exchanges: list[Exchange]) -> list[Answer]:
        self.num_tries += 1
        await asyncio.sleep(0.05)
        raise StoreUnavailableError("scripted")

    async def aclose(self) -> None:
        pass


def test_store_lost_with_a_budget_is_refused_and_tried_once_a_second() -> None:
    async def main() -> None:
        store = LostStore()
        setup = limited(store=store, daily_tokens=10_000)
        for _ in range(100):
            error = await setup.refused()
            assert (error.status, error.headers["x-reject-reason"]) == (503, "budget")
        assert store.num_tries == 1
        await asyncio.sleep(1.1)
        await setup.refused()
        assert store.num_tries == 2

    run(main())


def test_store_lost_without_a_budget_counts_alone() -> None:
    async def main() -> None:
        store = LostStore()
        setup = limited(store=store, requests_per_min=3)
        for _ in range(3):
            await setup.ask()
        assert (await setup.refused()).status == 429
        assert store.num_tries == 1

    run(main())


def test_store_lost_policy_allow_serves_in_spite_of_a_budget() -> None:
    async def main() -> None:
        setup = limited(store=LostStore(), on_store_loss=StoreLoss.ALLOW, daily_tokens=10_000)
        await setup.ask()
        assert setup.spent() == (100, 90 * 1000 + 10 * 2000)

    run(main())


def test_store_lost_policy_refuse_serves_nobody_with_limits() -> None:
    async def main() -> None:
        setup = limited(store=LostStore(), on_store_loss=StoreLoss.REFUSE, requests_per_min=100)
        assert (await setup.refused()).status == 503

    run(main())


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_interleaving_of_ends_leaves_no_reservation(seed: int) -> None:
    source = random.Random(seed)
    replies = [
        stream_reply("a", "b"),
        stream_reply("a", fault=Fault.CLOSE_AFTER_CHUNKS),
        stream_reply("a", fault=Fault.STALL_AFTER_CHUNKS),
        FakeReply(fault=Fault.HANG),
        FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE),
        error_reply(500),
        error_reply(422),
    ]

    async def client(setup: Setup) -> None:
        with suppress(ApiError, AttemptError, StreamBrokenError, TimeoutError):
            async with asyncio.timeout(source.choice([0.1, 5, 100])):
                await setup.ask()

    async def main() -> None:
        setup = limited(
            lambda call: source.choice(replies),
            tokens_per_min=5000,
            concurrent_requests=4,
            daily_tokens=20_000,
            monthly_usd=0.02,
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(client(setup))
                await asyncio.sleep(source.choice([0, 0, 0.05, 10]))
        assert setup.ledger.num_reserved == 0
        account = setup.ledger._accounts["team"]
        assert (account.num_running, account.reserved_tokens, account.reserved_nanousd) == (0, 0, 0)

    run(main())
