"""The tenants' section of a gateway's configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from lightship.gateway.tenants.limits import NANOUSD_PER_USD, Limits
from lightship.gateway.tenants.store_loss import StoreLoss

# Limits of tenants that have none of their own.
DEFAULT = "default"
# Beyond this, sums in billionths of a dollar would no longer be exact in every store.
MOST_USD = 1e6
_MOST_TOKENS = 10**15


class LimitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one tenant; None sets none. Days and months are UTC."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrent_requests: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    daily_usd: float | None = None
    monthly_usd: float | None = None

    def limits(self) -> Limits:
        """The same in whole numbers."""
        return Limits(
            requests_per_min=self.requests_per_min,
            tokens_per_min=self.tokens_per_min,
            concurrent_requests=self.concurrent_requests,
            daily_tokens=self.daily_tokens,
            monthly_tokens=self.monthly_tokens,
            daily_nanousd=_nanousd(self.daily_usd),
            monthly_nanousd=_nanousd(self.monthly_usd),
        )


class PriceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a million tokens cost."""

    usd_per_1m_input_tokens: float = 0.0
    usd_per_1m_output_tokens: float = 0.0


class TenantsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may send requests and how many.

    Args:
        keys_path: Absolute path of the file of keys; "" is none, and then nobody has a key.
        are_keys_required: Whether a request without a key is refused.
        limits: By tenant; `default` is for tenants that are not named, and for requests without a key together.
        prices: By `model@variant`, `model`, or `default`.
        on_store_loss: What happens while the shared counters cannot be reached.
    """

    keys_path: str = ""
    are_keys_required: bool = False
    limits: dict[str, LimitConfig] = {}
    prices: dict[str, PriceConfig] = {}
    on_store_loss: StoreLoss = StoreLoss.BY_BUDGET


def tenants_problems(tenants: TenantsConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    if tenants.keys_path and not tenants.keys_path.startswith("/"):
        yield f"keys_path: must be an absolute path, got {tenants.keys_path!r}"
    if tenants.are_keys_required and not tenants.keys_path:
        yield "keys_path: must be given where keys are required"
    for name, limit in tenants.limits.items():
        for key in LimitConfig.__struct_fields__:
            value, most = getattr(limit, key), MOST_USD if key.endswith("usd") else _MOST_TOKENS
            if value is not None and not 0 < value <= most:
                yield f"limits.{name}.{key}: must be above 0 and at most {most:g}, got {value:g}"
    for name, price in tenants.prices.items():
        for key in PriceConfig.__struct_fields__:
            value = getattr(price, key)
            if not 0 <= value < math.inf:
                yield f"prices.{name}.{key}: must be at least 0 and finite, got {value:g}"


def _nanousd(usd: float | None) -> int | None:
    return None if usd is None else max(1, round(usd * NANOUSD_PER_USD))
