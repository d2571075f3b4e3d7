"""What the holding layer and the controllers of replicas ask of a dispatcher."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.dispatch.ticket import Answered, Start, Ticket
from lightship.ports.engine import CallTerms, Degrade, EngineCall

RUNGS = (
    RungFacts(variant_name="fp16", variant_digest="sha256:a", concurrency=1),
    RungFacts(variant_name="int8", quality_loss=0.01, concurrency=1),
    RungFacts(variant_name="int4", quality_loss=0.05, concurrency=1),
    RungFacts(variant_name="cloud", device="away", is_spill=True),
)


def dispatcher() -> Dispatcher:
    config = DispatchConfig(ladders={"m": LadderConfig(rungs=RUNGS, ttft_s=1.0, tpot_s=0.1)})
    return Dispatcher(config, is_up=lambda model, rung: True)


def call(rung: int = 0, *, is_pinned: bool = False, **terms: Any) -> EngineCall:
    given = CallTerms(**terms)
    return EngineCall(
        "/v1/completions", b"", "r", "m", True, rung=rung, is_pinned=is_pinned, served_model="m", terms=given
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (call(), [0, 1, 2]),
        (call(1), [1, 2]),
        (call(1, is_pinned=True), [1]),
        (call(degrade=Degrade.NEVER), [0]),
        (call(min_quality=0.97), [0, 1]),
        (call(3), []),  # the spill rung is elsewhere: nobody wakes it
    ],
)
def test_acceptable_rungs_each_kind_of_wish(asked: EngineCall, expected: list[int]) -> None:
    one = dispatcher()
    assert one.acceptable_rungs(asked) == expected
    names = [("sha256:a", "int8", "int4")[rung] for rung in expected]
    assert one.acceptable_digests(asked) == names


def test_acceptable_rungs_unknown_model_has_none() -> None:
    one = Dispatcher(DispatchConfig(), is_up=lambda model, rung: True)
    assert one.acceptable_rungs(call()) == []


def test_num_waiting_by_rung_counts_who_waits_by_what_was_asked_for() -> None:
    one = dispatcher()
    tickets = [
        Ticket("m", rung, False, CallTerms(max_wait_s=9.0, max_output_tokens=5), 0.0) for rung in (0, 0, 1, 1, 1)
    ]
    started = [isinstance(one.offer(each, 0.0), Start) for each in tickets]
    assert started == [True, False, False, False, False]
    assert one.num_waiting_by_rung() == {("m", 0): 1, ("m", 1): 3}
    one.withdraw(tickets[2])
    assert one.num_waiting_by_rung() == {("m", 0): 1, ("m", 1): 2}


def test_degraded_demand_is_of_the_rung_that_had_no_room_and_in_requests_of_its_speed() -> None:
    rungs = (
        RungFacts(variant_name="fp16", device="a", concurrency=4, goodput_requests_per_s=2.0),
        RungFacts(variant_name="int8", device="b", quality_loss=0.01, concurrency=4, goodput_requests_per_s=3.0),
        RungFacts(variant_name="int4", device="c", quality_loss=0.02, concurrency=4, goodput_requests_per_s=4.0),
    )
    config = DispatchConfig(ladders={"m": LadderConfig(rungs=rungs, ttft_s=1.0, tpot_s=0.1)})
    down: set[int] = {0}
    one = Dispatcher(config, is_up=lambda model, rung: rung not in down)

    def started(rung: int, **terms: Any) -> Ticket:
        ticket = Ticket("m", rung, False, CallTerms(max_wait_s=9.0, max_output_tokens=5, **terms), 0.0)
        assert isinstance(one.offer(ticket, 0.0), Start)
        return ticket

    unlucky = [started(0), started(0)]
    assert [ticket.rung for ticket in unlucky] == [1, 1]
    started(1)  # asked for it
    assert started(0, degrade=Degrade.PREFERRED).rung == 2  # likes it best
    # each would be under way for 3 / 2 of the time there
    assert [one.degraded_demand("m", rung) for rung in range(3)] == [3.0, 0.0, 0.0]
    down.add(1)
    started(0)
    started(1)
    # on the third rung: 4 / 2 of the time of the first one, 4 / 3 of that of the second
    assert [one.degraded_demand("m", rung) for rung in range(3)] == [pytest.approx(5.0), pytest.approx(4 / 3), 0.0]
    for ticket in unlucky:
        one.finish(ticket, 1.0, None)
    assert one.degraded_demand("m", 0) == pytest.approx(2.0)


def test_degraded_demand_on_a_device_that_rungs_share_is_none() -> None:
    config = DispatchConfig(ladders={"m": LadderConfig(rungs=RUNGS, ttft_s=1.0, tpot_s=0.1)})
    one = Dispatcher(config, is_up=lambda model, rung: rung > 0)
    ticket = Ticket("m", 0, False, CallTerms(max_wait_s=9.0, max_output_tokens=5), 0.0)
    assert isinstance(one.offer(ticket, 0.0), Start)
    assert (ticket.rung, ticket.is_short_of_room) == (1, True)
    assert one.degraded_demand("m", 0) == 0.0


def answered(one: Dispatcher, now_s: float, *, ttft_s: float) -> None:
    each = Ticket("m", 0, False, CallTerms(max_wait_s=9.0, max_output_tokens=5), now_s)
    assert isinstance(one.offer(each, now_s), Start)
    one.first_byte(each, now_s)
    one.finish(each, now_s, Answered(ttft_s, 0.01, 5))


def test_attainment_is_the_share_of_recent_answers_in_time_once_there_are_enough() -> None:
    one = dispatcher()
    for number in range(4):
        answered(one, number / 10, ttft_s=0.5)
    assert one.attainment("m", 0, 0.4) is None, "four answers say nothing"
    for number in range(4, 40):
        answered(one, number / 10, ttft_s=0.5 if number % 2 else 2.0)
    # 4 + 18 of 40 in time, the older ones counting a little less
    assert one.attainment("m", 0, 4.0) == pytest.approx(22 / 40, abs=0.02)
    assert one.attainment("m", 1, 4.0) is None
    assert one.attainment("m", 0, 300.0) is None, "what was five minutes ago says nothing either"


def in_flight_limit(one: Dispatcher, rung: int) -> int:
    """Requests pinned to a rung that start at once."""
    started = 0
    while started < 100:
        each = Ticket("m", rung, True, CallTerms(max_wait_s=9.0, max_output_tokens=5), 0.0)
        if not isinstance(one.offer(each, 0.0), Start):
            return started
        started += 1
    return started


def test_note_replicas_rung_with_a_device_of_its_own_takes_as_much_more() -> None:
    rungs = tuple(RungFacts(variant_name=f"v{n}", device=f"d{n}", concurrency=4) for n in range(2))
    config = DispatchConfig(ladders={"m": LadderConfig(rungs=rungs, ttft_s=1.0)})
    limits = []
    for num_ready, rung in ((0, 1), (1, 1), (3, 1), (3, 0)):
        one = Dispatcher(config, is_up=lambda model, rung: True)
        one.note_replicas("m", 1, num_ready)
        limits.append(in_flight_limit(one, rung))
    assert limits == [4, 4, 12, 4]


def test_note_replicas_rungs_of_one_machine_share_it_however_many_run() -> None:
    rungs = tuple(RungFacts(variant_name=f"v{n}", device="local", concurrency=4) for n in range(2))
    one = Dispatcher(
        DispatchConfig(ladders={"m": LadderConfig(rungs=rungs, ttft_s=1.0)}), is_up=lambda model, rung: True
    )
    one.note_replicas("m", 0, 3)
    assert in_flight_limit(one, 0) == 4
