"""Finds the part of a reply that is the answer. Pure; a reply without one gives None, never an error.

Written in a task file as a name (`first_line`) or a pair (`after: "####"`, `regex: "answer is (\\w+)"`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorers.options import nearest, shown

Extract = Callable[[str], str | None]


def _whole(text: str) -> str | None:
    return text if text.strip() else None


def _first_line(text: str) -> str | None:
    return next((line for line in text.splitlines() if line.strip()), None)


def _last_line(text: str) -> str | None:
    return next((line for line in reversed(text.splitlines()) if line.strip()), None)


def _first_word(text: str) -> str | None:
    words = text.split(maxsplit=1)
    return words[0] if words else None


def _last_word(text: str) -> str | None:
    words = text.split()
    return words[-1] if words else None


_PLAIN: Mapping[str, Extract] = {
    "none": _whole,
    "first_line": _first_line,
    "last_line": _last_line,
    "first_word": _first_word,
    "last_word": _last_word,
}
_WITH_ARGUMENT = ("after", "regex")


def read_extract(value: Any) -> Extract:
    """The extraction an `extract` option asks for.

    `none`: the whole reply. `first_line`, `last_line`: of those with more than blanks. `first_word`, `last_word`: split
    at blanks, punctuation stays (see `normalize`). `after: TEXT`: what follows the last TEXT, to the end of its line.
    `regex: PATTERN`: the one group of the last match; "." matches no line break.

    Raises: MeasurementError: no such extraction, or a pattern that does not compile or has not exactly one group.
    """
    if isinstance(value, str) and value in _PLAIN:
        return _PLAIN[value]
    if isinstance(value, dict) and len(value) == 1:
        name, argument = next(iter(value.items()))
        if name in _WITH_ARGUMENT and isinstance(argument, str) and argument:
            return _after(argument) if name == "after" else _regex(argument)
        if name in _WITH_ARGUMENT:
            raise MeasurementError(f"option 'extract.{name}': expected a text, got {shown(argument)}")
        value = name
    names = [*_PLAIN, *_WITH_ARGUMENT]
    if isinstance(value, str) and value in _WITH_ARGUMENT:
        raise MeasurementError(f"option 'extract': {value!r} needs a text", hint=f'Write {value}: "...".')
    raise MeasurementError(f"option 'extract': unknown extraction {shown(value)}", hint=nearest(str(value), names))


def _after(mark: str) -> Extract:
    def extract(text: str) -> str | None:
        _, found, rest = text.rpartition(mark)
        # Blanks and line breaks between mark and answer are layout.
        return _first_line(rest) if found else None

    return extract


def _regex(source: str) -> Extract:
    try:
        pattern = re.compile(source)
    except re.error as error:
        raise MeasurementError(f"option 'extract.regex' does not compile: {error}") from error
    if pattern.groups != 1:
        raise MeasurementError(
            f"option 'extract.regex' has {pattern.groups} groups, expected one",
            hint="Mark the answer with (...), and write other groups as (?:...).",
        )

    def extract(text: str) -> str | None:
        found: str | None = None
        for match in pattern.finditer(text):
            found = match.group(1) if match.group(1) is not None else found
        return found

    return extract
