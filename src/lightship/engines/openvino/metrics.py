"""The worker's metrics, in a registry of its own; gauges are read from the worker when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightship.engines.memory import peak_resident_bytes
from lightship.engines.openvino.generator import PipelineLoad
from lightship.engines.openvino.scoring import ScorerCost
from lightship.observability import names
from lightship.ports.engine import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class WorkerMetrics:
    """Counters and gauges of one worker."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        model_label = [names.LABEL_MODEL]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, model_label, registry=self._registry).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, model_label, registry=self._registry).labels(model_name)

        self.prompt_tokens = counter(names.ENGINE_PROMPT_TOKENS, "Prompt tokens taken")
        self.generation_tokens = counter(names.ENGINE_GENERATION_TOKENS, "Tokens generated for clients")
        self.time_to_first_token = Histogram(
            names.ENGINE_TTFT,
            "From the request's arrival to its first text",
            model_label,
            buckets=names.TTFT_BUCKETS_S,
            registry=self._registry,
        ).labels(model_name)
        self._requests = Counter(
            names.ENGINE_REQUESTS,
            "Requests by how they ended",
            [names.LABEL_MODEL, names.LABEL_OUTCOME],
            registry=self._registry,
        )
        self._model_name = model_name
        self._running = gauge(names.ENGINE_RUNNING, "Sequences in the last step")
        self._waiting = gauge(names.ENGINE_WAITING, "Sequences waiting for a step")
        self._kv_usage = gauge(names.ENGINE_KV_USAGE, "Share of the KV cache in use")
        self._kv_bytes = gauge(names.ENGINE_KV_BYTES, "Memory of the KV cache")
        self._peak_rss = gauge(names.ENGINE_PEAK_RSS, "Peak resident memory of the worker's processes")
        self._scorer_load = gauge(names.ENGINE_SCORER_LOAD, "Time the scorer took to load, 0 while it is not loaded")
        self._scorer_memory = gauge(names.ENGINE_SCORER_MEMORY, "Resident memory the scorer's load added")
        for outcome in Outcome:
            self._requests.labels(model_name, outcome.value)

    def count_request(self, outcome: Outcome) -> None:
        """Counts one request; exactly once for each."""
        self._requests.labels(self._model_name, outcome.value).inc()

    def render(self, *, load: PipelineLoad, scorer: ScorerCost, process_ids: Iterable[int]) -> bytes:
        """All metrics in Prometheus' text format."""
        self._running.set(load.num_running)
        self._waiting.set(load.num_waiting)
        self._kv_usage.set(load.kv_usage)
        self._kv_bytes.set(load.kv_cache_bytes)
        self._scorer_load.set(scorer.load_s)
        self._scorer_memory.set(scorer.memory_bytes)
        self._peak_rss.set(sum(peak_resident_bytes(process_id) for process_id in process_ids))
        return generate_latest(self._registry)
