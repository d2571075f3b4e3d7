"""What an evaluation must find out, from the options and the gates. Pure but for reading files that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lightship.artifacts.texts import TextSet, load_texts
from lightship.cli.evaluate.session import EvaluationPlan, SpeedPlan
from lightship.cli.load_tasks import refuse_same_names
from lightship.errors import UsageError
from lightship.evaluation.gates.gate_file import FigureGate, GateFile
from lightship.evaluation.performance.protocol import PROTOCOLS
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.quality.protocol import PAIRED_METRICS, SELF_METRICS, QualityProtocol
from lightship.evaluation.tasks.task import Task
from lightship.ports.measurements import Metric
from lightship.spec.document import Spec

QUALITY_METRICS = frozenset({*SELF_METRICS, *PAIRED_METRICS})
# What a run under load tells; start-up and memory only where the worker is ours.
SPEED_METRICS = frozenset(
    {
        Metric.DECODE_TOKENS_PER_S,
        Metric.GOODPUT_REQUESTS_PER_S,
        Metric.SLO_ATTAINMENT,
        Metric.TTFT_MS,
        Metric.TPOT_MS,
        Metric.STARTUP_S,
        Metric.PEAK_RSS_BYTES,
    }
)


@dataclass(frozen=True)
class Wanted:
    """The options that say what to find out.

    `window_tokens` None means as many as the protocol's default and the model's context allow.
    """

    tasks: tuple[Path, ...]
    limit: int | None
    is_text_wanted: bool
    is_speed_wanted: bool
    window_tokens: int | None
    task_concurrency: int


def plan_evaluation(
    spec: Spec,
    wanted: Wanted,
    gates: GateFile | None,
    *,
    load: Callable[[Path], Task],
    context_length: int | None,
) -> EvaluationPlan:
    """The plan: the tasks that are named, and of the figures those that options or gates ask for.

    Without tasks and gates, and unless speed alone is asked for, it is the text quality.

    Args:
        load: Reads a task file.
        context_length: Of the shortest context among the subjects, in tokens; None where none is known.

    Raises: UsageError: two tasks of one name, or a gate on a figure that no evaluation takes. MeasurementError: a task
        or the texts are not acceptable.
    """
    paths = (*(gates.task_paths if gates else ()), *wanted.tasks)
    tasks = tuple(load(path).first(wanted.limit) for path in paths)
    refuse_same_names(tasks)
    gated = {gate.metric for gate in gates.gates if isinstance(gate, FigureGate)} if gates else set()
    _refuse_untaken(gated, gates)
    has_other_work = bool(tasks or gates or wanted.is_speed_wanted)
    texts = builtin_texts() if spec.quality.text == "builtin" else load_texts(Path(spec.quality.text))
    quality = None
    if wanted.is_text_wanted or gated & QUALITY_METRICS or not has_other_work:
        quality = quality_protocol(texts, window_tokens=wanted.window_tokens, context_length=context_length)
    speed = None
    if wanted.is_speed_wanted or gated & SPEED_METRICS:
        protocol = replace(PROTOCOLS[spec.measurement.protocol], concurrencies=spec.measurement.concurrencies)
        speed = SpeedPlan(protocol, Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms))
    return EvaluationPlan(tasks, quality, speed, texts, task_concurrency=wanted.task_concurrency)


def quality_protocol(texts: TextSet, *, window_tokens: int | None, context_length: int | None) -> QualityProtocol:
    """The default protocol with a window that the context has room for, over as many documents as there are."""
    default = QualityProtocol()
    fitting = default.window_tokens if context_length is None else min(default.window_tokens, context_length - 1)
    return replace(
        default,
        window_tokens=window_tokens or fitting,
        num_documents=min(default.num_documents, len(texts.documents)),
    )


def _refuse_untaken(gated: set[Metric], gates: GateFile | None) -> None:
    untaken = sorted(gated - QUALITY_METRICS - SPEED_METRICS)
    if untaken and gates is not None:
        known = ", ".join(sorted(QUALITY_METRICS | SPEED_METRICS))
        raise UsageError(
            f"gates on {', '.join(untaken)} cannot be judged: no evaluation takes these figures",
            where=gates.origin,
            hint=f"Gates on figures can be on {known}.",
        )
