from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lightship.errors import UsageError
from lightship.gateway.config import GatewayConfig, ReplicaConfig, decode_config, encode_config, read_config

REPLICA = {"name": "r0", "base_url": "http://127.0.0.1:1", "model_name": "m", "variant_name": "fp16"}


def config_with(replica: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return msgspec.json.encode({"model_name": "m", "replicas": [{**REPLICA, **(replica or {})}], **changes})


def test_config_minimal_file_has_finite_defaults(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(config_with())
    config = read_config(path)
    assert (config.host, config.port, config.max_attempts) == ("127.0.0.1", 8080, 3)
    assert (config.timeouts.connect_s, config.timeouts.total_s) == (5.0, 600.0)


def test_config_encoded_decodes_to_the_same() -> None:
    config = GatewayConfig(
        model_name="m",
        port=0,
        replicas=(
            ReplicaConfig(name="a", base_url="http://h:1/x", model_name="m", variant_name="fp16", variant_digest="d"),
            ReplicaConfig(name="b", base_url="https://h", model_name="n", variant_name="int4", rung=1),
        ),
    )
    assert decode_config(encode_config(config), where="test") == config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"{", "not a gateway configuration", id="json"),
        pytest.param(b"\xff", "not a gateway configuration", id="utf8"),
        pytest.param(b"[]", "Expected `object`", id="array"),
        pytest.param(config_with(prot=1), "unknown field `prot`", id="unknown"),
        pytest.param(config_with({"rank": 1}), "unknown field `rank` - at `$.replicas[0]`", id="unknown-replica"),
        pytest.param(
            config_with(timeouts={"connect_s": 1, "first_token_s": 1, "next_token_s": 1, "total_s": 1, "idle_s": 1}),
            "unknown field `idle_s` - at `$.timeouts`",
            id="unknown-timeout",
        ),
        pytest.param(config_with(replicas=[]), "replicas: must name at least one", id="no-replica"),
        pytest.param(config_with(replicas=[REPLICA, REPLICA]), "'r0' is given 2 times", id="same-name"),
        pytest.param(config_with({"base_url": "ftp://h"}), "replicas[0].base_url: must be an http", id="scheme"),
        pytest.param(config_with({"base_url": "http://h:99999"}), "base_url: must be an http", id="url-port"),
        pytest.param(config_with({"base_url": "http://"}), "base_url: must be an http", id="no-host"),
        pytest.param(config_with({"variant_digest": "a\nb"}), "variant_digest: must be plain", id="digest"),
        pytest.param(config_with({"rung": 1}), "rungs must be 0, 1, 2", id="no-top"),
        pytest.param(config_with({"rung": -1}), "rung: must be at least 0", id="negative-rung"),
        pytest.param(
            config_with(replicas=[REPLICA, {**REPLICA, "name": "r1", "variant_name": "int4"}]),
            "rung 0 mixes variants ['fp16', 'int4']",
            id="mixed-rung",
        ),
        pytest.param(
            config_with(replicas=[REPLICA, {**REPLICA, "name": "r1", "rung": 1}]),
            "variant 'fp16' is on rungs 0 and 1",
            id="variant-twice",
        ),
        pytest.param(config_with(model_name="a b"), "model_name: must be plain", id="model"),
        pytest.param(config_with(port=70000), "port: must be within", id="port"),
        pytest.param(config_with(max_attempts=0), "max_attempts: must be at least 1", id="attempts"),
        pytest.param(config_with(retry_budget_share=1.5), "retry_budget_share: must be within", id="share"),
        pytest.param(config_with(body_timeout_s=0), "body_timeout_s: must be above 0", id="zero-limit"),
        pytest.param(config_with(drain_timeout_s=-1), "drain_timeout_s: must be at least 0", id="drain"),
    ],
)
def test_config_wrong_says_what_and_where(data: bytes, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode_config(data, where="gateway.json")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("gateway.json: ")


def test_config_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_config(tmp_path / "none.json")
