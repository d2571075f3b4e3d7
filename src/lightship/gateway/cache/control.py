"""What a request's `cache-control` header asks of the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheControl:
    """The directives of a request that mean something here.

    Args:
        reads: Whether a stored answer may be given.
        stores: Whether the answer may be stored.
        max_age_s: Oldest answer that is accepted.
    """

    reads: bool = True
    stores: bool = True
    max_age_s: float = math.inf


def read_cache_control(value: str) -> CacheControl:
    """The directives in a header's value; unknown ones are skipped, as HTTP wants it.

    A `max-age` that is no whole number accepts nothing: what cannot be read must not widen what is allowed.
    Source: RFC 9111 sections 5.2.1 and 4.2.1.

    >>> read_cache_control("no-store, max-age=60")
    CacheControl(reads=True, stores=False, max_age_s=60.0)
    """
    names: set[str] = set()
    max_age_s = math.inf
    for directive in value.lower().split(","):
        name, _, argument = directive.strip().partition("=")
        names.add(name)
        if name == "max-age":
            digits = argument.strip('"')
            is_number = digits.isascii() and digits.isdigit() and len(digits) <= 10
            max_age_s = min(max_age_s, float(digits) if is_number else 0.0)
    return CacheControl(reads="no-cache" not in names, stores="no-store" not in names, max_age_s=max_age_s)
