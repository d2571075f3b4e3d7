"""Measures variants, each on a real worker of its own: start-up, speed under load, memory, then quality.

What the store already has, for the same variant, target, protocol and machine, is not measured again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.prepare import BuiltVariants, Surroundings
from lightship.cli.worker_settings import openvino_settings
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.performance.protocol import (
    QUICK,
    PerformanceProtocol,
    measure_performance,
    performance_measurements,
)
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.quality.protocol import (
    PAIRED_METRICS,
    SELF_METRICS,
    QualityProtocol,
    measure_quality,
    quality_measurements,
)
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.evaluation.quality.stored_scores import decode_scores, encode_scores
from lightship.evaluation.quality.texts import TextSet, builtin_texts, load_texts
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

STARTUP_PROTOCOL = "spawn-to-first-token-1"
MEMORY_PROTOCOL = "peak-rss-after-load-1"
_QUALITY = QualityProtocol()
_FIRST_TOKEN_TIMEOUT_S = 60.0
# Loading is bounded by the disk; half of a slow one's speed, plus time for imports and graph compilation.
_STARTUP_BASE_S = 60.0
_STARTUP_BYTES_PER_S = 50e6


def startup_budget_s(variant: Variant) -> float:
    """How long a worker of this variant may take to become ready."""
    return _STARTUP_BASE_S + variant.manifest.num_bytes / _STARTUP_BYTES_PER_S


@dataclass(frozen=True)
class Protocols:
    """The procedures of one run, from which the names of its figures follow."""

    performance: PerformanceProtocol
    quality: QualityProtocol
    texts: TextSet
    slo: Slo

    def wanted(self, variant: Variant, reference: Variant) -> Iterator[tuple[Metric, int, str]]:
        """Metric, concurrency and protocol name of every figure a variant must have."""
        yield Metric.STARTUP_S, 0, STARTUP_PROTOCOL
        yield Metric.PEAK_RSS_BYTES, 0, MEMORY_PROTOCOL
        for concurrency in self.performance.concurrencies:
            yield Metric.DECODE_TOKENS_PER_S, concurrency, self.performance.name
            yield Metric.GOODPUT_REQUESTS_PER_S, concurrency, self.performance.goodput_name(self.slo)
        is_reference = variant.manifest.digest == reference.manifest.digest
        for metric in SELF_METRICS if is_reference else (*SELF_METRICS, *PAIRED_METRICS):
            yield metric, 0, self.quality.name(metric, self.texts)


def choose_protocols(spec: Spec, reference: Variant) -> Protocols:
    """The quick protocol, fitted to the model's context and the texts the spec names.

    Raises: MeasurementError: the texts cannot be read.
    """
    texts = builtin_texts() if spec.quality.text == "builtin" else load_texts(Path(spec.quality.text))
    context_length = reference.manifest.context_length
    quality = replace(
        _QUALITY,
        window_tokens=min(_QUALITY.window_tokens, context_length - 1),
        num_documents=min(_QUALITY.num_documents, len(texts.documents)),
    )
    performance = replace(QUICK, concurrencies=spec.measurement.concurrencies)
    return Protocols(performance, quality, texts, Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms))


class Measurer:
    """Measures the variants of one spec on this machine.

    Effects of its methods: start workers, load both cores, append to the store of measurements.
    """

    def __init__(
        self, spec: Spec, built: BuiltVariants, store: MeasurementStore, machine: Machine, around: Surroundings
    ) -> None:
        self._spec = spec
        self._built = built
        self._store = store
        self._machine = machine
        self._around = around
        self._adapter = OpenVinoAdapter()
        self.protocols = choose_protocols(spec, built.reference)

    def target(self, variant: Variant) -> Target:
        """Where this variant is measured, and will be served."""
        return self._adapter.target(openvino_settings(self._spec, variant))

    def known(self, variant: Variant) -> list[Measurement]:
        """The stored figures that count for this spec: same target, machine, protocols and reference."""
        wanted = set(self.protocols.wanted(variant, self._built.reference))
        loads = {(concurrency, protocol) for _, concurrency, protocol in wanted if concurrency}
        accompanying = {Metric.TTFT_MS, Metric.TPOT_MS, Metric.SLO_ATTAINMENT}  # of the same runs as the speeds
        found = self._store.find(variant_digest=variant.manifest.digest, target=self.target(variant))
        return [
            m
            for m in found
            if m.machine == self._machine.fingerprint
            and m.reference_digest in {None, self._built.reference.manifest.digest}
            and (
                (m.metric, m.concurrency, _plain(m.protocol)) in wanted
                or (m.metric in accompanying and (m.concurrency, _plain(m.protocol)) in loads)
            )
        ]

    def is_measured(self, variant: Variant) -> bool:
        """Whether every figure this spec needs is there."""
        have = {(m.metric, m.concurrency, _plain(m.protocol)) for m in self.known(variant)}
        is_reference = variant.manifest.digest == self._built.reference.manifest.digest
        scores_are_there = not is_reference or self._scores_path(variant).exists()
        return scores_are_there and set(self.protocols.wanted(variant, self._built.reference)) <= have

    async def measure_missing(self, *, is_forced: bool = False) -> int:
        """Measures what has no figures yet (or everything, if forced), the reference first; how many that were.

        Raises: EngineError, MeasurementError.
        """
        order: Sequence[Variant] = sorted(
            self._built.variants, key=lambda v: v.manifest.digest != self._built.reference.manifest.digest
        )
        missing = [variant for variant in order if is_forced or not self.is_measured(variant)]
        for variant in missing:
            await self._measure(variant)
        return len(missing)

    async def _measure(self, variant: Variant) -> None:
        self._around.store.verify(variant)
        async with self._worker(variant) as (worker, startup_s):
            base = self._base(variant)
            figures = [base(Metric.STARTUP_S, startup_s, STARTUP_PROTOCOL)]
            performance = await measure_performance(
                worker.base_url,
                self._spec.model.name,
                self.protocols.performance,
                self.protocols.slo,
                self._around.clock,
                texts=[document.scored_text for document in self.protocols.texts.documents],
                progress=_Titled(self._around, f"speed of {variant.manifest.name}"),
            )
            figures += performance_measurements(
                performance,
                variant_digest=variant.manifest.digest,
                target=self.target(variant),
                machine=self._machine.fingerprint,
                measured_unix_s=self._around.clock.unix_s(),
            )
            # Before quality: scoring prompts loads a second copy of the weights that serving does not need.
            figures.append(base(Metric.PEAK_RSS_BYTES, worker.peak_rss_bytes(), MEMORY_PROTOCOL))
            figures += await self._quality(variant, worker)
        self._store.append(figures)

    async def _quality(self, variant: Variant, worker: WorkerProcess) -> list[Measurement]:
        reference = self._built.reference
        is_reference = variant.manifest.digest == reference.manifest.digest
        with self._around.progress.task(f"quality of {variant.manifest.name}") as task:
            async with aiohttp.ClientSession() as session:
                endpoint = CompletionEndpoint(worker.base_url, model=self._spec.model.name, session=session)
                result = await measure_quality(
                    endpoint,
                    protocol=self.protocols.quality,
                    texts=self.protocols.texts,
                    reference=None if is_reference else self._reference_scores(),
                    task=task,
                )
        if is_reference:
            self._keep_scores(variant, result.scores)
        return quality_measurements(
            result,
            variant_digest=variant.manifest.digest,
            target=self.target(variant),
            machine=self._machine.fingerprint,
            measured_unix_s=self._around.clock.unix_s(),
            reference_digest=None if is_reference else reference.manifest.digest,
        )

    @asynccontextmanager
    async def _worker(self, variant: Variant) -> Any:
        """A running worker and the seconds from its start to its first token."""
        settings = openvino_settings(self._spec, variant, port=free_port())
        name = f"{variant.manifest.name}-{variant.manifest.short_digest}"
        config_path = self._around.home / "run" / f"measure-{name}.json"
        config_path.parent.mkdir(parents=True, exist_ok=True)
        self._adapter.write_config(settings, config_path)
        worker = WorkerProcess(
            name=name,
            command=self._adapter.worker_command(config_path),
            base_url=settings.address,
            log_path=self._around.logs / f"measure-{name}.log",
        )
        started_s = self._around.clock.monotonic_s()
        try:
            with self._around.progress.task(f"starting {variant.manifest.name}"):
                await worker.start(startup_timeout_s=startup_budget_s(variant))
                await _first_token(worker.base_url, self._spec.model.name)
            yield worker, self._around.clock.monotonic_s() - started_s
        finally:
            await worker.stop(drain_timeout_s=5.0)
            config_path.unlink(missing_ok=True)

    def _base(self, variant: Variant) -> Any:
        def figure(metric: Metric, value: float, protocol: str) -> Measurement:
            return Measurement(
                metric=metric,
                value=value,
                variant_digest=variant.manifest.digest,
                target=self.target(variant),
                protocol=protocol,
                num_items=1,
                interval=None,
                measured_unix_s=self._around.clock.unix_s(),
                machine=self._machine.fingerprint,
            )

        return figure

    def _scores_path(self, reference: Variant) -> Path:
        name = self.protocols.quality.name(Metric.KL_NATS, self.protocols.texts)
        target = msgspec.json.encode(self.target(reference), order="deterministic").decode()
        key = hashlib.sha256(f"{reference.manifest.digest}|{target}|{name}".encode()).hexdigest()[:24]
        return self._around.home / "scores" / f"{key}.bin"

    def _keep_scores(self, reference: Variant, scores: DocumentScores) -> None:
        path = self._scores_path(reference)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(encode_scores(scores))
        partial.replace(path)

    def _reference_scores(self) -> DocumentScores:
        return decode_scores(self._scores_path(self._built.reference).read_bytes())


async def _first_token(base_url: str, model: str) -> None:
    """Asks for one token, so that start-up counts until a user would see something."""
    timeout = aiohttp.ClientTimeout(total=_FIRST_TOKEN_TIMEOUT_S)
    body = {"model": model, "prompt": "Once", "max_tokens": 1, "temperature": 0}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{base_url}/v1/completions", json=body) as reply,
    ):
        if reply.status != 200:
            raise EngineError(f"the first request failed: {(await reply.text())[:300]}", where=base_url)


class _Titled:
    """Progress that opens its tasks under another title."""

    def __init__(self, around: Surroundings, title: str) -> None:
        self._around = around
        self._title = title

    def task(self, title: str) -> Any:
        """See `ports.progress.Progress`."""
        del title
        return self._around.progress.task(self._title)


def _plain(protocol: str) -> str:
    """Protocol name without the mark of endpoints that refuse `ignore_eos`."""
    return protocol.removesuffix("/free-length")
