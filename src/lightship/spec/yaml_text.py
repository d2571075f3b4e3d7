"""YAML text to plain data, strictly: what a spec needs of YAML and nothing more.

Ours rather than `yaml.safe_load`, which keeps the last of two equal keys, expands aliases without bound, reads `no` as
false and `010` as eight, and knows no lines once the data is built. Scalars follow the YAML 1.2 core schema.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from lightship.spec.paths import Path

# A spec is written by hand: 256 KiB is far above any real one, and is read in seconds rather than minutes.
MAX_TEXT_BYTES = 2**18
# Sections nest six deep; the limit keeps hostile brackets from exhausting the stack.
MAX_DEPTH = 32

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
# Python refuses to read integers of more digits; a spec has no use for them either.
_MAX_NUMBER_CHARS = 400


class YamlTextError(Exception):
    """The text is not the YAML a spec may use.

    Args:
        what: What is wrong.
        line: Line in the text, counted from 1; None when the whole text is meant.
        hint: What to do about it.
    """

    def __init__(self, what: str, *, line: int | None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.hint = hint


@dataclass(frozen=True)
class PlainDocument:
    """Data of one YAML text (dict, list, str, int, float, bool, None) and the line of each path in it."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)


class _Composer(yaml.SafeLoader):
    """Reads nodes without aliases and tags, never deeper than `MAX_DEPTH`."""

    # Plain scalars stay text here; `_plain_scalar` reads them.
    yaml_implicit_resolvers: dict[Hashable, Any] = {}  # noqa: RUF012 - the base class reads it like this

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            hint = "Write the value out where it is needed."
            raise YamlTextError("anchors and aliases are not allowed", line=_line(event.start_mark), hint=hint)
        if getattr(event, "tag", None) is not None:
            raise YamlTextError(f"the tag {event.tag} is not allowed", line=_line(event.start_mark), hint="Remove it.")
        if self._depth >= MAX_DEPTH:
            raise YamlTextError(f"nested deeper than {MAX_DEPTH} levels", line=_line(event.start_mark))
        self._depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        return node


def read_yaml(text: str) -> PlainDocument:
    """The data of `text`; None for an empty text.

    Raises: YamlTextError: too long, not YAML, more than one document, a key that is repeated or not text, an anchor, an
        alias or a tag.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise YamlTextError(f"longer than {MAX_TEXT_BYTES} bytes", line=None, hint="A spec is a short text.")
    try:
        root = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(f"not YAML: {error.problem}", line=_line(error.problem_mark)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise YamlTextError("not YAML: contains a character that YAML does not allow", line=line) from error
    lines: dict[Path, int] = {}
    return PlainDocument(None if root is None else _plain(root, (), lines), lines)


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, _line(node.start_mark) or 1)
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, path, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines) for index, item in enumerate(node.value)]
    is_quoted = isinstance(node, yaml.ScalarNode) and bool(node.style)
    return node.value if is_quoted else _plain_scalar(node.value, _line(node.start_mark))


def _plain_mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = _line(key_node.start_mark) or 1
        key = _plain(key_node, (*path, "?"), {})
        if not isinstance(key, str):
            raise YamlTextError("a key that is not text", line=line, hint="Put quotes around the key.")
        if key in data:
            hint = f"Keep one of the two; the first is in line {lines[*path, key]}."
            raise YamlTextError(f"the key {key!r} is there twice", line=line, hint=hint)
        lines[*path, key] = line
        data[key] = _plain(value_node, (*path, key), lines)
    return data


def _plain_scalar(text: str, line: int | None) -> Any:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if not (is_int := _INT.fullmatch(text) is not None) and not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MAX_NUMBER_CHARS:
        raise YamlTextError(f"a number of {len(text)} digits", line=line)
    if is_int:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text)


def _line(mark: yaml.Mark | None) -> int | None:
    return None if mark is None else int(mark.line) + 1
