"""The API's description: that it is whole. That it is valid, and true of a running gateway, the fuzz tests hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lightship.gateway.api.openapi import openapi_document, openapi_json
from lightship.wire.paths import API_PATHS


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document: dict[str, Any], reference: str) -> object:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_openapi_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    document = openapi_document()
    found = set(references(document))
    for reference in found:
        assert resolve(document, reference)
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert schemas - found == set()


def test_openapi_every_path_of_the_table_is_described_with_its_errors() -> None:
    paths = openapi_document()["paths"]
    for path, entry in API_PATHS.items():
        operation = paths[path]["post"]
        assert set(operation["responses"]) >= {
            "200",
            "400",
            "401",
            "404",
            "413",
            "415",
            "429",
            "500",
            "502",
            "503",
            "504",
        }
        assert ("text/event-stream" in operation["responses"]["200"]["content"]) is entry.is_streamable


def test_openapi_operations_have_names_of_their_own() -> None:
    paths = openapi_document()["paths"]
    names = [
        entry["operationId"] for path in paths.values() for method, entry in path.items() if method != "parameters"
    ]
    assert len(set(names)) == len(names)


def test_openapi_json_is_the_document() -> None:
    assert json.loads(openapi_json()) == openapi_document()


def test_openapi_request_fields_are_those_that_are_read() -> None:
    """Fields an engine knows beyond these are passed on, so a body may have more, but never another type for these."""
    schemas = openapi_document()["components"]["schemas"]
    assert schemas["ChatRequest"]["required"] == ["model", "messages"]
    assert schemas["ChatRequest"]["additionalProperties"] is True
    assert schemas["TokenizeRequest"]["required"] == ["model"]
    assert schemas["DetokenizeRequest"]["required"] == ["model", "tokens"]
