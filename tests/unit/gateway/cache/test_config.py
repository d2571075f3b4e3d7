from __future__ import annotations

import math

import pytest

from lightship.gateway.cache.config import CacheConfig, cache_problems


def test_cache_config_defaults_make_sense() -> None:
    assert list(cache_problems(CacheConfig())) == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (CacheConfig(ttl_s=0), "ttl_s: must be above 0 and finite, got 0"),
        (CacheConfig(ttl_s=math.nan), "ttl_s: must be above 0 and finite, got nan"),
        (CacheConfig(max_entry_bytes=0), "max_entry_bytes: must be at least 1, got 0"),
        (CacheConfig(max_bytes=10), "max_entry_bytes: must not be above max_bytes (10), got 1048576"),
        (CacheConfig(max_flight_bytes=10), "max_entry_bytes: must not be above max_flight_bytes (10), got 1048576"),
    ],
)
def test_cache_config_problem_names_key_and_value(config: CacheConfig, problem: str) -> None:
    assert list(cache_problems(config)) == [problem]
