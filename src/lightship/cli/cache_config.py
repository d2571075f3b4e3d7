"""From a spec to the configuration of the gateway's response cache: pure."""

from __future__ import annotations

from lightship.gateway.cache.config import CacheConfig
from lightship.spec.document import Spec


def cache_config(spec: Spec) -> CacheConfig | None:
    """What the exact response cache may keep; None where the spec leaves it out."""
    exact = spec.gateway.cache.exact
    if exact is None:
        return None
    return CacheConfig(
        ttl_s=exact.ttl_s,
        max_bytes=exact.max_size,
        max_entry_bytes=exact.max_answer_size,
        max_flight_bytes=max(CacheConfig().max_flight_bytes, exact.max_answer_size),
        deterministic_only=exact.deterministic_only,
        accepts_seed=exact.accept_seed,
    )
