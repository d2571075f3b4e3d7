"""The spec's schema and example are current, and every field says what it means, in which unit, within which bounds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lightship.errors import SpecError
from lightship.spec.base import StrictModel
from lightship.spec.document import Spec
from lightship.spec.explain import leaves
from lightship.spec.load import Origin, parse_spec
from lightship.spec.paths import has_path, show_path
from lightship.spec.schema import leaf_paths, spec_json_schema
from lightship.spec.support import NOT_SUPPORTED_YET
from lightship.spec.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_FILE = ROOT / "docs" / "spec.schema.json"
EXAMPLE = (ROOT / "lightship.example.yaml").read_text("utf-8")
SUPPORTED, LATER = re.split(r"^# -+ Declared, not supported yet.*\n", EXAMPLE, flags=re.MULTILINE)
LATER_TEXT = re.sub(r"^# ?", "", LATER, flags=re.MULTILINE)
UNIT_IN_NAME = ("_ms", "_s", "_share", "_per_min", "_per_hour")


def models() -> Iterator[type[StrictModel]]:
    """Every section of the spec, found by inheritance so that none can be left out."""
    pending = list(StrictModel.__subclasses__())
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        yield model


def options(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for option in node.get("anyOf") or node.get("oneOf") or [node]:
        yield option
        if "items" in option:
            yield from options(option["items"])


def is_bounded(option: Mapping[str, Any]) -> bool:
    if "$ref" in option or "const" in option or "enum" in option:
        return True
    wanted: dict[str, list[set[str]]] = {
        "number": [{"minimum", "exclusiveMinimum"}, {"maximum"}],
        "integer": [{"minimum", "exclusiveMinimum"}, {"maximum"}],
        "string": [{"maxLength"}],
        "array": [{"maxItems"}],
        "object": [{"maxProperties"}],
        "boolean": [],
        "null": [],
    }
    return all(names & set(option) for names in wanted[option["type"]])


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_spec_model_is_strict_and_each_field_has_description_unit_and_bounds(model: type[StrictModel]) -> None:
    config = model.model_config
    assert (config.get("extra"), config.get("frozen"), config.get("strict")) == ("forbid", True, True)
    schema = spec_json_schema()
    properties = schema["properties"] if model is Spec else schema["$defs"][model.__name__]["properties"]
    assert set(properties) == set(model.model_fields)
    for name, field in model.model_fields.items():
        described = field.description or ""
        assert len(described) > 10, name
        assert described.endswith("."), name
        is_quantity = any(option.get("type") in {"integer", "number"} for option in options(properties[name]))
        assert not is_quantity or name.endswith(UNIT_IN_NAME) or "Unit: " in described, f"{name} names no unit"
        assert all(is_bounded(option) for option in options(properties[name])), f"{name} has no bounds"


def test_spec_every_section_of_the_document_has_only_defaults() -> None:
    schema = spec_json_schema()
    sections = [schema, *(schema["$defs"][node["$ref"].split("/")[-1]] for node in _sections(schema))]
    assert len(sections) > 10
    assert [section for section in sections if "required" in section] == []


def _sections(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pending = list(schema["properties"].values())
    while pending:
        node = pending.pop()
        if "$ref" in node:
            yield node
            pending += schema["$defs"][node["$ref"].split("/")[-1]]["properties"].values()


def test_spec_schema_file_is_current() -> None:
    """UPDATE_GOLDENS=1 rewrites the file and still fails, so that the change is looked at."""
    generated = json.dumps(spec_json_schema(), indent=2) + "\n"
    committed = SCHEMA_FILE.read_text("utf-8") if SCHEMA_FILE.exists() else ""
    if os.environ.get("UPDATE_GOLDENS") == "1":
        SCHEMA_FILE.write_text(generated, encoding="utf-8")
    assert committed == generated, "run: lightship spec schema > docs/spec.schema.json"


def test_example_equals_the_defaults() -> None:
    assert parse_spec(EXAMPLE).spec == Spec()


def test_example_holds_every_supported_setting() -> None:
    data = read_yaml(SUPPORTED).data
    later = [path for path in leaf_paths() if any(path[: len(prefix)] == prefix for prefix in NOT_SUPPORTED_YET)]
    missing = [path for path in leaf_paths() if path not in later and not has_path(data, path)]
    # The keys of a section that is null by default stand in the comment beside it.
    left_out = [path for path in missing if has_path(data, path[:-1]) and re.search(rf"#.*\b{path[-1]}:", SUPPORTED)]
    assert [show_path(path) for path in missing if path not in left_out] == []


def test_example_lists_what_is_not_supported_yet_and_each_is_refused() -> None:
    data = read_yaml(LATER_TEXT).data
    assert [show_path(path) for path in NOT_SUPPORTED_YET if not has_path(data, path)] == []
    with pytest.raises(SpecError) as caught:
        parse_spec(LATER_TEXT)
    refused = re.findall(r": ([\w.]+): .* is not supported yet", str(caught.value))
    assert refused == [show_path(path) for path in NOT_SUPPORTED_YET]


def test_example_sets_nothing_twice() -> None:
    origins = parse_spec(EXAMPLE).origins
    unset = {path for path, origin in origins.items() if origin is Origin.DEFAULT}
    sections_left_out = {show_path(path) for path in leaves(Spec()) if path in NOT_SUPPORTED_YET}
    assert unset <= sections_left_out


@pytest.mark.parametrize("text", [SUPPORTED, LATER_TEXT], ids=["supported", "later"])
def test_example_satisfies_the_schema(text: str) -> None:
    assert list(schema_errors(read_yaml(text).data, json.loads(SCHEMA_FILE.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "text",
    [
        "slo: {ttft: 1}",
        "slo: {ttft_ms: 0}",
        "slo: {ttft_ms: 600001}",
        "slo: {ttft_ms: true}",
        "slo: null",
        "model: {name: 5}",
        "model: {source: models}",
        "model: {source: 'hf:org/name'}",
        "variants: []",
        "variants: int8",
        "ladder: [int8]",
        "engines: {openvino: {threads: -1}}",
        "engines: {openvino: {precision: int8}}",
        "engines: {openvino: {kv_cache_size: 1 bananas}}",
        "gateway: {listen: '8080'}",
        "gateway: {limits: {'A B': {}}}",
        "upstreams: [{name: cloud}]",
        "measurement: {concurrencies: [0]}",
        "quality: {budget: {per: 1 bananas}}",
        "- a",
    ],
)
def test_schema_and_parser_refuse_the_same_mistakes(text: str) -> None:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    assert list(schema_errors(read_yaml(text).data, schema)) != []
    with pytest.raises(SpecError, match=r"expected|unknown key|missing|not a|names no|mapping"):
        parse_spec(text)


ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "examples"}
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def has_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def is_number(value: Any) -> bool:
    return has_type(value, "number")


# (value, the keyword's value, the schema round it) -> whether the value satisfies the keyword
KEYWORDS: dict[str, Callable[[Any, Any, Any], bool]] = {
    "type": lambda value, wanted, _: has_type(value, wanted),
    "const": lambda value, wanted, _: bool(value == wanted),
    "enum": lambda value, wanted, _: value in wanted,
    "minimum": lambda value, wanted, _: not is_number(value) or value >= wanted,
    "exclusiveMinimum": lambda value, wanted, _: not is_number(value) or value > wanted,
    "maximum": lambda value, wanted, _: not is_number(value) or value <= wanted,
    "pattern": lambda value, wanted, _: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minLength": lambda value, wanted, _: not isinstance(value, str) or len(value) >= wanted,
    "maxLength": lambda value, wanted, _: not isinstance(value, str) or len(value) <= wanted,
    "minItems": lambda value, wanted, _: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda value, wanted, _: not isinstance(value, list) or len(value) <= wanted,
    "maxProperties": lambda value, wanted, _: not isinstance(value, dict) or len(value) <= wanted,
    "required": lambda value, wanted, _: not isinstance(value, dict) or set(wanted) <= set(value),
    "additionalProperties": lambda value, wanted, node: (
        wanted is not False or not isinstance(value, dict) or not [key for key in value if not _known(key, node)]
    ),
}


def _known(key: str, node: Any) -> bool:
    return key in node.get("properties", {}) or any(re.search(p, key) for p in node.get("patternProperties", {}))


def schema_errors(value: Any, node: Any, root: Any = None, at: str = "") -> Iterator[str]:
    """Where `value` breaks the JSON Schema `node`; knows exactly the keywords in use and fails on any other."""
    root = root or node
    for keyword, wanted in node.items():
        if keyword == "$ref":
            yield from schema_errors(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, at)
        elif keyword in {"anyOf", "oneOf"}:
            matching = [option for option in wanted if not list(schema_errors(value, option, root, at))]
            if not matching or (keyword == "oneOf" and len(matching) > 1):
                yield f"{at}: matches {len(matching)} of {keyword}"
        elif keyword in {"properties", "patternProperties", "items", "propertyNames"}:
            for key, child, below in _children(value, keyword, wanted):
                yield from schema_errors(child, below, root, f"{at}.{key}")
        elif keyword not in ANNOTATIONS and not KEYWORDS[keyword](value, wanted, node):
            yield f"{at}: {keyword} {wanted}"


def _children(value: Any, keyword: str, wanted: Any) -> Iterator[tuple[Any, Any, Any]]:
    if keyword == "items":
        yield from ((index, item, wanted) for index, item in enumerate(value if isinstance(value, list) else []))
        return
    for key, child in value.items() if isinstance(value, dict) else ():
        if keyword == "propertyNames":
            yield key, key, wanted
        elif keyword == "properties" and key in wanted:
            yield key, child, wanted[key]
        elif keyword == "patternProperties":
            yield from ((key, child, below) for pattern, below in wanted.items() if re.search(pattern, key))
