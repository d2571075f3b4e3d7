from __future__ import annotations

import math

import pytest

from lightship.gateway.cache.control import CacheControl, read_cache_control


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", CacheControl()),
        ("no-store", CacheControl(stores=False)),
        ("No-Cache", CacheControl(reads=False)),
        ("no-cache, no-store", CacheControl(reads=False, stores=False)),
        ("max-age=60", CacheControl(max_age_s=60)),
        ('max-age="60" , max-age=30', CacheControl(max_age_s=30)),
        ("max-age=0", CacheControl(max_age_s=0)),
        ("max-age=-1", CacheControl(max_age_s=0)),
        ("max-age", CacheControl(max_age_s=0)),
        ("max-age=\u0661", CacheControl(max_age_s=0)),
        ("max-age=99999999999", CacheControl(max_age_s=0)),
        ("private, min-fresh=5, x=no-store", CacheControl()),
    ],
)
def test_cache_control_directives_are_read_and_unknown_ones_skipped(value: str, expected: CacheControl) -> None:
    assert read_cache_control(value) == expected
    assert CacheControl().max_age_s == math.inf
