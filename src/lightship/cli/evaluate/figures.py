"""Figures of a subject that can be asked: text quality, paired with a baseline's scores, and speed in several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import aiohttp

from lightship.artifacts.machine import Machine
from lightship.artifacts.texts import TextSet
from lightship.cli.open_subject import Reachable
from lightship.cli.prepare import Surroundings
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.performance.protocol import (
    PerformanceProtocol,
    measure_performance,
    performance_measurements,
)
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.quality.protocol import QualityProtocol, measure_quality, quality_measurements
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.ports.measurements import Measurement, Metric


@dataclass(frozen=True)
class Baseline:
    """What paired figures are paired with: the baseline's scores and the digest they are filed under."""

    scores: DocumentScores
    variant_digest: str


@dataclass(frozen=True)
class FigureTaker:
    """Takes figures of reachable subjects under fixed protocols.

    Effects of its methods: loads the subject's endpoint.
    """

    machine: Machine
    around: Surroundings

    async def text_quality(
        self, subject: Reachable, *, protocol: QualityProtocol, texts: TextSet, baseline: Baseline | None
    ) -> tuple[list[Measurement], DocumentScores]:
        """Bits/byte and perplexity, and with a baseline recovery, KL divergence and top-1 agreement.

        Raises: MeasurementError: the endpoint returns no real prompt log-probabilities, a number is not finite, or the
            baseline was scored on something else. NetworkError.
        """
        with self.around.progress.task(f"text quality of {subject.name}") as task:
            async with aiohttp.ClientSession(headers=dict(subject.headers)) as session:
                result = await measure_quality(
                    CompletionEndpoint(subject.base_url, model=subject.model, session=session),
                    protocol=protocol,
                    texts=texts,
                    reference=baseline.scores if baseline else None,
                    task=task,
                )
        figures = quality_measurements(
            result,
            variant_digest=subject.variant_digest,
            target=subject.target,
            machine=self.machine.fingerprint,
            measured_unix_s=self.around.clock.unix_s(),
            reference_digest=baseline.variant_digest if baseline else None,
        )
        return figures, result.scores

    async def speed(
        self, subject: Reachable, *, protocol: PerformanceProtocol, slo: Slo, texts: Sequence[str], run: int
    ) -> list[Measurement]:
        """Latency, throughput and goodput of one run; start-up and memory too where the worker is ours.

        Raises: MeasurementError: the endpoint cannot be measured.
        """
        result = await measure_performance(
            subject.base_url,
            subject.model,
            replace(protocol, seed=run),
            slo,
            self.around.clock,
            texts=texts,
            headers=dict(subject.headers) or None,
            progress=self.around.progress,
        )
        figures = performance_measurements(
            result,
            variant_digest=subject.variant_digest,
            target=subject.target,
            machine=self.machine.fingerprint,
            measured_unix_s=self.around.clock.unix_s(),
        )
        if subject.worker is not None:
            memory_bytes = float(subject.worker.process.peak_rss_bytes())
            figures.append(
                self._of_worker(subject, Metric.STARTUP_S, subject.worker.startup_s, "spawn-to-first-token-1")
            )
            figures.append(
                self._of_worker(subject, Metric.PEAK_RSS_BYTES, memory_bytes, f"peak-rss-after-load-1/{protocol.name}")
            )
        return figures

    def _of_worker(self, subject: Reachable, metric: Metric, value: float, protocol: str) -> Measurement:
        return Measurement(
            metric=metric,
            value=value,
            variant_digest=subject.variant_digest,
            target=subject.target,
            protocol=protocol,
            num_items=1,
            interval=None,
            measured_unix_s=self.around.clock.unix_s(),
            machine=self.machine.fingerprint,
        )
