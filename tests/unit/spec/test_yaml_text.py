"""YAML as specs use it: strict, bounded, with line numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.spec.yaml_text import MAX_DEPTH, MAX_TEXT_BYTES, YamlTextError, read_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("010", 10),
        ("0o10", 8),
        ("0xff", 255),
        ("-3", -3),
        ("1e-3", 0.001),
        ("2.5", 2.5),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("2001-01-01", "2001-01-01"),
        ("12:30", "12:30"),
        (".inf", ".inf"),
        ('"5"', "5"),
        ("'true'", "true"),
        ("1_000", "1_000"),
        ("<<", "<<"),
        ("[1, a, {b: null}]", [1, "a", {"b": None}]),
        ("a:\n  b: |\n    5\n", {"a": {"b": "5\n"}}),
    ],
)
def test_read_yaml_scalar_follows_yaml_1_2_core(text: str, expected: Any) -> None:
    data = read_yaml(text).data
    assert (data, type(data)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "'c' is there twice"),
        ('a: 1\n"a": 2\n', 2, "'a' is there twice"),
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a:\n\tb: 1\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\nb: \x07\n", 2, "a character that YAML does not allow"),
        ("a: &x 1\n", 1, "anchors and aliases are not allowed"),
        ("a: 1\nb: *x\n", 2, "anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "python/object/apply:os.system is not allowed"),
        ("a: !!str 5\n", 1, "is not allowed"),
        ("5: a\n", 1, "a key that is not text"),
        ("? [a]\n: b\n", 1, "a key that is not text"),
        ("a: " + "9" * 5000, 1, "a number of 5000 digits"),
        ("\n" + "[" * 5000, 2, f"nested deeper than {MAX_DEPTH}"),
        ("a:\n " + "{a: " * 5000, 2, f"nested deeper than {MAX_DEPTH}"),
    ],
)
def test_read_yaml_bad_text_is_refused_with_line(text: str, line: int, message: str) -> None:
    with pytest.raises(YamlTextError, match=re.escape(message)) as caught:
        read_yaml(text)
    assert caught.value.line == line


def test_read_yaml_text_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(YamlTextError, match="longer than"):
        read_yaml("# " + "é" * (MAX_TEXT_BYTES // 2))


def test_read_yaml_remembers_the_line_of_every_path() -> None:
    lines = read_yaml("a:\n  b: 1\n  c:\n    - x\n    - y\n").lines
    assert lines == {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 4, ("a", "c", 1): 5}


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc 1:", min_size=1, max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, database=None)
@given(_JSON)
def test_read_yaml_any_json_reads_as_json_does(data: Any) -> None:
    assert read_yaml(json.dumps(data)).data == data
