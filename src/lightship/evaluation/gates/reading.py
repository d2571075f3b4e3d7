"""Reads one mapping of a gates file key by key and notes what is wrong, so that every problem is told at once.

Not pydantic: a value that is wrong gets a stand-in here and the rest is still checked, in the words of gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, overload

from lightship.spec.paths import Path, show_path, value_at
from lightship.spec.problems import Problem, show_short
from lightship.spec.yaml_text import PlainDocument

# Distinguishes "no default: the key must be there" from the default None.
_REQUIRED: Any = object()
# Longest name of a task, metric, protocol or gate; names stand in tables.
_MAX_TEXT_CHARS = 400


class Section:
    """One mapping. Every reader returns a usable value; where it had to invent one, a problem was noted.

    Effects: readers append to `problems`.
    """

    def __init__(self, document: PlainDocument, path: Path, *, origin: str, problems: list[Problem]) -> None:
        self._document = document
        self._path = path
        self._origin = origin
        self._problems = problems
        self._data: Mapping[str, Any] = value_at(document.data, path)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    @property
    def shown(self) -> str:
        """The section's path and line, for messages."""
        return f"{show_path(self._path)} in line {self._line(self._path)}"

    def refuse(self, key: str | None, what: str, hint: str | None = None) -> None:
        """Notes a problem of a key, or of the section as a whole."""
        path = self._path if key is None else (*self._path, str(key))
        place = f"{self._origin}:{self._line(path)}"
        self._problems.append(Problem(path, what, hint, place=place))

    def refuse_others(self, known: Sequence[str], *, elsewhere: Mapping[str, str] | None = None) -> None:
        """Notes every key that is not `known`, with the nearest one; `elsewhere` explains keys of other sections."""
        for key in self._data:
            if key in known:
                continue
            near = get_close_matches(key, [str(one) for one in known], n=1)
            if elsewhere and key in elsewhere:
                self.refuse(key, f"{key!r} does not belong here: {elsewhere[key]}")
            elif near:
                self.refuse(key, f"unknown key {key!r}", f"Did you mean {near[0]}?")
            else:
                self.refuse(key, f"unknown key {key!r}", f"Valid keys here: {', '.join(known)}.")

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, *, default: None) -> str | None: ...
    def text(self, key: str, *, default: Any = _REQUIRED) -> str | None:
        """A name: text that is not empty."""
        if (given := self._given(key, "a name", default)) is None:
            return None if default is None else ""
        if isinstance(given, str) and given.strip() == given and 0 < len(given) <= _MAX_TEXT_CHARS:
            return given
        self.refuse(key, f"expected a name, got {show_short(given)!r}", _quote_hint(given))
        return ""

    def choice(self, key: str, valid: Sequence[str]) -> str:
        """One of `valid`; the first where the value is wrong."""
        given = self._given(key, f"one of {', '.join(valid)}", _REQUIRED)
        if given in valid:
            return str(given)
        if given is not None:
            near = get_close_matches(str(given), [str(one) for one in valid], n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Valid: {', '.join(valid)}."
            self.refuse(key, f"there is no {key} {show_short(given)!r}", hint)
        return valid[0]

    @overload
    def number(
        self,
        key: str,
        *,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
        hint: str | None = None,
        default: float = ...,
    ) -> float: ...
    @overload
    def number(
        self,
        key: str,
        *,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
        hint: str | None = None,
        default: None,
    ) -> float | None: ...
    def number(
        self,
        key: str,
        *,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
        hint: str | None = None,
        default: Any = _REQUIRED,
    ) -> float | None:
        """A finite number within its bounds, of which `above` and `below` are not allowed themselves."""
        limits = [f">= {low}"] if low is not None else [f"> {above}"] if above is not None else []
        limits += [f"<= {high}"] if high is not None else [f"< {below}"] if below is not None else []
        expected = " ".join(["a number", " and ".join(limits)])
        if (given := self._given(key, expected, default)) is None:
            return default if default is not _REQUIRED else _stand_in(low, above, high, below)
        is_number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
        if is_number and not (
            (low is not None and given < low)
            or (above is not None and given <= above)
            or (high is not None and given > high)
            or (below is not None and given >= below)
        ):
            return float(given)
        self.refuse(key, f"expected {expected}, got {show_short(given)}", hint)
        return _stand_in(low, above, high, below)

    @overload
    def whole_number(self, key: str, *, low: int, high: int) -> int: ...
    @overload
    def whole_number(self, key: str, *, low: int, high: int, default: None) -> int | None: ...
    def whole_number(self, key: str, *, low: int, high: int, default: Any = _REQUIRED) -> int | None:
        """An integer within its bounds, both allowed."""
        expected = f"a whole number from {low} to {high}"
        if (given := self._given(key, expected, default)) is None:
            return None if default is None else low
        if isinstance(given, int) and not isinstance(given, bool) and low <= given <= high:
            return given
        self.refuse(key, f"expected {expected}, got {show_short(given)}")
        return low

    def texts(self, key: str) -> list[str]:
        """A list of names, none twice; empty where the key is left out."""
        given = self._given(key, "a list of names", None)
        if given is None:
            return []
        if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
            self.refuse(key, f"expected a list of names, got {show_short(given)}", f"Write `{key}: [one, two]`.")
            return []
        if len(set(given)) < len(given):
            self.refuse(key, "a name is listed twice")
        return given

    def sections(self, key: str) -> list[Section]:
        """The mappings of a list that has at least one."""
        given = self._given(key, "a list", _REQUIRED)
        if given is None:
            return []
        if not isinstance(given, list) or not given:
            self.refuse(key, "expected a list of at least one gate", "Begin each gate with `- task:` or `- figure:`.")
            return []
        found = []
        for index, one in enumerate(given):
            path = (*self._path, key, index)
            if isinstance(one, dict):
                found.append(Section(self._document, path, origin=self._origin, problems=self._problems))
            else:
                place = f"{self._origin}:{self._line(path)}"
                what = f"a gate is a mapping, got {show_short(one)}"
                self._problems.append(Problem(path, what, "Begin it with `- task:` or `- figure:`.", place=place))
        return found

    def _given(self, key: str, expected: str, default: Any) -> Any:
        """The value; None where the key is not there or null, which is a problem unless there is a default."""
        given = self._data.get(key)
        if given is None and (default is _REQUIRED or key in self._data):
            what = "nothing (null)" if key in self._data else "missing"
            self.refuse(key, f"{what}; expected {expected}")
        return given

    def _line(self, path: Path) -> int:
        """The line of a path, or of what it would stand in."""
        while path and path not in self._document.lines:
            path = path[:-1]
        return self._document.lines.get(path, 1)


def _stand_in(low: float | None, above: float | None, high: float | None, below: float | None) -> float:
    """Any number that keeps the bounds."""
    least = low if low is not None else above
    most = high if high is not None else below
    if least is None or most is None:
        return least if least is not None else 0.0
    return (least + most) / 2


def _quote_hint(given: Any) -> str | None:
    is_bare = isinstance(given, int | float | bool)
    return "Put quotes around it if it is the name." if is_bare else None
