"""What the exact response cache may keep, for how long, and which requests it is for."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The section `cache` of a gateway's configuration; without it nothing is stored.

    Where answers are kept follows from the section `state`: memory, SQLite or Redis.

    Args:
        ttl_s: Longest time an answer is given again.
        max_bytes: All answers together; Redis bounds them itself (`maxmemory`).
        max_entry_bytes: One answer; a longer one is passed on and not stored.
        max_flight_bytes: Answers under way that several clients read, together, while they come.
        deterministic_only: Whether only requests with `temperature: 0` are answered from the cache.
        accepts_seed: Whether a request with a `seed` counts as deterministic too, whatever its temperature.
    """

    ttl_s: float = 3600.0
    max_bytes: int = 256 * 2**20
    max_entry_bytes: int = 2**20
    max_flight_bytes: int = 64 * 2**20
    deterministic_only: bool = True
    accepts_seed: bool = False


def cache_problems(config: CacheConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    if not 0 < config.ttl_s < math.inf:
        yield f"ttl_s: must be above 0 and finite, got {config.ttl_s:g}"
    for name in ("max_bytes", "max_entry_bytes", "max_flight_bytes"):
        if getattr(config, name) < 1:
            yield f"{name}: must be at least 1, got {getattr(config, name)}"
    for name in ("max_bytes", "max_flight_bytes"):
        if 0 < getattr(config, name) < config.max_entry_bytes:
            yield f"max_entry_bytes: must not be above {name} ({getattr(config, name)}), got {config.max_entry_bytes}"
