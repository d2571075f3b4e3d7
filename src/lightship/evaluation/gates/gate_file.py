"""The gates a user writes as YAML: strict, every problem told at once with its line, nothing silently ignored.

    version: 1
    confidence: 0.95                     # one-sided, for every claim
    power: 0.8
    tasks: [tasks/arc-easy.yaml]         # task files, relative to this one; optional
    gates:
      - task: arc-easy                   # the name of a task run in both records
        metric: acc_norm                 # the task's first where it is left out
        margin: 0.02                     # a loss of at most 2 points
        expected_disagreement: 0.05
      - figure: quality_recovery         # a figure of the candidate
        at_least: 0.97
      - figure: goodput_requests_per_s   # relative to the baseline's, under the same protocol and load
        concurrency: 32
        at_least_ratio: 0.9

Parsing is pure; `load_gates` reads the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lightship.errors import SpecError, UsageError
from lightship.evaluation.gates.reading import Section
from lightship.ports.measurements import Metric
from lightship.spec.problems import Problem, spec_error
from lightship.spec.yaml_text import MAX_TEXT_BYTES, PlainDocument, YamlTextError, read_yaml

VERSION = 1
DEFAULT_CONFIDENCE = 0.95
DEFAULT_POWER = 0.8
# Share of items on which two good variants of one model differ: a usual 4-bit variant flips about this many.
DEFAULT_DISAGREEMENT = 0.05
# Requests at once; beyond any load generator, so a larger one is a slip.
_MAX_CONCURRENCY = 100_000
# A ratio to the baseline beyond this is a slip (a percentage, mostly).
_MAX_RATIO = 10.0
# Recovery above 1 is possible, far above is a percentage.
_MAX_RECOVERY = 2.0

_FILE_KEYS = ("version", "confidence", "power", "tasks", "gates")
_TASK_KEYS = ("task", "name", "metric", "margin", "expected_disagreement")
_FIGURE_KEYS = ("figure", "name", "concurrency", "protocol")
_SHARES = frozenset({Metric.TOP1_AGREEMENT, Metric.SLO_ATTAINMENT})
# Figures that compare with a reference already; a ratio to the baseline's own would say nothing.
PAIRED_FIGURES = frozenset({Metric.KL_NATS, Metric.TOP1_AGREEMENT, Metric.QUALITY_RECOVERY})
_HIGHER_IS_BETTER = frozenset(
    {
        Metric.TOP1_AGREEMENT,
        Metric.QUALITY_RECOVERY,
        Metric.GREEDY_AGREEMENT,
        Metric.DRAFT_SPEEDUP,
        Metric.DECODE_TOKENS_PER_S,
        Metric.GOODPUT_REQUESTS_PER_S,
        Metric.SLO_ATTAINMENT,
    }
)
_LOWER_IS_BETTER = frozenset(
    {
        Metric.BITS_PER_BYTE,
        Metric.PERPLEXITY,
        Metric.KL_NATS,
        Metric.TTFT_MS,
        Metric.TPOT_MS,
        Metric.PEAK_RSS_BYTES,
        Metric.STARTUP_S,
        Metric.WEIGHT_BITS_PER_PARAMETER,
        Metric.KV_BYTES_PER_TOKEN,
        Metric.ESTIMATED_MEMORY_BYTES,
        Metric.PEAK_GPU_BYTES,
        Metric.ENERGY_J_PER_OUTPUT_TOKEN,
        Metric.COST_USD_PER_1M_OUTPUT_TOKENS,
        Metric.COST_USD_PER_1M_GOOD_TOKENS,
        Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS,
        Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS,
    }
)


class BoundKind(StrEnum):
    """How a figure is bounded; the ratios are over the baseline's figure."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    AT_LEAST_RATIO = "at_least_ratio"
    AT_MOST_RATIO = "at_most_ratio"

    @property
    def is_ratio(self) -> bool:
        """Whether the bound is on candidate over baseline."""
        return self in {BoundKind.AT_LEAST_RATIO, BoundKind.AT_MOST_RATIO}

    @property
    def is_lower(self) -> bool:
        """Whether the figure must not be below the bound."""
        return self in {BoundKind.AT_LEAST, BoundKind.AT_LEAST_RATIO}


@dataclass(frozen=True)
class TaskGate:
    """A task on which the candidate may lose at most `margin` (a share: 0.02 is two points).

    `metric` None means the task's first. `expected_disagreement` is the share of items on which the two are expected to
    differ, from which the number of items is planned.
    """

    name: str
    task: str
    metric: str | None
    margin: float
    expected_disagreement: float


@dataclass(frozen=True)
class FigureGate:
    """A figure with a bound. None for `concurrency` or `protocol` means the only one there is."""

    name: str
    metric: Metric
    kind: BoundKind
    bound: float
    concurrency: int | None
    protocol: str | None


@dataclass(frozen=True)
class GateFile:
    """What a release must show.

    `confidence` is one-sided: each pass or failure of a gate is claimed at that level. `tasks` are task files to run,
    relative to the folder of `origin`.
    """

    confidence: float
    power: float
    gates: tuple[TaskGate | FigureGate, ...]
    tasks: tuple[str, ...] = ()
    origin: str = field(default="gates.yaml", compare=False)

    @property
    def task_paths(self) -> tuple[Path, ...]:
        """The task files, as paths that can be opened."""
        return tuple(Path(self.origin).parent / task for task in self.tasks)

    @property
    def task_gates(self) -> tuple[TaskGate, ...]:
        """Those on tasks, in order."""
        return tuple(gate for gate in self.gates if isinstance(gate, TaskGate))

    @property
    def alpha(self) -> float:
        """Chance of error each claim may have."""
        return 1 - self.confidence

    @property
    def two_sided_level(self) -> float:
        """Level of the interval whose either bound is a one-sided claim at `confidence`: 0.9 for 0.95."""
        return round(2 * self.confidence - 1, 12)


def load_gates(path: Path) -> GateFile:
    """The gates in a file.

    Raises: UsageError: the file cannot be read. SpecError: it is not acceptable; names every problem with its line.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=str(path), hint="Name a file with gates.") from error
    except OSError as error:
        hint = "Name a readable file with gates."
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    if len(content) > MAX_TEXT_BYTES:
        raise SpecError(f"longer than {MAX_TEXT_BYTES} bytes", where=str(path), hint="Is this the file with gates?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8 text", where=f"{path}:{line}", hint="Save the file as UTF-8.") from error
    return parse_gates(text, origin=str(path))


def parse_gates(text: str, *, origin: str = "gates.yaml") -> GateFile:
    """The gates that `text` describes; `origin` names it in messages.

    Raises: SpecError: names every problem at once.
    """
    try:
        document = read_yaml(text)
    except YamlTextError as error:
        where = origin if error.line is None else f"{origin}:{error.line}"
        raise SpecError(error.what, where=where, hint=error.hint) from error
    if not isinstance(document.data, dict):
        hint = "Write `version: 1` and a list of `gates:`."
        raise SpecError("a file of gates is a mapping from keys to values", where=origin, hint=hint)
    problems: list[Problem] = []
    gates = _gate_file(document, origin, problems)
    if problems:
        raise spec_error(sorted(problems, key=lambda problem: document.lines.get(problem.path, 0)), origin=origin)
    return gates


def _gate_file(document: PlainDocument, origin: str, problems: list[Problem]) -> GateFile:
    """The gates, of use only where no problem was added."""
    top = Section(document, (), origin=origin, problems=problems)
    top.refuse_others(_FILE_KEYS)
    version = top.whole_number("version", low=1, high=10**6)
    if version != VERSION:
        top.refuse("version", f"version {version} is not known", f"This program reads version {VERSION}.")
    share_hint = "It is a share: write 0.95 for 95 %."
    confidence = top.number("confidence", above=0.5, below=1, hint=share_hint, default=DEFAULT_CONFIDENCE)
    power = top.number("power", low=0.5, below=1, hint=share_hint, default=DEFAULT_POWER)
    gates = [gate for section in top.sections("gates") if (gate := _gate(section)) is not None]
    _refuse_same_names(gates)
    return GateFile(confidence, power, tuple(gate for gate, _ in gates), tuple(top.texts("tasks")), origin)


def _refuse_same_names(gates: list[tuple[TaskGate | FigureGate, Section]]) -> None:
    first: dict[str, Section] = {}
    for gate, section in gates:
        if gate.name in first:
            hint = f"The first is {first[gate.name].shown}; give one of the two another `name`."
            section.refuse(None, f"a second gate is called {gate.name!r}", hint)
        first.setdefault(gate.name, section)


def _gate(section: Section) -> tuple[TaskGate | FigureGate, Section] | None:
    """One gate with its section; None where it cannot be told what kind it is."""
    is_task, is_figure = "task" in section, "figure" in section
    if is_task == is_figure:
        what = "names both a task and a figure" if is_task else "names neither a task nor a figure"
        section.refuse(None, f"a gate that {what}", "Write either `task:` with `margin:`, or `figure:` with a bound.")
        return None
    return (_task_gate(section) if is_task else _figure_gate(section)), section


def _task_gate(section: Section) -> TaskGate:
    others = (*_FIGURE_KEYS, *BoundKind)
    section.refuse_others(_TASK_KEYS, elsewhere=dict.fromkeys(others, "it belongs to a gate on a figure"))
    task = section.text("task")
    metric = section.text("metric", default=None)
    margin = section.number("margin", above=0, below=1, hint="A margin is a share: write 0.02 for 2 points.")
    expected = section.number("expected_disagreement", above=0, high=1, default=None)
    if expected is not None and margin is not None and expected < margin:
        what = f"{expected} is less than the margin of {margin}, and then a loss as large as the margin cannot happen"
        section.refuse("expected_disagreement", what, "Leave it out, or write the share of items expected to differ.")
    name = section.text("name", default=None)
    return TaskGate(
        name=name or (f"{task}/{metric}" if metric else task),
        task=task,
        metric=metric,
        margin=margin,
        # A loss as large as the margin takes as many items that differ.
        expected_disagreement=max(DEFAULT_DISAGREEMENT, margin) if expected is None else expected,
    )


def _figure_gate(section: Section) -> FigureGate:
    elsewhere = dict.fromkeys(_TASK_KEYS, "it belongs to a gate on a task")
    section.refuse_others((*_FIGURE_KEYS, *BoundKind), elsewhere=elsewhere)
    metric = Metric(section.choice("figure", tuple(Metric)))
    kinds = [kind for kind in BoundKind if kind in section]
    kind = kinds[0] if kinds else BoundKind.AT_LEAST
    bound = 0.0
    if len(kinds) == 1:
        bound = _bound(section, metric, kind)
    else:
        what = f"has {len(kinds)} bounds" if kinds else "has no bound"
        section.refuse(None, f"a gate that {what}", f"Write exactly one of {', '.join(BoundKind)}.")
    concurrency = section.whole_number("concurrency", low=0, high=_MAX_CONCURRENCY, default=None)
    name = section.text("name", default=None)
    return FigureGate(
        name=name or (metric.value if concurrency is None else f"{metric.value}@{concurrency}"),
        metric=metric,
        kind=kind,
        bound=bound,
        concurrency=concurrency,
        protocol=section.text("protocol", default=None),
    )


def _bound(section: Section, metric: Metric, kind: BoundKind) -> float:
    if kind.is_ratio and metric in PAIRED_FIGURES:
        hint = f"Write {kind.removesuffix('_ratio')} instead."
        section.refuse(kind, f"{metric} is relative to the reference already", hint)
    elif metric in (_LOWER_IS_BETTER if kind.is_lower else _HIGHER_IS_BETTER):
        better, right = ("lower", "at_most") if kind.is_lower else ("higher", "at_least")
        hint = f"Write {right}{'_ratio' if kind.is_ratio else ''} instead."
        section.refuse(kind, f"{better} is better for {metric}, so this would refuse what is good", hint)
    if kind.is_ratio:
        return section.number(kind, above=0, high=_MAX_RATIO, hint="A ratio is to the baseline: 0.9 keeps nine tenths.")
    if metric in _SHARES:
        return section.number(kind, low=0, high=1, hint="It is a share: write 0.97 for 97 %.")
    if metric is Metric.QUALITY_RECOVERY:
        return section.number(kind, low=0, high=_MAX_RECOVERY, hint="It is a share: write 0.97 for 97 %.")
    return section.number(kind, low=0)
