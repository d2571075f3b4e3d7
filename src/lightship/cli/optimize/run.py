"""`lightship optimize`: proposes candidates, does what the search asks for, and writes down what came of it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from lightship.artifacts.home import measurement_path
from lightship.artifacts.machine import Machine, this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.roofline import Load
from lightship.cli.ladder_table import print_ladder
from lightship.cli.load_tasks import load_tasks
from lightship.cli.optimize.arguments import SearchOptions, search_options
from lightship.cli.optimize.costs import CostModel
from lightship.cli.optimize.measuring import Workbench
from lightship.cli.optimize.results import assess_search, check_new_file, write_found_spec
from lightship.cli.optimize.session import SearchSession
from lightship.cli.optimize.task_evaluation import TaskEvaluator
from lightship.cli.prepare import ResolvedModel, Surroundings, build_context, resolve_model, surroundings
from lightship.compression.build import BuildContext
from lightship.compression.machine_speed import measure_machine_speed
from lightship.compression.recipes import REFERENCE_RECIPE, with_own_recipes
from lightship.compression.search.candidates import VARIATIONS, EngineOffer, Premises, propose_candidates
from lightship.compression.search.records import ActionKind, Candidate, Fate, Rules, SearchSetup, SearchState, Stage
from lightship.compression.search.search import Standing, advance, record, standing, start
from lightship.errors import SpecError, UsageError
from lightship.evaluation.performance.protocol import PROTOCOLS
from lightship.evaluation.tasks.task import Task
from lightship.observability.logs import configure_logging
from lightship.ports.variants import Recipe, WeightFormat
from lightship.units import format_duration

_WORDS = {
    ActionKind.BUILD: "building",
    ActionKind.MEASURE_QUALITY: "quality of",
    ActionKind.MEASURE_SPEED: "speed of",
    ActionKind.EVALUATE_TASKS: "tasks of",
}


def run_optimize(args: argparse.Namespace) -> int:
    """`lightship optimize` with parsed arguments; the exit code: 0 with something kept, 1 without."""
    configure_logging(component="optimize", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_new_file(args.write_spec)  # told now, not after an hour
    options, around, machine = search_options(args), surroundings(), this_machine()
    model = resolve_model(options.spec, around)
    context = build_context(options.spec, model, around)
    tasks = load_tasks(options.tasks, limit=options.limit, around=around)
    setup = search_setup(options, model, context, machine, around, tasks=tasks)
    if args.dry_run:
        return _tell_plan(setup)
    workbench = Workbench(
        spec=options.spec,
        model=model,
        context=context,
        reference=_candidate(setup, setup.reference),
        store=MeasurementStore(measurement_path(around.home)),
        machine=machine,
        around=around,
        evaluator=TaskEvaluator(tasks, machine, around),
    )
    session = SearchSession(around.home, _identity(options, model, machine, tasks))
    state = search(
        setup, workbench, session, Console(stderr=True, highlight=False, soft_wrap=True), is_fresh=args.fresh
    )
    return _show(state, workbench, session, args)


def search_setup(
    options: SearchOptions,
    model: ResolvedModel,
    context: BuildContext,
    machine: Machine,
    around: Surroundings,
    *,
    tasks: Sequence[Task] = (),
) -> SearchSetup:
    """Everything the search starts from: each recipe on its engine, what it would take, and what is known beforehand.

    Raises: SpecError, UsageError: no reference among the recipes.
    Effects: measures the machine for two seconds.
    """
    spec, checkpoint = options.spec, model.checkpoint
    protocol = PROTOCOLS[spec.measurement.protocol]
    installed = frozenset(status.toolchain.name for status in around.toolchains.ls() if status.is_installed)
    num_items = sum(len(task.items) for task in tasks)
    costs = CostModel(checkpoint, context.for_steps(checkpoint), protocol, installed, num_task_items=num_items)
    premises = Premises(
        checkpoint=checkpoint,
        config=read_json_object(checkpoint.folder / "config.json"),
        machine=machine,
        engines={
            name: EngineOffer(variations=VARIATIONS[name]) for name in options.engines if name in spec.engines.enabled
        },
        estimate_costs=costs.estimate,
        students=frozenset(model.students),
        speed=measure_machine_speed(working_set_bytes=checkpoint.weight_bytes),
        load=Load(options.budget.concurrency, protocol.num_prompt_tokens, protocol.num_output_tokens),
    )
    proposals = propose_candidates(_recipes(options), premises)
    reference = f"{_reference_recipe(checkpoint.weight_format)}@openvino"
    if reference not in {one.candidate.name for one in proposals}:
        raise SpecError(f"the search compares with {reference}, which is not among its recipes", where="--recipes")
    return SearchSetup(
        budget=options.budget,
        reference=reference,
        proposals=proposals,
        rules=Rules(has_tasks=bool(tasks)),
        model=f"{spec.model.name} ({spec.model.source})",
        machine=machine.description,
    )


def search(
    setup: SearchSetup, workbench: Workbench, session: SearchSession, console: Console, *, is_fresh: bool
) -> SearchState:
    """The search, done to its end or until it is stopped; each outcome is kept as soon as it is there.

    Raises: StorageFullError. KeyboardInterrupt: it was stopped; the same command continues it.
    Effects: builds and measures, for as long as the budget says.
    """
    if is_fresh:
        session.begin_anew()
    state, known = advance(start(setup), session.earlier_outcomes())
    if state.journal:
        console.print(f"continuing a search: {len(state.journal)} results are there already")
    told: set[str] = set()
    while not (now := standing(state)).is_over:
        _tell_decisions(now, told, console)
        action = now.actions[0]
        spent, budget = format_duration(now.spent_s), format_duration(setup.budget.time_budget_s)
        about = format_duration(max(1.0, action.estimate_s))
        console.print(f"[{spent} of {budget}] {_WORDS[action.kind]} {action.candidate} (about {about})", markup=False)
        outcome = workbench.perform(action, _candidate(setup, action.candidate))
        state, known = advance(record(state, outcome), known)
        session.keep(outcome)
        session.write_record(state)
    _tell_decisions(now, told, console)
    return state


def _recipes(options: SearchOptions) -> list[Recipe]:
    known = with_own_recipes(options.spec.recipes)
    if options.recipes is None:
        return list(known.values())
    unknown = [name for name in options.recipes if name not in known]
    if unknown:
        raise UsageError(f"there is no recipe {unknown[0]!r}", where="--recipes", hint="See `lightship recipes ls`.")
    return [known[name] for name in dict.fromkeys((REFERENCE_RECIPE, *options.recipes))]


def _reference_recipe(source: WeightFormat) -> str:
    return REFERENCE_RECIPE if source is WeightFormat.SAFETENSORS else "as-is"


def _candidate(setup: SearchSetup, name: str) -> Candidate:
    return next(one.candidate for one in setup.proposals if one.candidate.name == name)


def _identity(options: SearchOptions, model: ResolvedModel, machine: Machine, tasks: Sequence[Task]) -> list[str]:
    spec = options.spec
    measured = f"{spec.measurement.model_dump_json()}{spec.slo.model_dump_json()}{spec.quality.text}"
    engines = spec.engines.model_dump_json()
    asked = [task.protocol for task in tasks]
    return [model.checkpoint.digest, machine.fingerprint, measured, engines, spec.compression.model_dump_json(), *asked]


def _tell_decisions(now: Standing, told: set[str], console: Console) -> None:
    for name, decision in now.decisions.items():
        if name not in told and decision.fate is Fate.REJECTED and decision.stage is not Stage.FEASIBILITY:
            console.print(f"  out: {name}: {decision.reason}", style="dim", markup=False)
        told.add(name)


def _tell_plan(setup: SearchSetup) -> int:
    """What would be tried, cheapest first, and what cannot be."""
    out = Console(highlight=False, soft_wrap=True)
    for proposal in setup.proposals:
        check, costs = proposal.feasibility, proposal.costs
        if check.is_feasible:
            total = format_duration(max(1.0, sum(costs.steps_s) + costs.quality_s + costs.speed_s))
            tier = proposal.candidate.tier.name.lower().replace("_", "-")
            out.print(f"{proposal.candidate.name}: {tier}, about {total}", markup=False)
    for proposal in setup.proposals:
        if not proposal.feasibility.is_feasible:
            nearest = f" {proposal.feasibility.nearest}" if proposal.feasibility.nearest else ""
            out.print(f"not here: {proposal.candidate.name}: {proposal.feasibility.reason}.{nearest}", markup=False)
    return 0


def _show(state: SearchState, workbench: Workbench, session: SearchSession, args: argparse.Namespace) -> int:
    """Table, paths and the record; the exit code."""
    markdown, plain = session.write_record(state)
    if args.json:
        sys.stdout.write(plain.read_text("utf-8"))
    now = standing(state)
    out = Console(highlight=False, soft_wrap=True)
    if now.kept:
        found = assess_search(state, workbench, session.folder)
        if not args.json:
            print_ladder(out, found.assessment, found.built)
            out.print(f"\nreport with the frontier: {found.report_path}", markup=False)
        if args.write_spec is not None:
            write_found_spec(args.write_spec, found, workbench)
            Console(stderr=True, highlight=False, soft_wrap=True).print(f"spec: {args.write_spec}", markup=False)
    if not args.json:
        out.print(f"record: {markdown}\n", markup=False)
        out.print(now.actions[0].reason, markup=False)
    return 0 if now.kept else 1
