"""The simulated worker's metrics: those of every worker under their names, and the simulation's own honesty."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightship.engines.memory import peak_resident_bytes
from lightship.engines.simulated.faults import FaultKind
from lightship.engines.simulated.runner import Runner
from lightship.observability import names
from lightship.ports.engine import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LAG = "lightship_simulated_lag_seconds"
MAX_LAG = "lightship_simulated_max_lag_seconds"
STEPS = "lightship_simulated_steps"
PREEMPTIONS = "lightship_simulated_preemptions"
CACHED_TOKENS = "lightship_simulated_cached_prompt_tokens"
FAULTS = "lightship_simulated_faults"
LABEL_FAULT = "fault"


class SimulatedMetrics:
    """Counters and gauges of one worker, in a registry of its own."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._model_name = model_name
        model_label = [names.LABEL_MODEL]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, model_label, registry=self._registry).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, model_label, registry=self._registry).labels(model_name)

        self.prompt_tokens = counter(names.ENGINE_PROMPT_TOKENS, "Prompt tokens taken")
        self.generation_tokens = counter(names.ENGINE_GENERATION_TOKENS, "Tokens generated for clients")
        self.cached_tokens = counter(CACHED_TOKENS, "Prompt tokens found in the prefix cache")
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
        self._faults = Counter(FAULTS, "Faults on purpose", [names.LABEL_MODEL, LABEL_FAULT], registry=self._registry)
        self._running = gauge(names.ENGINE_RUNNING, "Sequences in the batch")
        self._waiting = gauge(names.ENGINE_WAITING, "Sequences waiting for a step")
        self._kv_usage = gauge(names.ENGINE_KV_USAGE, "Share of the KV cache in use")
        self._peak_rss = gauge(names.ENGINE_PEAK_RSS, "Peak resident memory of the worker")
        self._lag = gauge(LAG, "How late the last step ended by the clock; over 0.05 the machine is too slow")
        self._max_lag = gauge(MAX_LAG, "The greatest lag since the start")
        self._steps = gauge(STEPS, "Steps simulated since the start")
        self._preemptions = gauge(PREEMPTIONS, "Sequences that lost their KV cache to others")
        for outcome in Outcome:
            self._requests.labels(model_name, outcome.value)
        for kind in FaultKind:
            self._faults.labels(model_name, kind.value)

    def count_request(self, outcome: Outcome) -> None:
        """Counts one request; exactly once for each."""
        self._requests.labels(self._model_name, outcome.value).inc()

    def count_fault(self, kind: FaultKind) -> None:
        """Counts one fault on purpose."""
        self._faults.labels(self._model_name, kind.value).inc()

    def render(self, runner: Runner) -> bytes:
        """All metrics in Prometheus' text format."""
        self._running.set(runner.num_running)
        self._waiting.set(runner.num_waiting)
        self._kv_usage.set(runner.kv_usage)
        self._lag.set(runner.lag_s)
        self._max_lag.set(runner.max_lag_s)
        self._steps.set(runner.num_steps)
        self._preemptions.set(runner.num_preemptions)
        self._peak_rss.set(peak_resident_bytes(os.getpid()))
        return generate_latest(self._registry)
