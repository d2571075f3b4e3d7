"""Where requests spill to, as a rung of the ladder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightship.cli.gateway_config import gateway_config, spill_rung
from lightship.errors import SpecError
from lightship.gateway.config import ReplicaConfig, config_problems
from lightship.gateway.dispatch.config import RungFacts
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec


def spec(**upstream: Any) -> Spec:
    cloud = {"name": "cloud", "base_url": "https://api.example.com/v1", "api_key_env": "CLOUD_KEY", **upstream}
    routing = {"spill": {"to": "cloud", "max_usd_per_hour": 4.0}, "privacy": {"tags": ["pii"]}}
    return parse_spec(json.dumps({"upstreams": [cloud], "routing": routing, "gateway": {"workers": 2}})).spec


def test_spill_rung_is_the_lowest_with_its_price_and_of_unknown_quality() -> None:
    one = spec(model="big", price_usd_per_1m={"input": 0.1, "output": 0.4})
    found = spill_rung(one, rung=1)
    assert found is not None
    replica, facts = found
    assert (replica.model_name, replica.rung, replica.api_key_env) == ("big", 1, "CLOUD_KEY")
    assert (facts.is_spill, facts.quality_loss, facts.usd_per_1m_output_tokens) == (True, None, 0.4)
    top = ReplicaConfig(name="a", base_url="http://127.0.0.1:1", model_name="m", variant_name="fp16")
    ladders = {"fairytales": [RungFacts(variant_name="fp16"), facts]}
    config = gateway_config(one, [top, replica], port=0, home=Path("/home"), ladders=ladders)
    assert list(config_problems(config)) == []
    assert config.dispatch.ladders["fairytales"].spill_usd_per_hour == 2.0  # for each of two processes
    assert config.dispatch.private_tags == {"pii"}


def test_spill_rung_without_a_price_or_a_model_is_refused_by_path() -> None:
    with pytest.raises(SpecError, match=r"upstreams\[0\].price_usd_per_1m: .*a price is needed"):
        spill_rung(spec(model="big"), rung=1)
    with pytest.raises(SpecError, match=r"upstreams\[0\].model: .*what it calls its model is needed"):
        spill_rung(spec(price_usd_per_1m={"input": 0.1, "output": 0.4}), rung=1)


def test_spill_rung_not_wanted_is_none() -> None:
    assert spill_rung(Spec(), rung=1) is None
