"""What the exact response cache counts. Nothing here ever raises into a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightship.gateway.cache.answer import NotStored
from lightship.gateway.cache.key import BypassReason
from lightship.gateway.cache.store import StoreCounts
from lightship.observability import names

_log = logging.getLogger(__name__)


class CacheResult(StrEnum):
    """What the cache did for one request, unless it was bypassed; see `BypassReason`.

    A hit came from the store, a shared answer from another request's engine call under way, a miss from one of its own.
    """

    HIT = "hit"
    SHARED = "shared"
    MISS = "miss"


STORED = "stored"


class CacheTelemetry:
    """The cache's metrics, in the gateway's registry. All labels come from closed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            names.CACHE_REQUESTS,
            "Requests by what the exact response cache did, and of bypassed ones why.",
            [names.LABEL_RESULT, names.LABEL_REASON],
            registry=registry,
        )
        answers = Counter(
            names.CACHE_ANSWERS,
            "Complete answers to cacheable requests: stored, or why not.",
            [names.LABEL_RESULT],
            registry=registry,
        )
        self._registry = registry
        self._requests = {result: requests.labels(result.value, "") for result in CacheResult}
        self._bypasses = {reason: requests.labels("bypass", reason.value) for reason in BypassReason}
        self._answers = {result: answers.labels(result) for result in (STORED, *(each.value for each in NotStored))}

    def watch(self, counts: StoreCounts, num_flights: Callable[[], int]) -> None:
        """Effects: the registry shows what the store and the flights say whenever it is asked."""
        self._registry.register(_LiveCounts(counts, num_flights))

    def record_request(self, result: CacheResult) -> None:
        """Counts one request that the cache took on."""
        try:
            self._requests[result].inc()
        except Exception:  # noqa: BLE001 # a fault in counting must not become a fault of the request
            _log.exception("a request was not counted")

    def record_bypass(self, reason: BypassReason) -> None:
        """Counts one request that the cache let through."""
        try:
            self._bypasses[reason].inc()
        except Exception:  # noqa: BLE001 # as above
            _log.exception("a request was not counted")

    def record_answer(self, not_stored: NotStored | None) -> None:
        """Counts one complete answer, stored unless there is a reason."""
        try:
            self._answers[STORED if not_stored is None else not_stored.value].inc()
        except Exception:  # noqa: BLE001 # as above
            _log.exception("an answer was not counted")


class _LiveCounts(Collector):
    def __init__(self, counts: StoreCounts, num_flights: Callable[[], int]) -> None:
        self._counts = counts
        self._num_flights = num_flights

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        counts = self._counts
        yield CounterMetricFamily(
            names.CACHE_EVICTIONS, "Entries that made room before their time.", value=counts.num_evicted
        )
        yield CounterMetricFamily(
            names.CACHE_STORE_FAILURES, "Calls that found the store down or damaged.", value=counts.num_failed
        )
        yield GaugeMetricFamily(
            names.CACHE_FLIGHTS, "Engine calls under way that may be shared.", value=self._num_flights()
        )
        if counts.num_bytes is not None and counts.num_entries is not None:
            yield GaugeMetricFamily(names.CACHE_BYTES, "Bytes of the stored answers.", value=counts.num_bytes)
            yield GaugeMetricFamily(names.CACHE_ENTRIES, "Stored answers.", value=counts.num_entries)
