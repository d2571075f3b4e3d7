"""Every value of a spec by its path, the way `lightship spec explain` lists them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lightship.spec.base import StrictModel
from lightship.spec.paths import Path
from lightship.spec.yaml_text import YamlTextError, read_yaml


def leaves(spec: StrictModel) -> dict[Path, Any]:
    """Value of every path that is not itself a section, in the order of the spec, as plain data.

    A section that is left out (null), a list and a mapping with free keys are one value each.
    """
    return dict(_leaves(spec, spec.model_dump(mode="json"), ()))


def show_value(value: Any) -> str:
    """The value on one line, as it could stand in a spec: text bare where YAML allows it, everything else as JSON.

    >>> show_value("1 GiB"), show_value("5"), show_value([1, 8])
    ('1 GiB', '"5"', '[1, 8]')
    """
    return value if isinstance(value, str) and _reads_back(value) else json.dumps(value, ensure_ascii=False)


def _reads_back(text: str) -> bool:
    try:
        return bool(read_yaml(text).data == text)
    except YamlTextError:
        return False


def _leaves(value: Any, plain: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, StrictModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), plain[name], (*path, name))
    else:
        is_whole = isinstance(plain, float) and plain.is_integer()
        yield path, int(plain) if is_whole else plain
