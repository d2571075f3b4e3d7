"""Paths into the plain data of a spec, such as `gateway.timeouts.total_s` or `upstreams[0].name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str | int, ...]


def show_path(path: Path) -> str:
    """The path as people write it.

    >>> show_path(("upstreams", 0, "name"))
    'upstreams[0].name'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def has_path(data: Any, path: Path) -> bool:
    """Whether `data` holds a value (null included) at `path`."""
    for part in path:
        is_key = isinstance(data, Mapping) and part in data
        is_index = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not is_key and not is_index:
            return False
        data = data[part]
    return True


def value_at(data: Any, path: Path) -> Any:
    """The value at `path`.

    Raises: KeyError, IndexError, TypeError: there is none (see `has_path`).
    """
    for part in path:
        data = data[part]
    return data


def nested(path: Path, value: Any) -> Any:
    """The smallest data that has `value` at `path`.

    >>> nested(("a", "b"), 1)
    {'a': {'b': 1}}
    """
    for part in reversed(path):
        value = {part: value}
    return value


def merged(lower: Any, upper: Any) -> Any:
    """`lower` with the values of `upper` put over it, mapping by mapping; neither is changed.

    A mapping over a value of another kind leaves that value, so that validation can still refuse it.
    """
    if not isinstance(upper, Mapping):
        return upper
    if lower is None:
        return dict(upper)
    if not isinstance(lower, Mapping):
        return lower
    return {**lower, **{key: merged(lower[key], value) if key in lower else value for key, value in upper.items()}}


def without(data: Any, path: Path) -> Any:
    """`data` without the key at `path`, which must lead through mappings only; `data` is not changed."""
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    return {**data, path[0]: without(data[path[0]], path[1:])}
