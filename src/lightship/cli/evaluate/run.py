"""`lightship evaluate` with parsed arguments: plans, evaluates, compares, judges, prints and writes."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from lightship.artifacts.home import evaluations_folder, journal_folder
from lightship.artifacts.machine import this_machine
from lightship.cli.evaluate.plan import Wanted, plan_evaluation
from lightship.cli.evaluate.session import EvaluationPlan, EvaluationSession, Findings, write_findings
from lightship.cli.evaluate.tables import print_evaluation
from lightship.cli.kept_evaluations import KeptEvaluations
from lightship.cli.load_spec import load_spec
from lightship.cli.load_tasks import load_one_task
from lightship.cli.open_subject import SubjectOpener, build_named
from lightship.cli.prepare import Surroundings, surroundings
from lightship.cli.subjects import RecordSubject, Subject, VariantSubject, parse_subject
from lightship.errors import UsageError
from lightship.evaluation.comparison import TaskComparison, compare_task_runs
from lightship.evaluation.gates.decide import judge_gates
from lightship.evaluation.gates.gate_file import GateFile, load_gates
from lightship.evaluation.gates.junit import junit_xml
from lightship.evaluation.gates.markdown import markdown_summary
from lightship.evaluation.gates.plan import plan_gates
from lightship.evaluation.gates.report_json import gate_report_json
from lightship.evaluation.gates.results import GatePlan, GateReport
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.record_file import read_record
from lightship.observability.logs import configure_logging
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

_UNDECIDED = 2


@dataclass(frozen=True)
class _Outcome:
    """What an evaluation came to."""

    candidate: Findings
    baseline: Findings | None
    comparisons: tuple[TaskComparison, ...]
    gates: GateReport | None


def run_evaluate(args: argparse.Namespace) -> int:
    """The exit code: that of the gates where there are any, otherwise 0.

    Raises: LightshipError: of whatever step failed.
    Effects: builds variants, starts workers, loads endpoints; writes the files that are named.
    """
    configure_logging(component="evaluate", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being terminated cleans up as Ctrl-C does
    _check_arguments(args)
    spec, around = load_spec(args).spec, surroundings()
    gates = load_gates(args.gate) if args.gate else None
    default_model = args.model or spec.model.name
    candidate = parse_subject(args.candidate, default_model=default_model)
    baseline = parse_subject(args.baseline, default_model=default_model) if args.baseline else None
    subjects = [subject for subject in (baseline, candidate) if subject is not None]
    headers = _headers(args.api_key_env)
    variants = {} if args.dry_run else _variants(spec, subjects, around)
    plan = _plan(args, spec, gates, variants, around)
    plans = _gate_plans(gates, plan, subjects)
    for gate_plan in plans:
        if not gate_plan.is_enough:
            _say(f"{gate_plan.name}: {gate_plan.sentence}")
    if args.dry_run:
        return _tell_plans(plans)
    opener = SubjectOpener(spec, variants, around, this_machine(), headers)
    session = EvaluationSession(
        plan,
        opener,
        machine=this_machine(),
        around=around,
        journals=journal_folder(around.home),
        is_fresh=args.fresh,
    )
    ours, theirs = asyncio.run(session.evaluate(candidate, baseline))
    kept = KeptEvaluations(evaluations_folder(around.home), this_machine().fingerprint)
    for findings in (ours, theirs):
        if findings is not None:
            kept.add(findings.record)
    outcome = _judged(ours, theirs, gates)
    _write_files(args, outcome)
    _print(args, outcome)
    return outcome.gates.exit_code if outcome.gates else 0


def _check_arguments(args: argparse.Namespace) -> None:
    if args.gate and not args.baseline:
        raise UsageError("gates compare with a baseline", where="--gate", hint="Name one with --baseline.")
    for name in ("junit", "markdown"):
        if getattr(args, name) and not args.gate:
            raise UsageError("it shows verdicts of gates", where=f"--{name}", hint="Name a file of gates with --gate.")
    if args.dry_run and not args.gate:
        raise UsageError("there are no gates to plan for", where="--dry-run", hint="Name a file of gates with --gate.")
    for name in ("limit", "window_tokens", "task_concurrency"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"must be at least 1, got {value}", where=f"--{name.replace('_', '-')}")
    if args.output is not None and args.output.suffix != ".json":
        raise UsageError("records are .json files", where=f"--output {args.output}")
    if args.candidate == args.baseline:
        raise UsageError("candidate and baseline are the same", where=args.candidate)


def _headers(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise UsageError(f"the environment variable {variable} is not set", where="--api-key-env")
    return {"authorization": f"Bearer {key}"}


def _variants(spec: Spec, subjects: Sequence[Subject], around: Surroundings) -> dict[str, Variant]:
    names = [subject.name for subject in subjects if isinstance(subject, VariantSubject)]
    if names:
        from lightship.cli.model_commands import require_local_extra

        require_local_extra()
    return build_named(spec, names, around)


def _plan(
    args: argparse.Namespace,
    spec: Spec,
    gates: GateFile | None,
    variants: Mapping[str, Variant],
    around: Surroundings,
) -> EvaluationPlan:
    wanted = Wanted(
        tasks=tuple(args.task),
        limit=args.limit,
        is_text_wanted=args.text,
        is_speed_wanted=args.speed,
        window_tokens=args.window_tokens,
        task_concurrency=args.task_concurrency,
    )
    contexts = [variant.manifest.context_length for variant in variants.values()]
    return plan_evaluation(
        spec,
        wanted,
        gates,
        load=lambda path: load_one_task(path, around),
        context_length=min(contexts, default=None),
    )


def _gate_plans(gates: GateFile | None, plan: EvaluationPlan, subjects: Sequence[Subject]) -> tuple[GatePlan, ...]:
    """Whether each gate's task has enough items; those of records count where a record is compared."""
    if gates is None:
        return ()
    num_items = {task.name: len(task.items) for task in plan.tasks}
    for subject in subjects:
        if isinstance(subject, RecordSubject):
            for run in read_record(subject.path).tasks:
                num_items.setdefault(run.task, len(run.items))
    return plan_gates(gates, num_items)


def _tell_plans(plans: Sequence[GatePlan]) -> int:
    for plan in plans:
        if plan.is_enough:
            _say(f"{plan.name}: {plan.sentence}")
    return 0 if all(plan.is_enough for plan in plans) else _UNDECIDED


def _say(sentence: str) -> None:
    Console(stderr=True, soft_wrap=True).print(sentence, markup=False, highlight=False)


def _judged(ours: Findings, theirs: Findings | None, gates: GateFile | None) -> _Outcome:
    if theirs is None:
        return _Outcome(ours, None, (), None)
    return _Outcome(
        ours,
        theirs,
        _comparisons(theirs.record, ours.record),
        judge_gates(gates, baseline=theirs.record, candidate=ours.record) if gates else None,
    )


def _comparisons(baseline: EvaluationRecord, candidate: EvaluationRecord) -> tuple[TaskComparison, ...]:
    by_name = {run.task: run for run in baseline.tasks}
    return tuple(
        compare_task_runs(
            by_name[run.task],
            run,
            metric=metric,
            reference_name=baseline.subject.name,
            candidate_name=candidate.subject.name,
        )
        for run in candidate.tasks
        if run.task in by_name
        for metric in run.metrics
    )


def _write_files(args: argparse.Namespace, outcome: _Outcome) -> None:
    if args.output is not None:
        write_findings(outcome.candidate, args.output)
    if outcome.gates is not None and args.junit is not None:
        _replace_file(args.junit, junit_xml(outcome.gates))
    if outcome.gates is not None and args.markdown is not None:
        _replace_file(args.markdown, markdown_summary(outcome.gates).encode())


def _replace_file(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path)) from error


def _print(args: argparse.Namespace, outcome: _Outcome) -> None:
    baseline = outcome.baseline.record if outcome.baseline else None
    if args.json:
        document = {
            "candidate": outcome.candidate.record,
            "baseline": baseline,
            "comparisons": outcome.comparisons,
            "gates": msgspec.Raw(gate_report_json(outcome.gates)) if outcome.gates else None,
        }
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")
        return
    print_evaluation(Console(), outcome.candidate.record, baseline, outcome.comparisons, outcome.gates)
