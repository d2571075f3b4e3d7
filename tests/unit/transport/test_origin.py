from __future__ import annotations

import pytest

from lightship.transport.origin import Origin, parse_origin


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", Origin("http", "h", 80, "h")),
        ("http://h:8000/", Origin("http", "h", 8000, "h:8000")),
        (
            "https://api.example.com/v1/openai/",
            Origin("https", "api.example.com", 443, "api.example.com", "/v1/openai"),
        ),
        ("http://[::1]:8080", Origin("http", "::1", 8080, "[::1]:8080")),
        ("HTTP://Host:1", Origin("http", "host", 1, "Host:1")),
    ],
)
def test_parse_origin_address_is_taken_apart(url: str, expected: Origin) -> None:
    assert parse_origin(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:80",
        "ftp://h",
        "http://",
        "http://h:port",
        "http://h:99999",
        "http://h/?a=b",
        "http://h/#a",
        "http://user:secret@h",
        "http://h\r\nx: y",
        "http://h/a b",
        "http://ü",
    ],
)
def test_parse_origin_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_origin(url)
