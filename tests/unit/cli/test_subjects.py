from __future__ import annotations

from pathlib import Path

import pytest

from lightship.cli.subjects import EndpointSubject, RecordSubject, Subject, VariantSubject, parse_subject
from lightship.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int8", VariantSubject("int8")),
        ("int8@openvino", VariantSubject("int8")),
        ("http://127.0.0.1:8000#m@int8", EndpointSubject("http://127.0.0.1:8000", "m@int8")),
        ("http://127.0.0.1:8000", EndpointSubject("http://127.0.0.1:8000", "given")),
        ("https://host/api/v1/#m", EndpointSubject("https://host/api/v1", "m")),
        ("http://[::1]:8000/v1#m", EndpointSubject("http://[::1]:8000/v1", "m")),
        ("old/baseline.json", RecordSubject(Path("old/baseline.json"))),
    ],
)
def test_parse_subject_each_form_is_told_apart(text: str, expected: Subject) -> None:
    assert parse_subject(text, default_model="given") == expected


@pytest.mark.parametrize("text", ["", "./folder", "a/b", "http://", "http://#m", "ftp://host"])
def test_parse_subject_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_subject(text, default_model="given")


def test_parse_subject_endpoint_without_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match="which model"):
        parse_subject("http://127.0.0.1:8000", default_model=None)


def test_parse_subject_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_subject("https://user:secret@host#m", default_model=None)
    assert "secret" not in str(caught.value)
