"""The JSON Schema of the spec, and answers read from it: which paths exist, and what belongs at each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from lightship.spec.document import Spec
from lightship.spec.paths import Path

Node = Mapping[str, Any]


def spec_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every valid spec satisfies; for editors and other tools."""
    generated = Spec.model_json_schema(mode="serialization")
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lightship.yaml",
        **{key: value for key, value in generated.items() if key != "title"},
    }
    for definition in [schema, *schema["$defs"].values()]:
        for node in definition.get("properties", {}).values():
            node.pop("title", None)
            if "$ref" in node:
                node.pop("default", None)  # the section's own fields say their defaults
                node.setdefault("description", schema["$defs"][_reference(node)]["description"])
            if "patternProperties" in node:
                node["additionalProperties"] = False  # validation refuses other names, so the schema says so
    return schema


@cache
def _schema() -> Node:
    return spec_json_schema()


def node_at(path: Path) -> Node | None:
    """The part of the schema that describes `path`; None when the spec has no such path."""
    node = _schema()
    for part in path:
        found = next((child for option in _options(node) if (child := _child(option, part)) is not None), None)
        if found is None:
            return None
        node = found
    return node


def keys_at(path: Path) -> list[str]:
    """The fixed keys of the section at `path`, in order; empty when it is none."""
    node = node_at(path)
    return [] if node is None else [key for option in _options(node) for key in option.get("properties", {})]


def leaf_paths() -> list[Path]:
    """Every path of the spec that is not a section itself; paths inside lists and free-key mappings are left out."""
    return list(_leaves(_schema(), ()))


def is_text_only(path: Path) -> bool:
    """Whether only text can stand at `path`, so that a flag's value needs no quotes to be text."""
    node = node_at(path)
    return node is not None and all(option.get("type") == "string" for option in _options(node))


def nearest_path(parent: Path, key: str) -> Path | None:
    """The valid path the author of `key` in section `parent` most likely meant; None when nothing is near."""
    close = difflib.get_close_matches(key, keys_at(parent), n=1)
    if close:
        return (*parent, close[0])
    same_name = [path for path in _all_paths() if path[-1] == key]
    if same_name:
        return same_name[0]
    by_text = {str(path[-1]): path for path in reversed(_all_paths())}
    near = difflib.get_close_matches(key, by_text, n=1, cutoff=0.85)
    return by_text[near[0]] if near else None


def describe(path: Path) -> str:
    """What may stand at `path`, as the end of a sentence that begins with "expected"."""
    node = node_at(path)
    return "nothing" if node is None else _describe(node)


def _describe(node: Node) -> str:
    return " or ".join(_describe_option(option) for option in _options(node, with_null=True))


def _describe_option(option: Node) -> str:
    if "const" in option:
        return str(option["const"])
    if "enum" in option:
        return f"one of {', '.join(map(str, option['enum']))}"
    return _DESCRIBED_TYPES[option["type"]](option)


def _describe_text(option: Node) -> str:
    examples = [json.dumps(example) for example in option.get("examples", [])]
    return f"text like {' or '.join(examples)}" if examples else "text"


def _describe_list(option: Node) -> str:
    return f"a list of {option.get('minItems', 0)} to {option['maxItems']} entries, each {_describe(option['items'])}"


def _describe_section(option: Node) -> str:
    keys = ", ".join(option.get("properties", {}))
    return f"a section with the keys {keys}" if keys else "a mapping from names to sections"


_DESCRIBED_TYPES: dict[str, Callable[[Node], str]] = {
    "integer": lambda option: f"a whole number{_bounds(option)}",
    "number": lambda option: f"a number{_bounds(option)}",
    "string": _describe_text,
    "boolean": lambda option: "true or false",
    "array": _describe_list,
    "object": _describe_section,
    "null": lambda option: "null",
}


def _bounds(option: Node) -> str:
    high = f"{option['maximum']:_}"
    return (
        f" from {option['minimum']:_} to {high}"
        if "minimum" in option
        else (f" above {option['exclusiveMinimum']:_}, at most {high}")
    )


def _options(node: Node, *, with_null: bool = False) -> Iterator[Node]:
    if "$ref" in node:
        node = _schema()["$defs"][_reference(node)]
    alternatives = node.get("anyOf") or node.get("oneOf")
    if alternatives is None:
        if with_null or node.get("type") != "null":
            yield node
        return
    for alternative in alternatives:
        yield from _options(alternative, with_null=with_null)


def _child(option: Node, part: str | int) -> Node | None:
    if isinstance(part, int):
        return option.get("items")
    properties: Node = option.get("properties", {})
    free_keys: Node = option.get("patternProperties", {})  # the pattern is validation's business
    child: Node | None = properties.get(part, next(iter(free_keys.values()), None))
    return child


def _leaves(node: Node, path: Path) -> Iterator[Path]:
    children = {key: child for option in _options(node) for key, child in option.get("properties", {}).items()}
    if not children:
        yield path
    for key, child in children.items():
        yield from _leaves(child, (*path, key))


@cache
def _all_paths() -> list[Path]:
    paths: dict[Path, None] = {}
    for leaf in leaf_paths():
        paths.update({leaf[:length]: None for length in range(1, len(leaf) + 1)})
    return list(paths)


def _reference(node: Node) -> str:
    return str(node["$ref"]).removeprefix("#/$defs/")
