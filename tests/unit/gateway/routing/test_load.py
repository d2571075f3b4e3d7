from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.load import OutputLengths, TokenRates, WorkLedger
from lightship.gateway.routing.picking import DeviceLoad, ReplicaState
from lightship.gateway.routing.recent import NUM_KEPT, RecentValues
from lightship.ports.engine import TokenUsage

RATES = TokenRates(prefill_tokens_per_s=1000, decode_tokens_per_s=100)


def test_ledger_prompt_ends_with_the_first_byte_and_the_rest_with_the_attempt() -> None:
    state = ReplicaState("r", 0)
    ledger = WorkLedger(state, RATES)
    work = ledger.add(num_uncached_tokens=500, num_expected_tokens=200)
    assert (state.work_s, state.num_in_flight) == (2.5, 1)
    usage = TokenUsage()
    ledger.note_first_byte(work, usage)
    assert state.work_s == 2.0
    usage.num_output_tokens = 150
    ledger.refresh()
    assert state.work_s == 0.5
    usage.num_output_tokens = 500  # longer than expected: a little is still to come
    ledger.refresh()
    assert state.work_s == pytest.approx(0.16)
    ledger.remove(work)
    assert (state.work_s, state.num_in_flight) == (0.0, 0)


def test_ledger_mean_follows_the_attempts() -> None:
    ledger = WorkLedger(ReplicaState("r", 0), RATES)
    for _ in range(1000):
        ledger.remove(ledger.add(num_uncached_tokens=1000, num_expected_tokens=0))
    assert ledger.mean_us == pytest.approx(1_000_000, rel=0.01)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "byte", "refresh", "remove", "device", "rates"]), st.integers(0, 9_999)),
        max_size=60,
    )
)
def test_ledger_any_order_ends_at_exactly_zero(steps: list[tuple[str, int]]) -> None:
    state = ReplicaState("r", 0)
    ledger = WorkLedger(state, RATES)
    devices = [state.device, DeviceLoad()]
    running = []
    waiting = []
    for step, number in steps:
        if step == "add":
            work = ledger.add(num_uncached_tokens=number / 7, num_expected_tokens=number)
            running.append(work)
            waiting.append(work)
        elif step == "byte" and waiting:
            ledger.note_first_byte(waiting.pop(), TokenUsage(num_output_tokens=number))
        elif step == "remove" and running:
            work = running.pop(number % len(running))
            if work in waiting:
                waiting.remove(work)
            ledger.remove(work)
        elif step == "device":
            ledger.apply(RATES, devices[number % 2])
        elif step == "rates":
            ledger.apply(TokenRates(number + 1, number / 3 + 1), state.device)
        else:
            ledger.refresh()
        assert state.device.work_us == ledger.work_us >= 0
        assert state.num_in_flight == len(running)
    for work in running:
        ledger.remove(work)
    assert (devices[0].work_us, devices[1].work_us, state.num_in_flight) == (0, 0, 0)


def test_output_lengths_are_each_routes_own_and_bounded_by_the_request() -> None:
    lengths = OutputLengths(0.75)
    for number in range(1, 101):
        lengths.note("/a", served_model="m", rung=0, num_tokens=number)
    assert lengths.expected("/a", served_model="m", rung=0, most=0) == 76  # 75 of the 100 are below
    assert lengths.expected("/a", served_model="m", rung=0, most=10) == 10
    assert lengths.expected("/a", served_model="m", rung=1, most=1000) == 256
    assert lengths.expected("/a", served_model="n", rung=0, most=1000) == 256


def test_recent_values_old_ones_are_forgotten() -> None:
    values = RecentValues(0.5)
    for value in [1000.0] * NUM_KEPT + [1.0] * NUM_KEPT:
        values.add(value)
    assert values.quantile(at_least=1) == 1.0


def test_recent_values_too_few_have_no_quantile() -> None:
    values = RecentValues(0.5)
    assert values.quantile(at_least=0) is None
    values.add(3)
    assert values.quantile(at_least=1) == 3
    assert values.quantile(at_least=2) is None
