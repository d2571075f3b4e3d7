from __future__ import annotations

import pytest

from lightship.gateway.catalog import ModelCatalog
from lightship.gateway.config import GatewayConfig, ReplicaConfig, config_problems
from lightship.wire.errors import ApiError


def replica(name: str, *, model: str = "", rung: int = 0, variant: str = "v") -> ReplicaConfig:
    return ReplicaConfig(
        name=name, base_url="http://127.0.0.1:9", model_name="x", variant_name=variant, served_model=model, rung=rung
    )


TWO_MODELS = (
    replica("a0", variant="fp16"),
    replica("a1", rung=1, variant="int8"),
    replica("b0", model="b"),
    replica("b0-2", model="b"),
)


def test_catalog_several_models_have_a_ladder_each() -> None:
    catalog = ModelCatalog("a", TWO_MODELS, created_unix_s=0)
    assert list(catalog.cards) == ["a", "a@fp16", "a@int8", "b", "b@v"]
    pinned, plain = catalog.resolve("a@int8"), catalog.resolve("b")
    assert (pinned.served_model, pinned.rung, pinned.degraded) == ("a", 1, "rung=1; reason=explicit")
    assert (plain.served_model, plain.rung, plain.degraded) == ("b", 0, "no")


def test_catalog_applied_anew_forgets_the_old_names() -> None:
    catalog = ModelCatalog("a", TWO_MODELS, created_unix_s=0)
    catalog.apply("c", [replica("c0")])
    assert catalog.names == ["c", "c@v"]
    with pytest.raises(ApiError, match="'a' does not exist here"):
        catalog.resolve("a")


def test_config_models_are_in_the_order_of_their_replicas() -> None:
    assert GatewayConfig(model_name="a", replicas=TWO_MODELS).served_models == ("a", "b")


@pytest.mark.parametrize(
    ("replicas", "problem"),
    [
        ((replica("a"), replica("b", model="b", rung=1)), "replicas of b: rungs must be 0, 1, 2, ... without a gap"),
        ((replica("a"), replica("a", model="b")), "replicas: the name 'a' is given 2 times"),
        ((replica("a"), replica("b", model="a@v")), "replicas: 'a@v' is the name of a model and of another model's"),
        ((replica("a", model="a b"),), "replicas[0].served_model: must be plain printable text"),
    ],
)
def test_config_problem_of_several_models_is_named(replicas: tuple[ReplicaConfig, ...], problem: str) -> None:
    found = list(config_problems(GatewayConfig(model_name="a", replicas=replicas)))
    assert [line for line in found if line.startswith(problem)]


def test_config_key_in_place_of_the_name_of_its_variable_is_not_repeated() -> None:
    config = GatewayConfig(
        model_name="a",
        replicas=(
            ReplicaConfig(
                name="a", base_url="http://h", model_name="x", variant_name="v", api_key_env="sk-very-secret"
            ),
        ),
    )
    (found,) = config_problems(config)
    assert "api_key_env: must be the name of an environment variable" in found
    assert "secret" not in found
