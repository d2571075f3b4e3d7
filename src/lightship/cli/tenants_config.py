"""From a spec to the tenants' section of a gateway's configuration: pure."""

from __future__ import annotations

from pathlib import Path

from lightship.artifacts.home import keys_path
from lightship.gateway.tenants.config import DEFAULT, LimitConfig, PriceConfig, TenantsConfig
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.spec.document import Spec


def tenants_config(spec: Spec, home: Path) -> TenantsConfig:
    """Keys, limits and prices; the keys are those of this user's data directory.

    Args:
        spec: What is wanted. Prices by variant are meant for the spec's own model.
        home: The data directory.
    """
    gateway = spec.gateway
    return TenantsConfig(
        keys_path=str(keys_path(home).absolute()),
        are_keys_required=gateway.keys.required,
        limits={
            tenant: LimitConfig(
                requests_per_min=limit.requests_per_min,
                tokens_per_min=limit.tokens_per_min,
                concurrent_requests=limit.concurrent_requests,
                daily_tokens=limit.daily_tokens,
                monthly_tokens=limit.monthly_tokens,
                daily_usd=limit.daily_usd,
                monthly_usd=limit.monthly_usd,
            )
            for tenant, limit in gateway.limits.items()
        },
        prices={
            name if name == DEFAULT else f"{spec.model.name}@{name}": PriceConfig(
                usd_per_1m_input_tokens=price.input, usd_per_1m_output_tokens=price.output
            )
            for name, price in gateway.prices.items()
        },
        on_store_loss=StoreLoss(gateway.on_store_loss),
    )
