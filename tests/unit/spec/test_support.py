"""Declared settings that are not honoured yet are refused, never ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lightship.errors import SpecError
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec
from lightship.spec.paths import Path, nested, show_path
from lightship.spec.schema import node_at
from lightship.spec.support import NOT_SUPPORTED_YET, unsupported_settings

# One value for each path that a user could reasonably want.
WANTED: dict[str, Any] = {
    "quality.reference": "fp16",
    "quality.budget": {"degraded_requests": 0.1, "per": "1d"},
    "engines.vllm": {},
    "engines.llamacpp": {"threads": 2},
    "engines.simulated": {"tokens_per_s": 5},
    "gateway.keys.required": True,
    "gateway.limits": {"default": {"requests_per_min": 600}},
    "gateway.priorities": {"batch": {"degrade": "preferred"}},
    "gateway.cache.exact": {"ttl_s": 60},
    "gateway.cache.semantic": {},
    "upstreams": [{"name": "cloud", "base_url": "https://example.com/v1"}],
    "deploy.kubernetes": {},
}


@pytest.mark.parametrize("path", NOT_SUPPORTED_YET, ids=show_path)
def test_unsupported_setting_away_from_default_is_refused_by_path(path: Path) -> None:
    data = nested(path, WANTED[show_path(path)])
    with pytest.raises(SpecError) as caught:
        parse_spec(json.dumps(data))
    told = [line for line in str(caught.value).splitlines() if "not supported yet" in line]
    assert sum(f" {show_path(path)}: " in line for line in told) == 1


def test_unsupported_table_names_only_paths_of_the_spec() -> None:
    assert [show_path(path) for path in NOT_SUPPORTED_YET if node_at(path) is None] == []


def test_unsupported_settings_defaults_have_none() -> None:
    assert list(unsupported_settings(Spec())) == []


def test_unsupported_setting_in_environment_names_the_variable() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec("", environment={"LIGHTSHIP__GATEWAY__CACHE__SEMANTIC__MODE": "serve"})
    name = "LIGHTSHIP__GATEWAY__CACHE__SEMANTIC__MODE"
    assert str(caught.value) == f"{name}: gateway.cache.semantic: this section is not supported yet. Remove it."
