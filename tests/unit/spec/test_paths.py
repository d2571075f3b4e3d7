"""Paths into plain data."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.spec.paths import Path, has_path, merged, value_at, without


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": 5}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_merged_puts_upper_over_lower_mapping_by_mapping(lower: Any, upper: Any, expected: Any) -> None:
    assert merged(lower, upper) == expected


def test_merged_and_without_change_neither_argument() -> None:
    lower, upper = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert without(merged(lower, upper), ("a", "b")) == {"a": {"c": 2}}
    assert (lower, upper) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ((), True),
        (("a",), True),
        (("a", "n"), True),
        (("a", "l", 1), True),
        (("a", "l", 2), False),
        (("a", "l", "x"), False),
        (("a", "n", "x"), False),
        (("b",), False),
    ],
)
def test_has_path_agrees_with_value_at(path: Path, is_there: bool) -> None:
    data = {"a": {"n": None, "l": [1, 2]}}
    assert has_path(data, path) is is_there
    if is_there:
        value_at(data, path)
    else:
        with pytest.raises((KeyError, IndexError, TypeError)):
            value_at(data, path)
