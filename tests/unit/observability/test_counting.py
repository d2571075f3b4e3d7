"""Plain counters and histograms say what prometheus_client's own would."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from lightship.observability.counting import CountTable, TimeHistogram

BUCKETS_S = (0.01, 0.1, 0.4, 1, 2.5)


def lines(registry: CollectorRegistry) -> list[str]:
    """The exposition without the times at which prometheus_client made its own."""
    found = generate_latest(registry).decode().splitlines()
    return [line for line in found if not re.match(r"(# \w+ )?\w+_created", line)]


@given(durations_s=st.lists(st.sampled_from([0.0, 0.005, 0.01, 0.4, 0.41, 2.5, 3.0, 100.0]), max_size=30))
def test_time_histogram_equals_that_of_the_library(durations_s: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = TimeHistogram("t_seconds", "Time.", BUCKETS_S, registry=ours)
    other = Histogram("t_seconds", "Time.", registry=theirs, buckets=BUCKETS_S)
    for duration_s in durations_s:
        one.observe(duration_s)
        other.observe(duration_s)
    assert lines(ours) == lines(theirs)


@given(events=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy\n"), st.integers(1, 5)), max_size=30))
def test_count_table_equals_the_librarys_counter(events: list[tuple[str, str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = CountTable("n", "Number.", ["first", "second"], registry=ours)
    other = Counter("n", "Number.", ["first", "second"], registry=theirs)
    for first, second, by in events:
        one.add(first, second, by=by)
        other.labels(first, second).inc(by)
    assert sorted(lines(ours)) == sorted(lines(theirs))
