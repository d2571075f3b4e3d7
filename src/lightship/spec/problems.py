"""What is wrong with a spec, in the user's words: pydantic's findings never reach a user as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from lightship.errors import SpecError
from lightship.spec.explain import show_value
from lightship.spec.paths import Path, has_path, show_path, value_at
from lightship.spec.schema import describe, keys_at, nearest_path

_MAX_SHOWN_CHARS = 60
# A consequence of another error that is reported itself.
_FOLLOW_UPS = frozenset({"default_factory_not_called"})


@dataclass(frozen=True)
class Problem:
    """One thing to change. `place` is filled in by whoever knows which file, variable or flag set the path."""

    path: Path
    what: str
    hint: str | None = None
    place: str = ""

    @property
    def where(self) -> str:
        """Place and path, as far as they are known."""
        return ": ".join(part for part in (self.place, show_path(self.path)) if part)


def spec_error(problems: Sequence[Problem], *, origin: str) -> SpecError:
    """One error that tells all `problems`, of which there is at least one."""
    if len(problems) == 1:
        return SpecError(problems[0].what, where=problems[0].where or origin, hint=problems[0].hint)
    lines = [str(SpecError(problem.what, where=problem.where, hint=problem.hint)) for problem in problems]
    return SpecError("\n  ".join([f"{len(problems)} problems", *lines]), where=origin)


def problems_of(details: Iterable[ErrorDetails], data: Any) -> list[Problem]:
    """What pydantic found in `data`, one problem for each path, in its order."""
    found: dict[Path, Problem] = {}
    for detail in details:
        if detail["type"] not in _FOLLOW_UPS:
            problem = _problem(detail, data)
            found.setdefault(problem.path, problem)
    # A list without its refused entries may be too short as well; only the entries are worth telling.
    return [
        problem
        for path, problem in found.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found)
    ]


def unknown_key(parent: Path, key: str) -> Problem:
    """The problem of a key that no section `parent` has, with the nearest valid one."""
    near = nearest_path(parent, key)
    keys = keys_at(parent)
    if near is not None:
        hint = f"Did you mean {show_path(near)}?"
    elif keys:
        hint = f"Valid keys here: {', '.join(keys)}."
    else:
        hint = f"{show_path(parent)} has no keys."
    return Problem((*parent, key), f"unknown key {key!r}", hint)


def show_short(value: Any) -> str:
    """The value as it could stand in a spec, cut when it is long."""
    text = show_value(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def _problem(detail: ErrorDetails, data: Any) -> Problem:
    path = _data_path(detail, data)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return unknown_key(path[:-1], str(path[-1]))
    if kind == "missing":
        return Problem(path, f"missing; expected {describe(path)}")
    if "[key]" in detail["loc"]:
        return Problem(path, f"{path[-1]!r} is not a valid name", "Use lower-case letters, digits, _ and -.")
    if kind == "value_error":
        return Problem(path, str(detail["ctx"]["error"]).removesuffix("."))
    given = value_at(data, path) if has_path(data, path) else None
    hint = "Remove the key to use the default." if given is None else None
    return Problem(path, f"expected {describe(path)}, got {_quoted(given)}", hint)


def _quoted(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    return f"the text {show_short(value)!r}" if isinstance(value, str) else show_short(value)


def _data_path(detail: ErrorDetails, data: Any) -> Path:
    """The error's location without the marks pydantic adds for the branches of a union and for keys."""
    path: Path = ()
    for part in detail["loc"]:
        if has_path(data, (*path, part)) or part in keys_at(path):
            path = (*path, part)
    return path
