from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lightship.gateway.operation.merging import Snapshot, cumulative, exposition, merged, snapshot
from lightship.observability import names


def process(
    *, requests: int, durations_s: tuple[float, ...] = (), in_flight: float = 0, is_up: bool = True
) -> Snapshot:
    """What a process that has seen this much would send."""
    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["model"], registry=registry)
    counter.labels("m").inc(requests)
    histogram = Histogram("duration_seconds", "Seconds.", buckets=(0.1, 1.0), registry=registry)
    for duration_s in durations_s:
        histogram.observe(duration_s)
    Gauge("in_flight", "Under way.", registry=registry).set(in_flight)
    Gauge(names.REPLICA_UP, "Up.", ["replica"], registry=registry).labels("r").set(is_up)
    return snapshot(registry)


def values(taken: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(exposition(taken).decode())
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_merged_counters_histograms_and_plain_gauges_add_up() -> None:
    one = process(requests=3, durations_s=(0.05, 0.5), in_flight=2)
    other = process(requests=4, durations_s=(0.5, 5.0), in_flight=1)
    found = values(merged([one, other]))
    assert found["requests_total", (("model", "m"),)] == 7
    assert [found["duration_seconds_bucket", (("le", le),)] for le in ("0.1", "1.0", "+Inf")] == [1, 3, 4]
    assert found["duration_seconds_count", ()] == 4
    assert found["duration_seconds_sum", ()] == pytest.approx(6.05)
    assert found["in_flight", ()] == 3


def test_merged_fact_that_each_process_sees_is_not_added_up() -> None:
    found = values(merged([process(requests=0), process(requests=0), process(requests=0, is_up=False)]))
    assert found[names.REPLICA_UP, (("replica", "r"),)] == 1


def test_merged_series_of_one_process_only_is_kept() -> None:
    registry = CollectorRegistry()
    Counter("requests", "Requests.", ["model"], registry=registry).labels("n").inc(5)
    found = values(merged([process(requests=1), snapshot(registry)]))
    assert found["requests_total", (("model", "m"),)] == 1
    assert found["requests_total", (("model", "n"),)] == 5


def test_merged_created_is_that_of_the_first_process() -> None:
    one, other = process(requests=1), process(requests=1)
    created = [
        min(sample.value for family in taken for sample in family.samples if sample.name == "requests_created")
        for taken in (one, other, merged([other, one]))
    ]
    assert created[2] == created[0] <= created[1]


def test_cumulative_of_a_dead_process_keeps_its_counts_and_drops_its_gauges() -> None:
    found = values(cumulative(process(requests=3, durations_s=(0.5,), in_flight=9)))
    assert found["requests_total", (("model", "m"),)] == 3
    assert found["duration_seconds_count", ()] == 1
    assert ("in_flight", ()) not in found


def test_exposition_of_one_process_is_what_prometheus_client_writes() -> None:
    registry = CollectorRegistry()
    Counter("requests", 'Requests "quoted"\nand broken.', ["model"], registry=registry).labels('a"b\\c\nd').inc()
    Histogram("duration_seconds", "Seconds.", registry=registry).observe(0.3)
    Gauge("level", "Level.", registry=registry).set(float("inf"))
    assert exposition(snapshot(registry)) == generate_latest(registry)
