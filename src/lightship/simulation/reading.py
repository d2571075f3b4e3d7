"""From YAML to a scenario, strictly: an unknown key is an error that names the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lightship.errors import UsageError
from lightship.simulation.checks import scenario_problems
from lightship.simulation.scenario import Scenario
from lightship.spec.yaml_text import YamlTextError, read_yaml

_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*?)`)?$")
_PLACE = re.compile(r"(.*?) - at `(.*?)`$", re.DOTALL)


def load_scenario(path: Path, *, changes: Sequence[str] = ()) -> tuple[Scenario, dict[str, Any]]:
    """The scenario of a file, and its plain data, from which alternatives are made.

    Args:
        path: The file.
        changes: Like `slo.ttft_s=0.5` or `ladder.0.scaling.max_replicas=9`; a later one wins.

    Raises: UsageError: it cannot be read, is no YAML, or says something that makes no sense.
    Effects: reads the file.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"the scenario cannot be read: {why}", where=str(path)) from error
    try:
        data = read_yaml(text).data
    except YamlTextError as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise UsageError(error.what, where=where, hint=error.hint) from error
    if not isinstance(data, dict):
        raise UsageError("a scenario is a mapping", where=str(path), hint="It begins with `ladder:` and `regions:`.")
    for change in changes:
        data = _changed(data, change)
    return scenario_of(data, where=str(path)), data


def scenario_of(data: Mapping[str, Any], *, where: str) -> Scenario:
    """The scenario that plain data describe, checked.

    Raises: UsageError: one message that names every problem of the same kind.
    """
    try:
        scenario = msgspec.convert(data, Scenario)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error), data, where=where) from error
    except ValueError as error:  # what the engine profile's own records refuse
        raise UsageError(str(error), where=where) from error
    problems = list(scenario_problems(scenario))
    if problems:
        what = problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems", *problems])
        raise UsageError(what, where=where)
    return scenario


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario, for editors and other tools."""
    return msgspec.json.schema(Scenario)


def merged(base: Any, change: Any) -> Any:
    """`base` with what `change` says instead: mappings key by key, everything else whole.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    if isinstance(base, Mapping) and isinstance(change, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}
    return change


def _changed(data: dict[str, Any], change: str) -> dict[str, Any]:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError("expected PATH=VALUE", where=f"--set {change}", hint="For example slo.ttft_s=0.5.")
    try:
        value = read_yaml(text).data
    except YamlTextError as error:
        raise UsageError(f"the value is {error.what}", where=f"--set {change}", hint=error.hint) from error
    found = _with(data, key.strip().split("."), value, where=f"--set {change}")
    assert isinstance(found, dict)
    return found


def _with(data: Any, path: Sequence[str], value: Any, *, where: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not head.isdigit() or int(head) >= len(data):
            raise UsageError(f"{head!r} is no entry of a list of {len(data)}", where=where)
        return [_with(one, rest, value, where=where) if str(at) == head else one for at, one in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        raise UsageError(f"{head!r} is below a value that has no parts", where=where)
    return {**(data or {}), head: _with((data or {}).get(head), rest, value, where=where)}


def _shape_error(message: str, data: Any, *, where: str) -> UsageError:
    unknown = _UNKNOWN.search(message)
    if unknown is not None:
        path = (unknown[2] or "$").removeprefix("$").lstrip(".")
        known = _keys_at(path)
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys here: {', '.join(known)}." if known else None
        place = f"{where}: {_named(path, data)}" if path else where
        return UsageError(f"unknown key {unknown[1]!r}", where=place, hint=hint)
    placed = _PLACE.match(message)
    if placed is None:
        return UsageError(message[:1].lower() + message[1:], where=where)
    path = placed[2].removeprefix("$").lstrip(".")
    return UsageError(placed[1][:1].lower() + placed[1][1:], where=f"{where}: {_named(path, data)}")


def _named(path: str, data: Any) -> str:
    """The path with the names of mappings, which the decoder writes as `[...]`, where there is one name only."""
    while "[...]" in path:
        before = path.partition("[...]")[0].strip(".")
        inside = data
        for part in before.split("."):
            inside = inside.get(part, {}) if isinstance(inside, dict) else {}
        name = next(iter(inside)) if isinstance(inside, dict) and len(inside) == 1 else "*"
        path = path.replace("[...]", f".{name}", 1)
    return path


def _keys_at(path: str) -> list[str]:
    """The valid keys of the record at a path like `regions[...].traffic.kinds[0]`."""
    schema = scenario_schema()
    node: Any = _resolved(schema, schema)
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        if part.startswith("["):
            node = node.get("items") or node.get("additionalProperties") or {}
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        node = _resolved(node, schema)
    return list(node.get("properties", {}))


def _resolved(node: Any, schema: Mapping[str, Any]) -> Any:
    if not isinstance(node, dict):
        return {}
    for option in node.get("anyOf", ()):
        if "$ref" in option or "properties" in option:
            node = option
            break
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    return node
