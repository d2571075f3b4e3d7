"""Measures variants, each on a real worker of its own: start-up, speed under load, memory, then quality.

What the store already has, for the same variant, target, protocol and machine, is not measured again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.texts import TextSet
from lightship.cli.compression_texts import evaluated_texts
from lightship.cli.draft_trial import TrialProtocol, draft_refusal, hold_trial, uses_draft
from lightship.cli.prepare import BuiltVariants, Surroundings
from lightship.cli.resources import energy_meter
from lightship.cli.variant_worker import StartedWorker, started_worker
from lightship.cli.worker_setup import scoring_endpoint, worker_setup
from lightship.evaluation.energy_per_load import EnergyPerLoad, energy_figures
from lightship.evaluation.performance.protocol import (
    PROTOCOLS,
    PerformanceProtocol,
    measure_performance,
    performance_measurements,
)
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.performance.repeats import combine_runs
from lightship.evaluation.quality.protocol import (
    PAIRED_METRICS,
    SELF_METRICS,
    QualityProtocol,
    measure_quality,
    quality_measurements,
)
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.evaluation.quality.stored_scores import decode_scores, encode_scores
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

_QUALITY = QualityProtocol()


@dataclass(frozen=True)
class Protocols:
    """The procedures of one run, from which the names of its figures follow."""

    performance: PerformanceProtocol
    quality: QualityProtocol
    texts: TextSet
    slo: Slo
    trial: TrialProtocol

    @property
    def startup_name(self) -> str:
        """Protocol of the start-up time."""
        return f"spawn-to-first-token-1/{self.performance.num_runs}x"

    @property
    def memory_name(self) -> str:
        """Protocol of the peak memory, which depends on the load before it."""
        return f"peak-rss-after-load-1/{self.performance.name}"

    def wanted(self, *, is_reference: bool) -> Iterator[tuple[Metric, int, str]]:
        """Metric, concurrency and protocol name of every figure a variant must have."""
        yield from self.wanted_of_speed()
        yield from self.wanted_of_quality(is_reference=is_reference)

    def wanted_of_speed(self) -> Iterator[tuple[Metric, int, str]]:
        """Those that a run under load gives."""
        yield Metric.STARTUP_S, 0, self.startup_name
        yield Metric.PEAK_RSS_BYTES, 0, self.memory_name
        for concurrency in self.performance.concurrencies:
            yield Metric.DECODE_TOKENS_PER_S, concurrency, self.performance.name
            yield Metric.GOODPUT_REQUESTS_PER_S, concurrency, self.performance.goodput_name(self.slo)

    def wanted_of_quality(self, *, is_reference: bool) -> Iterator[tuple[Metric, int, str]]:
        """Those that scoring texts gives; the reference is not paired with itself."""
        for metric in SELF_METRICS if is_reference else (*SELF_METRICS, *PAIRED_METRICS):
            yield metric, 0, self.quality.name(metric, self.texts)


def choose_protocols(spec: Spec, reference: Variant) -> Protocols:
    """The protocols that the spec names, fitted to the model's context and the texts the spec names.

    Raises: MeasurementError: the texts cannot be read.
    """
    texts = evaluated_texts(spec)
    context_length = reference.manifest.context_length
    quality = replace(
        _QUALITY,
        window_tokens=min(_QUALITY.window_tokens, context_length - 1),
        num_documents=min(_QUALITY.num_documents, len(texts.documents)),
    )
    performance = replace(PROTOCOLS[spec.measurement.protocol], concurrencies=spec.measurement.concurrencies)
    slo = Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms)
    trial = TrialProtocol(spec.measurement.target_concurrency, performance.num_runs)
    return Protocols(performance, quality, texts, slo, trial)


class Measurer:
    """Measures the variants of one spec on this machine.

    Args:
        reference_target: Where the reference's scores are from; by default where the spec has it run.

    Effects of its methods: start workers, load both cores, append to the store of measurements.
    """

    def __init__(
        self,
        spec: Spec,
        built: BuiltVariants,
        store: MeasurementStore,
        machine: Machine,
        around: Surroundings,
        *,
        reference_target: Target | None = None,
    ) -> None:
        self._spec = spec
        self._built = built
        self._store = store
        self._machine = machine
        self._around = around
        self._reference_target = reference_target or self.target(built.reference)
        self.protocols = choose_protocols(spec, built.reference)

    def target(self, variant: Variant) -> Target:
        """Where this variant is measured, and will be served."""
        return worker_setup(self._spec, variant, self._around).target

    def known(self, variant: Variant) -> list[Measurement]:
        """The stored figures that count for this spec: same target, machine, protocols and reference."""
        wanted = set(self.protocols.wanted(is_reference=self._is_reference(variant))) | set(self._trial_wanted(variant))
        loads = {(concurrency, protocol) for _, concurrency, protocol in wanted if concurrency}
        accompanying = {
            Metric.TTFT_MS,
            Metric.TPOT_MS,
            Metric.SLO_ATTAINMENT,
            Metric.ENERGY_J_PER_OUTPUT_TOKEN,
        }  # of the same runs as the speeds
        return [
            m
            for m in self.on_this_machine(variant)
            if m.reference_digest in {None, self._built.reference.manifest.digest}
            and (
                (m.metric, m.concurrency, _plain(m.protocol)) in wanted
                or (m.metric in accompanying and (m.concurrency, _plain(m.protocol)) in loads)
            )
        ]

    def on_this_machine(self, variant: Variant) -> list[Measurement]:
        """Every stored figure of the variant on its target here, whatever the protocol."""
        return self._store.find(
            variant_digest=variant.manifest.digest, target=self.target(variant), machine=self._machine.fingerprint
        )

    def is_measured(self, variant: Variant) -> bool:
        """Whether every figure this spec needs is there."""
        return self._has_speed(variant) and self._has_quality(variant) and self._has_trial(variant)

    def _has_speed(self, variant: Variant) -> bool:
        return set(self.protocols.wanted_of_speed()) <= self._have(variant)

    def _has_trial(self, variant: Variant) -> bool:
        return set(self._trial_wanted(variant)) <= self._have(variant)

    def _trial_wanted(self, variant: Variant) -> Iterable[tuple[Metric, int, str]]:
        return self.protocols.trial.wanted() if uses_draft(self._spec, variant) else ()

    def _has_quality(self, variant: Variant) -> bool:
        is_reference = self._is_reference(variant)
        if is_reference and not self._scores_path().exists():
            return False
        return set(self.protocols.wanted_of_quality(is_reference=is_reference)) <= self._have(variant)

    def _have(self, variant: Variant) -> set[tuple[Metric, int, str]]:
        return {(m.metric, m.concurrency, _plain(m.protocol)) for m in self.known(variant)}

    async def measure_missing(
        self,
        *,
        is_forced: bool = False,
        only: Variant | None = None,
        with_speed: bool = True,
        with_quality: bool = True,
    ) -> int:
        """Measures what has no figures yet (or everything, if forced), the reference first; how many that were.

        Args:
            is_forced: Measure again what has figures.
            only: Leave out all others; the reference must have its scores already where it is compared with.
            with_speed: Whether start-up, speed and memory are wanted, and the trial of a speculative draft.
            with_quality: Whether the prediction of texts is.

        Speed is measured in several rounds over the variants, so that a slow spell of the machine falls on all of
        them; quality, which does not depend on the time of day, once.

        Raises: EngineError, MeasurementError.
        """
        order: Sequence[Variant] = sorted(
            [v for v in self._built.variants if only is None or v == only],
            key=lambda v: v.manifest.digest != self._built.reference.manifest.digest,
        )
        slow = [variant for variant in order if with_speed and (is_forced or not self._has_speed(variant))]
        unscored = [variant for variant in order if with_quality and (is_forced or not self._has_quality(variant))]
        runs: dict[str, list[list[Measurement]]] = {variant.manifest.digest: [] for variant in slow}
        num_runs = self.protocols.performance.num_runs
        for run in range(num_runs if slow else 1):
            for variant in order:
                wants_speed, wants_quality = variant in slow, run == 0 and variant in unscored
                if wants_speed or wants_quality:
                    async with started_worker(self._spec, variant, self._around) as worker:
                        if wants_speed:
                            runs[variant.manifest.digest].append(await self._speed(variant, worker, run=run))
                        if wants_quality:
                            self._store.append(await self._quality(variant, worker))
        for variant in slow:
            self._store.append(combine_runs(runs[variant.manifest.digest]))
        untried = [variant for variant in order if with_speed and (is_forced or not self._has_trial(variant))]
        for variant in untried:
            self._store.append(await self._trial(variant))
        return sum(variant in slow or variant in unscored or variant in untried for variant in order)

    async def _trial(self, variant: Variant) -> list[Measurement]:
        """Of the variant's draft; nothing for one without."""
        if not uses_draft(self._spec, variant):
            return []
        texts = [document.scored_text for document in self.protocols.texts.documents]
        return await hold_trial(
            self._spec, variant, self._around, self._machine, protocol=self.protocols.trial, texts=texts
        )

    def draft_refusal(self, variant: Variant) -> str | None:
        """Why the variant's draft is not worth serving, as a sentence; None where it is, or there is none."""
        precision = self._spec.engines.vllm.precision if self._spec.engines.vllm else "auto"
        return draft_refusal(self.known(variant), is_16_bit=precision != "f32")

    async def _speed(self, variant: Variant, worker: StartedWorker, *, run: int) -> list[Measurement]:
        """Start-up, speed under load and peak memory of one run.

        Memory is read before anything is scored: scoring prompts loads a second copy of the weights that serving does
        not need.
        """
        self._around.store.verify(variant)
        num_runs = self.protocols.performance.num_runs
        title = f"speed of {variant.manifest.name}" + (f", run {run + 1} of {num_runs}" if num_runs > 1 else "")
        target = self.target(variant)
        with energy_meter(target.device, self._around.clock) as meter:
            metered = EnergyPerLoad(_Titled(self._around, title), meter)
            performance = await measure_performance(
                worker.base_url,
                self._spec.model.name,
                replace(self.protocols.performance, seed=run),
                self.protocols.slo,
                self._around.clock,
                texts=[document.scored_text for document in self.protocols.texts.documents],
                progress=metered,
            )
        speeds = performance_measurements(
            performance,
            variant_digest=variant.manifest.digest,
            target=target,
            machine=self._machine.fingerprint,
            measured_unix_s=self._around.clock.unix_s(),
        )
        base = self._base(variant)
        return [
            base(Metric.STARTUP_S, worker.startup_s, self.protocols.startup_name),
            *speeds,
            *energy_figures(speeds, metered.readings, self.protocols.performance.concurrencies).measurements,
            base(Metric.PEAK_RSS_BYTES, worker.process.peak_rss_bytes(), self.protocols.memory_name),
        ]

    async def _quality(self, variant: Variant, worker: StartedWorker) -> list[Measurement]:
        reference = self._built.reference
        is_reference = self._is_reference(variant)
        with self._around.progress.task(f"quality of {variant.manifest.name}") as task:
            async with aiohttp.ClientSession() as session:
                engine, model = worker.setup.adapter.name, self._spec.model.name
                endpoint = scoring_endpoint(engine, worker.base_url, model=model, session=session)
                result = await measure_quality(
                    endpoint,
                    protocol=self.protocols.quality,
                    texts=self.protocols.texts,
                    reference=None if is_reference else self._reference_scores(),
                    task=task,
                )
        if is_reference:
            self._keep_scores(result.scores)
        return quality_measurements(
            result,
            variant_digest=variant.manifest.digest,
            target=self.target(variant),
            machine=self._machine.fingerprint,
            measured_unix_s=self._around.clock.unix_s(),
            reference_digest=None if is_reference else reference.manifest.digest,
        )

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

    def _is_reference(self, variant: Variant) -> bool:
        """With other settings the same variant competes with itself."""
        is_same = variant.manifest.digest == self._built.reference.manifest.digest
        return is_same and self.target(variant) == self._reference_target

    def _scores_path(self) -> Path:
        name = self.protocols.quality.name(Metric.KL_NATS, self.protocols.texts)
        target = msgspec.json.encode(self._reference_target, order="deterministic").decode()
        key = hashlib.sha256(f"{self._built.reference.manifest.digest}|{target}|{name}".encode()).hexdigest()[:24]
        return self._around.home / "scores" / f"{key}.bin"

    def _keep_scores(self, scores: DocumentScores) -> None:
        path = self._scores_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(encode_scores(scores))
        partial.replace(path)

    def _reference_scores(self) -> DocumentScores:
        return decode_scores(self._scores_path().read_bytes())


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
