"""From texts to a valid spec: defaults < file < environment < flags, each value with its origin.

No I/O: the caller hands in the file's text, the environment and the flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, takewhile
from typing import Any

from pydantic import ValidationError

from lightship.errors import SpecError
from lightship.spec.document import Spec
from lightship.spec.explain import leaves
from lightship.spec.paths import Path, has_path, merged, nested, show_path, without
from lightship.spec.problems import Problem, problems_of, spec_error, unknown_key
from lightship.spec.schema import describe, is_text_only, node_at
from lightship.spec.support import unsupported_settings
from lightship.spec.yaml_text import YamlTextError, read_yaml

# Each round takes out every value that is refused; values depend on others at most twice over.
_MAX_ROUNDS = 3
# Two underscores separate the parts of a path; LIGHTSHIP_HOME and its like are not part of the spec.
ENVIRONMENT_PREFIX = "LIGHTSHIP__"


class Origin(StrEnum):
    """Who set a value."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec, and for each path like `slo.ttft_ms` who set its value (see `explain.leaves` for the paths)."""

    spec: Spec
    origins: Mapping[str, Origin]


@dataclass(frozen=True)
class _Layer:
    """What one origin sets: plain data, and for paths in it the place to name in a message."""

    origin: Origin
    data: Any
    places: Mapping[Path, str]


def parse_spec(
    text: str,
    *,
    origin: str = "lightship.yaml",
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> LoadedSpec:
    """The spec that `text`, `environment` and `overrides` make together; an empty text means all defaults.

    Args:
        text: Content of a spec file.
        origin: Name of the file, for messages.
        environment: Variables; those whose names begin with `LIGHTSHIP__` set values, in any case:
            `LIGHTSHIP__SLO__TTFT_MS=300`. Others are left alone.
        overrides: Flags such as `slo.ttft_ms=300`; a later one wins.

    Raises: SpecError: names every problem at once: not YAML, unknown keys, wrong values, not supported yet.
    """
    try:
        document = read_yaml(text)
    except YamlTextError as error:
        where = origin if error.line is None else f"{origin}:{error.line}"
        raise SpecError(error.what, where=where, hint=error.hint) from error
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        hint = "Write sections such as `model:`; an empty file means all defaults."
        raise SpecError("a spec is a mapping from keys to values", where=f"{origin}:{document.lines[()]}", hint=hint)
    problems: list[Problem] = []
    layers = [
        _Layer(Origin.FILE, data, {path: f"{origin}:{line}" for path, line in document.lines.items() if path}),
        *_environment_layers(environment or {}, problems),
        *_flag_layers(overrides, problems),
    ]
    together: Any = {}
    for layer in layers:
        together = merged(together, layer.data)
    spec, found = _validate(together)
    problems += (replace(problem, place=_place(problem.path, layers)) for problem in found)
    if spec is None or problems:
        raise spec_error(problems, origin=origin)
    return LoadedSpec(spec, {show_path(path): _origin_of(path, layers) for path in leaves(spec)})


def _validate(data: Any) -> tuple[Spec | None, list[Problem]]:
    """The spec, or None, and what is wrong with `data`: wrong values and values that are not supported yet."""
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False), data)
        return None, problems + list(_unsupported_besides(problems, data))
    return spec, list(unsupported_settings(spec))


def _unsupported_besides(problems: Sequence[Problem], data: Any) -> Iterator[Problem]:
    """Unsupported settings in the part of `data` that is free of `problems`, so that both are told at once.

    Without a refused value others may stop making sense together; they are taken out too, their cause has been told.
    """
    for _ in range(_MAX_ROUNDS):
        for problem in problems:
            keys = tuple(takewhile(lambda part: isinstance(part, str), problem.path))
            while keys and not has_path(data, keys):
                keys = keys[:-1]  # a default that does not fit to what is set round it
            if keys:
                data = without(data, keys)
        try:
            yield from unsupported_settings(Spec.model_validate(data))
        except ValidationError as error:
            problems = problems_of(error.errors(include_url=False), data)
        else:
            return


def _environment_layers(environment: Mapping[str, str], problems: list[Problem]) -> Iterator[_Layer]:
    seen: dict[Path, str] = {}
    for name in sorted(environment):
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        path: Path = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        if path in seen:
            problems.append(Problem(path, f"set twice, by {seen[path]} and {name}", "Keep one of the two.", name))
            continue
        seen[path] = name
        yield from _setting(Origin.ENVIRONMENT, path, environment[name], place=name, problems=problems)


def _flag_layers(overrides: Sequence[str], problems: list[Problem]) -> Iterator[_Layer]:
    for override in overrides:
        key, equals, value = override.partition("=")
        path: Path = tuple(key.strip().split("."))
        if not equals:
            problems.append(Problem((), "expected PATH=VALUE", "For example slo.ttft_ms=300.", f"--set {override}"))
            continue
        yield from _setting(Origin.FLAG, path, value, place=f"--set {key.strip()}", problems=problems)


def _setting(origin: Origin, path: Path, text: str, *, place: str, problems: list[Problem]) -> Iterator[_Layer]:
    """The layer of one variable or flag, or none and a problem."""
    for length in range(1, len(path) + 1):
        if node_at(path[:length]) is None:
            problem = unknown_key(path[: length - 1], str(path[length - 1]))
            problems.append(replace(problem, place=place))
            return
    try:
        value = text if is_text_only(path) else read_yaml(text).data
    except YamlTextError as error:
        problems.append(Problem(path, f"expected {describe(path)}, got text that is {error.what}", error.hint, place))
        return
    yield _Layer(origin, nested(path, value), {path: place})


def _place(path: Path, layers: Sequence[_Layer]) -> str:
    """Where the value at `path` was set, or else the section round it; empty for a value nobody set."""
    for end in range(len(path), 0, -1):
        around = (_place_of_value(path[:end], layer) for layer in reversed(layers))
        inside = (_place_in_section(path[:end], layer) for layer in reversed(layers))
        if place := next(filter(None, chain(around, inside)), None):
            return place
    return ""


def _place_of_value(path: Path, layer: _Layer) -> str | None:
    if not has_path(layer.data, path):
        return None
    return next((layer.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in layer.places), None)


def _place_in_section(path: Path, layer: _Layer) -> str | None:
    return next((place for at, place in layer.places.items() if at[: len(path)] == path), None)


def _origin_of(path: Path, layers: Sequence[_Layer]) -> Origin:
    return next((layer.origin for layer in reversed(layers) if has_path(layer.data, path)), Origin.DEFAULT)
