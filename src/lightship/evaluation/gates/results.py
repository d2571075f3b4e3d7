"""What became of gates: a result for each, and one verdict over all. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lightship.evaluation.comparison import TaskComparison
from lightship.evaluation.statistics.paired import Verdict
from lightship.ports.measurements import Interval


class GateKind(StrEnum):
    """What a gate judges."""

    TASK = "task"
    FIGURE = "figure"


@dataclass(frozen=True)
class GatePlan:
    """Whether a task gate has enough items, before anything is run.

    `num_items` is None where the task is not known. `detectable_margin` is the smallest loss that the items can rule
    out, as a share; None without items. `sentence` is for people.
    """

    name: str
    task: str
    margin: float
    num_items: int | None
    num_items_required: int
    detectable_margin: float | None
    sentence: str

    @property
    def is_enough(self) -> bool:
        """Whether the items suffice for the power that is asked."""
        return self.num_items is not None and self.num_items >= self.num_items_required


@dataclass(frozen=True)
class GateResult:
    """What became of one gate.

    `requirement` is the gate in words, `sentence` what was found and, where it is not a pass, what would help. `value`
    with `interval` is what was judged: the difference of a task (candidate minus baseline, in score points), a figure,
    or its ratio to the baseline's; None where the data lack it. `p_value` is that of the claim that a task's loss is
    larger than its margin, Holm-adjusted over the task gates of the file; None for figures.
    """

    name: str
    kind: GateKind
    verdict: Verdict
    requirement: str
    sentence: str
    num_items: int | None = None
    value: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    comparison: TaskComparison | None = None


@dataclass(frozen=True)
class GateReport:
    """The results in the order of the file. `confidence` is one-sided, that of each claim."""

    baseline_name: str
    candidate_name: str
    confidence: float
    results: tuple[GateResult, ...]

    @property
    def verdict(self) -> Verdict:
        """Fail where any gate fails; otherwise undecided where any is; otherwise pass."""
        verdicts = {result.verdict for result in self.results}
        return next((one for one in (Verdict.FAIL, Verdict.UNDECIDED) if one in verdicts), Verdict.PASS)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 undecided: only a pass is green."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNDECIDED: 2}[self.verdict]

    def count(self, verdict: Verdict) -> int:
        """Gates with that verdict."""
        return sum(result.verdict is verdict for result in self.results)
