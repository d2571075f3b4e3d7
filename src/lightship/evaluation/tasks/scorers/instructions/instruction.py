"""What one kind of instruction is, and how its parameters are read. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorers.options import check_known, is_number, nearest, shown

# From a parameter's value in the item to what the check takes; raises ValueError with what was expected.
ReadParameter = Callable[[Any], Any]

RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "at least": lambda count, bound: count >= bound,
    "less than": lambda count, bound: count < bound,
}


@dataclass(frozen=True)
class Instruction:
    """A kind of instruction: whether a reply follows it, and the parameters it needs, all of them.

    `follows` takes the reply and the parameters by name, never raises, and decides from them alone.
    """

    follows: Callable[..., bool]
    parameters: Mapping[str, ReadParameter] = field(default_factory=dict)

    def read_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, checked. One that is null counts as not given (some copies of the set list all of them).

        Raises: MeasurementError: one is missing, unknown or wrong; names it.
        """
        present = {name: value for name, value in given.items() if value is not None}
        check_known(present, tuple(self.parameters), what="parameter")
        read = {}
        for name, reader in self.parameters.items():
            if name not in present:
                raise MeasurementError(f"parameter {name!r} is missing")
            try:
                read[name] = reader(present[name])
            except ValueError as error:
                raise MeasurementError(f"parameter {name!r}: expected {error}, got {shown(present[name])}") from error
        return read


def whole(at_least: int) -> ReadParameter:
    """Reads a whole number, also one written as 3.0."""

    def read(value: Any) -> int:
        if not is_number(value) or value != int(value) or value < at_least:
            raise ValueError(f"a whole number of {at_least} or more")
        return int(value)

    return read


def text(value: Any) -> str:
    """Reads a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Reads a list of such texts, at least one."""
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise ValueError("a list of texts")
    return tuple(value)


def character(value: Any) -> str:
    """Reads a single character; the set has '#' and '!' beside letters."""
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError("one character")
    return value.strip()


def relation(value: Any) -> str:
    """Reads "at least" or "less than"."""
    if not isinstance(value, str) or value not in RELATIONS:
        raise ValueError(f"one of {', '.join(RELATIONS)}")
    return value


def one_of(names: Mapping[str, Any], what: str) -> ReadParameter:
    """Reads one of the names."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{what} ({nearest(str(value), names).removesuffix('.')})")
        return value

    return read
