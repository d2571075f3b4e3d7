"""Runs what `bench_plan` planned: one load or a search over loads, then the files and the table."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import uvloop

from lightship.artifacts.home import measurement_path
from lightship.artifacts.machine import machine_fingerprint, this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.texts import load_texts
from lightship.cli.bench_plan import BenchPlan, plan_bench
from lightship.cli.bench_table import print_bench
from lightship.cli.load_spec import load_spec
from lightship.cli.model_commands import require_local_extra
from lightship.cli.open_subject import SubjectOpener, build_named
from lightship.cli.prepare import Surroundings, surroundings
from lightship.cli.subjects import (
    EndpointSubject,
    RecordSubject,
    Subject,
    VariantSubject,
    parse_subject,
)
from lightship.errors import UsageError
from lightship.evaluation.performance.load_files import (
    LoadRecord,
    encode_document,
    load_document,
    vllm_document,
    write_document,
)
from lightship.evaluation.performance.load_result import LoadResult
from lightship.evaluation.performance.open_loop_protocol import (
    OpenLoopProtocol,
    measure_open_loop,
    open_loop_measurements,
)
from lightship.evaluation.performance.protocol import (
    PerformanceProtocol,
    measure_performance,
    performance_measurements,
)
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.search import NextRun, SearchResult, Trial, search_load
from lightship.evaluation.performance.traces import Trace
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import Clock
from lightship.ports.measurements import Measurement, Target
from lightship.ports.progress import Progress

# Short enough to be typed again, many enough that a worker has hardly seen one before.
_MAX_FRESH_SEED = 1_000_000


def run_bench(args: argparse.Namespace) -> int:
    """`lightship bench` with parsed arguments; returns the exit code.

    Effects: loads the endpoint, starts a worker where a variant is named and keeps its figures, writes the files asked
    for, prints. Lets this process open as many files as it may.
    """
    spec = load_spec(args).spec
    subject = _loadable(parse_subject(args.subject, default_model=args.model))
    is_variant = isinstance(subject, VariantSubject)
    plan = plan_bench(
        args,
        os.environ,
        url="" if isinstance(subject, VariantSubject) else subject.base_url,
        model=spec.model.name if isinstance(subject, VariantSubject) else subject.model,
        fresh_seed=secrets.randbelow(_MAX_FRESH_SEED),
        default_slo=Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms) if is_variant else NO_SLO,
    )
    documents = load_texts(plan.text).documents if plan.text is not None else builtin_texts().documents
    around = surroundings()
    variants = {}
    if isinstance(subject, VariantSubject):
        require_local_extra()
        variants = build_named(spec, [subject.name], around)
    opener = SubjectOpener(spec, variants, around, this_machine(), plan.headers)
    _allow_many_connections()
    # What is there now stays: the collector need not look at it while requests are timed.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        texts = [document.scored_text for document in documents]
        record, search = runner.run(_measured(plan, opener, subject, around, texts=texts))
    document = load_document(record, search=search)
    if plan.output is not None:
        write_document(document, plan.output)
    if plan.vllm_json is not None:
        write_document(vllm_document(record), plan.vllm_json)
    if args.json:
        sys.stdout.write(encode_document(document).decode())
    else:
        print_bench(record, search)
    return 0


def _loadable(subject: Subject) -> VariantSubject | EndpointSubject:
    if isinstance(subject, RecordSubject):
        hint = "Name an endpoint or a variant."
        raise UsageError("a record cannot be loaded", where=str(subject.path), hint=hint)
    return subject


async def _measured(
    plan: BenchPlan,
    opener: SubjectOpener,
    subject: VariantSubject | EndpointSubject,
    around: Surroundings,
    *,
    texts: Sequence[str],
) -> tuple[LoadRecord, SearchResult | None]:
    """The measurement; figures of a variant are appended to the store."""
    async with opener.open(subject) as reachable:
        bench = Bench(
            replace(plan, url=reachable.base_url),
            around.clock,
            texts=texts,
            progress=around.progress,
            filed_under=None if reachable.worker is None else (reachable.variant_digest, reachable.target),
        )
        found = await bench.run()
    MeasurementStore(measurement_path(around.home)).append(bench.measurements)
    return found


class Bench:
    """One measurement of one endpoint.

    Args:
        plan: What to do.
        clock: Time for schedules and records.
        texts: Where prompts are made from.
        progress: Told of every run.
        filed_under: Digest and target of the variant that is measured; None where nothing is to be kept.
    """

    def __init__(
        self,
        plan: BenchPlan,
        clock: Clock,
        *,
        texts: Sequence[str],
        progress: Progress,
        filed_under: tuple[str, Target] | None = None,
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._texts = texts
        self._progress = progress
        self._records: dict[float, LoadRecord] = {}
        self._filed_under = filed_under
        self.measurements: list[Measurement] = []

    async def run(self) -> tuple[LoadRecord, SearchResult | None]:
        """The run; or the last one at the best load of a search (at its lowest, where none was good enough).

        Raises: MeasurementError.
        """
        if self._plan.search is None:
            return await self._measured(self._plan.protocol), None
        search = await search_load(self._plan.search, self._trial, progress=self._progress)
        best = search.best.load if search.best is not None else min(self._records)
        return self._records[best], search

    async def _trial(self, step: NextRun, number: int) -> Trial:
        record = await self._measured(self._plan.at_load(step, number))
        self._records[step.load] = record
        return Trial(step.load, record.load.num_good, record.load.num_requests, step.duration_s)

    async def _measured(self, protocol: OpenLoopProtocol | PerformanceProtocol) -> LoadRecord:
        began_s, cpu_s = self._clock.monotonic_s(), time.process_time()
        measured_unix_s = self._clock.unix_s()
        if isinstance(protocol, OpenLoopProtocol):
            load, has_fixed_length, settings, lengths = await self._open(protocol)
        else:
            load, has_fixed_length, settings, lengths = await self._closed(protocol)
        wall_s = self._clock.monotonic_s() - began_s
        return LoadRecord(
            model=self._plan.model,
            url=self._plan.url,
            protocol=protocol.name,
            slo=self._plan.slo,
            load=load,
            has_fixed_length=has_fixed_length,
            measured_unix_s=measured_unix_s,
            machine=machine_fingerprint(),
            settings={**self._plan.settings, **settings, "seed": protocol.seed},
            lengths=lengths,
            client_cpu_share=(time.process_time() - cpu_s) / wall_s,
        )

    async def _open(self, protocol: OpenLoopProtocol) -> tuple[LoadResult, bool, dict[str, Any], dict[str, float]]:
        result = await measure_open_loop(
            self._plan.url,
            self._plan.model,
            protocol,
            self._plan.slo,
            self._clock,
            texts=self._texts,
            headers=dict(self._plan.headers),
            progress=self._progress,
        )
        if self._filed_under is not None:
            digest, target = self._filed_under
            self.measurements += open_loop_measurements(
                result,
                variant_digest=digest,
                target=target,
                machine=machine_fingerprint(),
                measured_unix_s=self._clock.unix_s(),
            )
        settings: dict[str, Any] = {"warmup_s": protocol.warmup_s, "drain_s": protocol.drain_s}
        if isinstance(protocol.workload, Trace):
            settings["trace_changes"] = asdict(protocol.workload.changes)
            settings["trace_name"] = protocol.workload.name
        lengths = {
            "wanted_prompt_tokens": result.wanted_prompt_tokens,
            "achieved_prompt_tokens": result.load.mean_prompt_tokens,
            "wanted_output_tokens": result.wanted_output_tokens,
            "achieved_output_tokens": result.load.mean_output_tokens,
        }
        return result.load, result.has_fixed_length, settings, lengths

    async def _closed(self, protocol: PerformanceProtocol) -> tuple[LoadResult, bool, dict[str, Any], dict[str, float]]:
        result = await measure_performance(
            self._plan.url,
            self._plan.model,
            protocol,
            self._plan.slo,
            self._clock,
            texts=self._texts,
            headers=dict(self._plan.headers),
            progress=self._progress,
        )
        if self._filed_under is not None:
            digest, target = self._filed_under
            self.measurements += performance_measurements(
                result,
                variant_digest=digest,
                target=target,
                machine=machine_fingerprint(),
                measured_unix_s=self._clock.unix_s(),
            )
        load = result.loads[0]
        lengths = {
            "wanted_prompt_tokens": float(protocol.num_prompt_tokens),
            "achieved_prompt_tokens": load.mean_prompt_tokens,
            "wanted_output_tokens": float(protocol.num_output_tokens),
            "achieved_output_tokens": load.mean_output_tokens,
        }
        return load, result.has_fixed_length, {}, lengths


def _allow_many_connections() -> None:
    """Raises the soft limit on open files to the hard one, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
