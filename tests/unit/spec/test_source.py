"""Model sources: the grammar, its refusals, and the way back to text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import SpecError
from lightship.spec.source import BuiltinSource, FolderSource, HubSource, Source, parse_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("builtin:fairytales", BuiltinSource("fairytales")),
        ("./models/tiny", FolderSource(Path("models/tiny"))),
        ("../tiny", FolderSource(Path("../tiny"))),
        ("/srv/models/tiny", FolderSource(Path("/srv/models/tiny"))),
        ("hf:org/name@main", HubSource("org/name", "main")),
        (f"hf:org/na.me-1@{COMMIT}", HubSource("org/na.me-1", COMMIT)),
        ("hf:org/name@refs/pr/3", HubSource("org/name", "refs/pr/3")),
    ],
)
def test_parse_source_valid_text_gives_value_and_back(text: str, expected: Source) -> None:
    assert parse_source(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hf:org/name", "hf:org/name@COMMIT"),
        ("hf:name@main", "hf:org/name@revision"),
        ("hf:org/name@", "a branch, a tag or a commit"),
        ("hf:org/name@../../etc", "a branch, a tag or a commit"),
        ("hf:org/../name@main", "hf:org/name@revision"),
        ("builtin:", "builtin:fairytales"),
        ("builtin:Fairy Tales", "builtin:fairytales"),
        ("models/tiny", "./models/tiny"),
        ("~/models", "does not expand ~"),
        ("https://example.com/model", "builtin:NAME"),
        ("", "builtin:NAME"),
        ("./a\0b", "builtin:NAME"),
    ],
)
def test_parse_source_bad_text_is_refused_with_hint(text: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(text)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("builtin:fairytales", "fairytales"),
        ("./models/my model (1)", "my-model-1"),
        ("/", "model"),
        ("..", None),
        ("hf:org/name@main", "name"),
    ],
)
def test_default_name_is_last_part_made_fit_for_clients(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(SpecError):
            parse_source(text)
    else:
        assert parse_source(text).default_name == name


def test_is_pinned_only_for_a_commit() -> None:
    assert HubSource("org/name", COMMIT).is_pinned
    assert not HubSource("org/name", "main").is_pinned


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=40) | st.builds("hf:{}@{}".format, st.text(max_size=12), st.text(max_size=8)))
def test_parse_source_any_text_is_refused_or_comes_back_equal(text: str) -> None:
    try:
        source = parse_source(text)
    except SpecError:
        return
    assert parse_source(str(source)) == source
