"""Our record in the shape of the harness's results file, for tools that read those, with what the harness lacks beside.

    results, configs, versions, n-shot, higher_is_better, n-samples, config, date     as the harness has them
    variant, baseline, paired, quality, perf, memory, cost, gate                      ours; only those that are known

Pure. Standard errors are those of the harness (of a mean over independent items); the intervals under `paired` are the
ones to decide by.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lightship import __version__
from lightship.evaluation.comparison import TaskComparison
from lightship.evaluation.record import EvaluationRecord, Subject
from lightship.evaluation.tasks.results import TaskRun
from lightship.ports.measurements import Measurement, Metric

SCHEMA_VERSION = 1
# Every metric has one section; what is in none of these is about the quality of text.
SECTIONS: dict[str, frozenset[Metric]] = {
    "quality": frozenset(
        {
            Metric.BITS_PER_BYTE, Metric.PERPLEXITY, Metric.KL_NATS, Metric.TOP1_AGREEMENT, Metric.QUALITY_RECOVERY,
            Metric.GREEDY_AGREEMENT,
        }
    ),
    "perf": frozenset(
        {
            Metric.DECODE_TOKENS_PER_S, Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT, Metric.TTFT_MS,
            Metric.TPOT_MS, Metric.STARTUP_S, Metric.DRAFT_SPEEDUP,
        }
    ),
    "memory": frozenset(
        {
            Metric.PEAK_RSS_BYTES, Metric.PEAK_GPU_BYTES, Metric.ESTIMATED_MEMORY_BYTES, Metric.KV_BYTES_PER_TOKEN,
            Metric.WEIGHT_BITS_PER_PARAMETER,
        }
    ),
    "cost": frozenset(
        {
            Metric.COST_USD_PER_1M_OUTPUT_TOKENS, Metric.COST_USD_PER_1M_GOOD_TOKENS,
            Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS, Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS,
            Metric.ENERGY_J_PER_OUTPUT_TOKEN,
        }
    ),
}  # fmt: skip


def lm_eval_results(
    record: EvaluationRecord,
    *,
    baseline: Subject | None = None,
    paired: Sequence[TaskComparison] = (),
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record as a dictionary that JSON can hold (no NaN, no infinities).

    Args:
        record: What is exported.
        baseline: What it was compared with.
        paired: The comparisons of its tasks with the baseline's.
        gate: A gate report, as it is written to JSON.
    """
    runs = record.tasks
    shared = {
        "results": {run.task: _figures(run) for run in runs},
        "group_subtasks": {},
        "configs": {run.task: {"task": run.task, "output_type": run.kind, "protocol": run.protocol} for run in runs},
        "versions": {run.task: _version(run) for run in runs},
        "n-shot": {run.task: _num_shots(run) for run in runs},
        "higher_is_better": {run.task: dict.fromkeys(_metric_names(run), True) for run in runs},
        "n-samples": {run.task: {"original": len(run.items), "effective": len(run.items)} for run in runs},
        "config": {"model": "lightship", "model_args": {"model": record.subject.model}},
        "date": record.created_unix_s,
        "model_name": record.subject.name,
        "lightship": {"version": __version__, "schema_version": SCHEMA_VERSION, "machine": record.machine},
        "variant": asdict(record.subject),
    }
    ours = {
        "baseline": None if baseline is None else asdict(baseline),
        "paired": [asdict(comparison) for comparison in paired],
        **{name: _section(record.measurements, metrics) for name, metrics in SECTIONS.items()},
        "gate": None if gate is None else dict(gate),
    }
    exported: dict[str, Any] = _finite({**shared, **{key: value for key, value in ours.items() if value}})
    return exported


def _figures(run: TaskRun) -> dict[str, Any]:
    figures: dict[str, Any] = {"alias": run.task, "sample_len": len(run.items)}
    for metric in run.metrics:
        name, filter_name = _parts(metric)
        values = run.values(metric)
        figures[f"{name},{filter_name}"] = statistics.fmean(values)
        # as the harness writes it where one item gives no spread
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
        figures[f"{name}_stderr,{filter_name}"] = spread
    return figures


def _metric_names(run: TaskRun) -> list[str]:
    return list(dict.fromkeys(_parts(metric)[0] for metric in run.metrics))


def _parts(metric: str) -> tuple[str, str]:
    """Name and filter; ours have no filter, those read from the harness may."""
    name, _, filter_name = metric.partition(",")
    return name, filter_name or "none"


def _version(run: TaskRun) -> str:
    """What the protocol says of the task's version: `.../v1.0/...` of the harness, `.../NAME:1a2b3c4d/...` of ours."""
    parts = run.protocol.split("/")
    named = [part[1:] for part in parts if part[:1] == "v" and part[1:2].isdigit()]
    digests = [part.partition(":")[2] for part in parts if ":" in part]
    return next(iter(named + digests), "")


def _num_shots(run: TaskRun) -> int:
    found = [part.removeprefix("shots=") for part in run.protocol.split("/") if part.startswith("shots=")]
    return int(found[0]) if found and found[0].isdecimal() else 0


def _section(measurements: Sequence[Measurement], metrics: frozenset[Metric]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in asdict(measurement).items() if value is not None and value != {}}
        for measurement in measurements
        if measurement.metric in metrics
    ]


def _finite(value: Any) -> Any:
    """The value with None for numbers JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
