"""When a server counts as idle."""

from __future__ import annotations

import pytest

from lightship.engines.idle import Drain, num_requests, wait_until_idle

GAUGES = ("running", "waiting")
DRAIN = Drain("http://server/metrics", GAUGES, timeout_s=30.0, is_signal_first=True)


@pytest.mark.parametrize(
    ("exposition", "expected"),
    [
        (b'running{rank="0"} 2.0\nrunning{rank="1"} 1.0\nwaiting{} 0\n', 3),
        (b"# TYPE running gauge\nrunning 0\nwaiting 0\n", 0),
        (b"running_by_reason 5\nother 1\n", None),
        (b"running\nwaiting x\n", None),
        (b"", None),
    ],
)
def test_num_requests_adds_up_all_series_of_its_gauges(exposition: bytes, expected: float | None) -> None:
    assert num_requests(exposition, GAUGES) == expected


def test_wait_ends_when_nothing_is_under_way_twice_in_a_row() -> None:
    readings = iter([b"running 1", b"running 0", b"waiting 1\nrunning 0", b"running 0", b"running 0", b"running 9"])
    wait_until_idle(DRAIN, is_over=lambda: False, read=lambda url: next(readings))
    assert next(readings) == b"running 9"


def test_wait_ends_when_the_server_cannot_be_asked_any_more_or_must_end_now() -> None:
    asked: list[str] = []
    wait_until_idle(DRAIN, is_over=lambda: False, read=lambda url: asked.append(url))
    assert asked == [DRAIN.metrics_url] * 2
    wait_until_idle(DRAIN, is_over=lambda: True, read=lambda url: b"running 1")


def test_wait_ends_when_its_time_is_over() -> None:
    short = Drain("http://server/metrics", GAUGES, timeout_s=0.0, is_signal_first=True)
    wait_until_idle(short, is_over=lambda: False, read=lambda url: b"running 1")
