"""What a renderer makes: files with content, the arithmetic behind their numbers, and notes for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

MANAGED_BY = "lightship"
HEADER = (
    f"# managed by {MANAGED_BY}: rendered from a spec by `lightship deploy`; changes are lost at the next rendering"
)
_WIDTH = 110
# What a YAML reader may take for a number, although PyYAML does not: 12e45678 is a float in YAML 1.2 and in Go.
_NUMBER_LIKE = re.compile(r"[-+.]?[0-9][0-9a-fA-FxXoO_.,:eE+-]*|[yYnN]|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|=|<<")


@dataclass(frozen=True)
class Document:
    """One file below the output folder; `path` has forward slashes."""

    path: str
    content: str
    is_executable: bool = False


@dataclass(frozen=True)
class Reckoning:
    """One number of a document: what it is, its value with unit, and how it came about."""

    what: str
    value: str
    how: str


@dataclass(frozen=True)
class Rendered:
    """Everything for one platform.

    `resources` are the parsed contents of the documents that a platform's API reads, for `check`; `notes` what a user
    has to know or to do.
    """

    platform: str
    documents: tuple[Document, ...]
    reckonings: tuple[Reckoning, ...]
    notes: tuple[str, ...]
    resources: tuple[dict[str, Any], ...] = ()


class _Dumper(yaml.SafeDumper):
    """Plain YAML: no anchors, text over several lines as such, nothing that reads as a number where text is meant."""

    def ignore_aliases(self, data: Any) -> bool:
        """Every value is written where it stands."""
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists are indented below their key."""
        del indentless
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    if "\n" in value:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    style = '"' if _NUMBER_LIKE.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(*resources: Any) -> str:
    """The resources as YAML documents of one file, keys in their order, under our header."""
    bodies = (yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True) for one in resources)
    return f"{HEADER}\n" + "---\n".join(bodies)


def unique_paths(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The documents, in order.

    Raises: ValueError: two have the same path, which is a mistake of a renderer.
    """
    found: dict[str, Document] = {}
    for one in documents:
        if one.path in found:
            raise ValueError(f"{one.path} is rendered twice")
        found[one.path] = one
    return tuple(found.values())


def without_none(mapping: dict[str, Any]) -> dict[str, Any]:
    """The mapping without the keys whose value is None: how optional fields are left out of a resource."""
    return {key: value for key, value in mapping.items() if value is not None}


def one_line(words: Sequence[str]) -> str:
    """Sentences joined for a header or a note."""
    return " ".join(words)
