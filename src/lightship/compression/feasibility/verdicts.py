"""The answer of a feasibility check: yes, or no with the reason and the nearest thing that works."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lightship.errors import LightshipError


@dataclass(frozen=True)
class Feasibility:
    """Whether something can be made and served, decided before any work.

    Args:
        reason: Why not, as a sentence without full stop; "" where it can.
        nearest: What to do instead, as an instruction with full stop; None where nothing comes near, or it can.
        nearest_preset: A preset that works here, where one comes near.
        notes: What to know although it can: what it does not buy, what nobody tried.
        engine: Which engine would serve it; None where that could not be told.
    """

    is_feasible: bool
    reason: str = ""
    nearest: str | None = None
    nearest_preset: str | None = None
    notes: tuple[str, ...] = ()
    engine: str | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError: a refusal without a reason, or a reason without refusal."""
        if self.is_feasible == bool(self.reason):
            raise ValueError("a refusal has a reason, and nothing else has one")

    def with_notes(self, *notes: str) -> Feasibility:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def feasible(*notes: str, engine: str | None = None) -> Feasibility:
    """Yes."""
    return Feasibility(is_feasible=True, notes=notes, engine=engine)


def refused(
    reason: str, *, nearest: str | None = None, preset: str | None = None, engine: str | None = None
) -> Feasibility:
    """No."""
    return Feasibility(is_feasible=False, reason=reason, nearest=nearest, nearest_preset=preset, engine=engine)


def refusal_of(error: LightshipError, *, engine: str | None = None) -> Feasibility:
    """The refusal that an error is: of `artifacts.checkpoint` for pickles, code and unknown architectures, of a step's
    `plan` for options that do not suit the model.
    """
    where = f"{error.where}: " if error.where else ""
    return refused(f"{where}{error.what}", nearest=error.hint, engine=engine)


def first_refusal(checks: Iterable[Feasibility]) -> Feasibility:
    """The first refusal, or a yes with the notes of all checks. Lazy: what follows a refusal is not asked."""
    notes: list[str] = []
    engine: str | None = None
    for check in checks:
        if not check.is_feasible:
            return check
        notes += check.notes
        engine = engine or check.engine
    return feasible(*dict.fromkeys(notes), engine=engine)
