from __future__ import annotations

from pathlib import Path

from lightship.cli.tenants_config import tenants_config
from lightship.gateway.tenants.config import LimitConfig, PriceConfig, TenantsConfig, tenants_problems
from lightship.gateway.tenants.limits import Limits
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.spec.document import Spec


def test_tenants_config_says_what_the_spec_says(tmp_path: Path) -> None:
    spec = Spec.model_validate(
        {
            "model": {"name": "tales"},
            "gateway": {
                "keys": {"required": True},
                "limits": {"default": {"requests_per_min": 60}, "team-a": {"tokens_per_min": 1000, "monthly_usd": 2.5}},
                "prices": {"default": {"input": 0.15, "output": 0.6}, "int4": {"output": 0.3}},
                "on_store_loss": "refuse",
            },
        }
    )
    config = tenants_config(spec, tmp_path)
    assert config == TenantsConfig(
        keys_path=str(tmp_path / "keys.sqlite"),
        are_keys_required=True,
        limits={
            "default": LimitConfig(requests_per_min=60),
            "team-a": LimitConfig(tokens_per_min=1000, monthly_usd=2.5),
        },
        prices={
            "default": PriceConfig(usd_per_1m_input_tokens=0.15, usd_per_1m_output_tokens=0.6),
            "tales@int4": PriceConfig(usd_per_1m_output_tokens=0.3),
        },
        on_store_loss=StoreLoss.REFUSE,
    )
    assert list(tenants_problems(config)) == []
    assert config.limits["team-a"].limits() == Limits(tokens_per_min=1000, monthly_nanousd=2_500_000_000)


def test_tenants_problems_name_each_key() -> None:
    config = TenantsConfig(
        keys_path="keys.sqlite",
        are_keys_required=True,
        limits={"a": LimitConfig(requests_per_min=0, daily_usd=1e7)},
        prices={"m": PriceConfig(usd_per_1m_input_tokens=float("nan"))},
    )
    assert [problem.split(":")[0] for problem in tenants_problems(config)] == [
        "keys_path",
        "limits.a.requests_per_min",
        "limits.a.daily_usd",
        "prices.m.usd_per_1m_input_tokens",
    ]
