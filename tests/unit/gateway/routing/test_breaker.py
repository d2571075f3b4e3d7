from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.breaker import Breaker, Phase, Ticket, Verdict
from lightship.gateway.routing.config import BreakerConfig

CONFIG = BreakerConfig(
    failures_in_a_row=3,
    error_share=0.5,
    min_attempts=10,
    window_s=20,
    first_pause_s=2,
    longest_pause_s=10,
    successes_to_close=2,
)


class Clockwork:
    """A breaker with the time of day; pauses are not jittered."""

    def __init__(self) -> None:
        self.breaker = Breaker(CONFIG)
        self.now_s = 0.0

    @property
    def phase(self) -> str:
        return self.breaker.phase.value

    @property
    def is_blocked(self) -> bool:
        return self.breaker.blocked_until_s > self.now_s

    def begin(self) -> Ticket:
        return self.breaker.begin(now_s=self.now_s)

    def end(self, ticket: Ticket, verdict: Verdict) -> None:
        self.breaker.end(ticket, verdict, now_s=self.now_s, jitter=1.0)

    def attempt(self, *verdicts: Verdict) -> None:
        for verdict in verdicts:
            self.end(self.begin(), verdict)


GOOD, BAD, NEITHER = Verdict.GOOD, Verdict.BAD, Verdict.NEITHER


def opened() -> Clockwork:
    works = Clockwork()
    works.attempt(BAD, BAD, BAD)
    return works


def test_breaker_failures_in_a_row_open_it_for_the_pause() -> None:
    works = Clockwork()
    works.attempt(BAD, BAD, GOOD, BAD, BAD)
    assert works.phase == "closed"
    works.attempt(BAD)
    assert (works.phase, works.breaker.blocked_until_s) == ("open", 2.0)


def test_breaker_what_is_neither_does_not_break_the_row() -> None:
    works = Clockwork()
    works.attempt(BAD, NEITHER, BAD, NEITHER, BAD)
    assert works.phase == "open"


def test_breaker_share_of_errors_opens_it_once_there_are_enough() -> None:
    works = Clockwork()
    works.attempt(*[GOOD, BAD] * 4, GOOD)
    assert works.phase == "closed"  # nine attempts are no evidence
    works.attempt(BAD)
    assert works.phase == "open"  # five of ten


def test_breaker_window_forgets() -> None:
    works = Clockwork()
    works.attempt(*[BAD, GOOD] * 4)
    works.now_s = 21
    works.attempt(GOOD, BAD)
    assert works.phase == "closed"


def test_breaker_one_probe_at_a_time_then_closed_after_two() -> None:
    works = opened()
    works.now_s = 2.0
    assert not works.is_blocked
    probe = works.begin()
    assert (works.phase, works.breaker.blocked_until_s) == ("half-open", math.inf)
    works.breaker.first_byte(probe)
    assert not works.is_blocked  # a long answer does not hold up the next probe
    works.end(probe, GOOD)
    assert works.phase == "half-open"
    works.attempt(GOOD)
    assert works.phase == "closed"


def test_breaker_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    works = opened()
    pauses = []
    for _ in range(4):
        works.now_s = works.breaker.blocked_until_s
        works.attempt(BAD)
        pauses.append(works.breaker.blocked_until_s - works.now_s)
    assert pauses == [4, 8, 10, 10]


def test_breaker_closing_forgets_the_doubling() -> None:
    works = opened()
    works.now_s = 2
    works.attempt(BAD)
    works.now_s = 6
    works.attempt(GOOD, GOOD, BAD, BAD, BAD)
    assert works.breaker.blocked_until_s == 8


def test_breaker_replica_whose_streams_all_break_stays_open() -> None:
    works = opened()
    for _ in range(20):
        works.now_s = max(works.now_s, works.breaker.blocked_until_s)
        probe = works.begin()
        works.breaker.first_byte(probe)
        works.end(probe, BAD)
        assert works.phase == "open"


def test_breaker_cancelled_probe_makes_room_for_the_next() -> None:
    works = opened()
    works.now_s = 2
    works.end(works.begin(), NEITHER)
    assert (works.phase, works.is_blocked) == ("half-open", False)


def test_breaker_attempts_from_before_it_opened_count_for_nothing() -> None:
    works = Clockwork()
    early = [works.begin() for _ in range(6)]
    for ticket in early[:3]:
        works.end(ticket, BAD)
    works.end(early[3], BAD)
    works.end(early[4], GOOD)
    assert (works.phase, works.breaker.blocked_until_s) == ("open", 2)
    works.now_s = 2
    probe = works.begin()
    works.end(early[5], BAD)
    assert works.phase == "half-open"
    assert works.breaker.has_probe
    works.end(probe, GOOD)


def test_breaker_shortened_pause_lets_a_probe_through_at_once() -> None:
    works = opened()
    works.breaker.shorten_pause()
    assert not works.is_blocked


@pytest.mark.parametrize(("jitter", "until_s"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)])
def test_breaker_jitter_spreads_the_pause_over_its_second_half(jitter: float, until_s: float) -> None:
    breaker = Breaker(CONFIG)
    for _ in range(3):
        breaker.end(breaker.begin(now_s=0), Verdict.BAD, now_s=0, jitter=jitter)
    assert breaker.blocked_until_s == until_s


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "first-byte", "good", "bad", "neither", "wait"]), st.integers(0, 5)),
    max_size=60,
)


@given(STEPS)
def test_breaker_any_order_leaves_no_probe_out_and_recovers(steps: list[tuple[str, int]]) -> None:
    works = Clockwork()
    running: list[Ticket] = []
    for step, which in steps:
        if step == "wait":
            works.now_s += which
        elif step == "begin":
            running.append(works.begin())
        elif running:
            ticket = running[which % len(running)]
            if step == "first-byte":
                works.breaker.first_byte(ticket)
            else:
                running.remove(ticket)
                works.end(ticket, Verdict(step))
        assert sum(ticket.is_probe for ticket in running) <= 1 or works.breaker.phase is not Phase.HALF_OPEN
    for ticket in running:
        works.end(ticket, NEITHER)
    assert not works.breaker.has_probe
    works.now_s += CONFIG.longest_pause_s
    works.attempt(GOOD, GOOD)
    assert works.phase == "closed"
