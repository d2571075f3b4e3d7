"""The API fuzzed from its own description, by schemathesis in an environment of its own.

What it generates is right and wrong in turn; it checks that there is no error of the server, that every status, header,
body and event is as described, and that a body against the description is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.ports.engine import HopTimeouts

pytestmark = pytest.mark.toolchain

REQUIREMENTS = ("schemathesis==4.32.5", "openapi-spec-validator==0.9.0")
MODEL = "good"
# Seconds of generating, for each of the two passes.
PASS_S = 40
# The same for every change, so that a failure is the change's; another one looks elsewhere.
SEED = os.environ.get("LIGHTSHIP_TEST_FUZZ_SEED", "1")
# An engine knows limits that no description of a gateway has, such as the length of its context.
NOT_CHECKED = "positive_data_acceptance,ignored_auth"


@pytest.fixture(scope="module")
def python(environments: Callable[[str, Sequence[str]], Path]) -> Path:
    """The interpreter that has schemathesis."""
    return environments("fuzz", REQUIREMENTS)


@pytest.fixture(scope="module")
def gateway(simulated_url: str, tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway before one simulated worker."""
    replica = ReplicaConfig(name="r0", base_url=simulated_url, model_name=MODEL, variant_name="v")
    config = GatewayConfig(
        model_name=MODEL,
        replicas=(replica,),
        port=0,
        timeouts=HopTimeouts(connect_s=5, first_token_s=20, next_token_s=20, total_s=30),
        drain_timeout_s=5,
    )
    with tools.gateway(config, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def description(gateway: Any) -> dict[str, Any]:
    """What the gateway says of itself, with the names that it has: others only lead to a refusal."""
    document: dict[str, Any] = json.loads(gateway.get("/openapi.json").body)
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request") and "model" in schema["properties"]:
            schema["properties"]["model"] = {"type": "string", "enum": [MODEL, f"{MODEL}@v"]}
    document["components"]["parameters"]["priority"]["schema"]["enum"] = ["default"]
    for path in document["paths"].values():
        if "post" in path:
            path["post"]["requestBody"]["content"]["application/json"]["example"]["model"] = MODEL
    return document


def fuzz(python: Path, description: dict[str, Any], gateway: Any, folder: Path, *arguments: str) -> None:
    """Asserts that schemathesis finds nothing, that nothing is under way afterwards, and that it did something."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(description), "utf-8")
    before = gateway.count("lightship_requests_total{")
    command = [str(python), "-m", "schemathesis.cli", "run", str(path), "--url", gateway.url]
    command += ["--max-time", str(PASS_S), "--phases", "examples,coverage,fuzzing", "--request-timeout", "20"]
    command += ["--generation-database", "none", "--warnings", "off", "--no-color", "--seed", SEED, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PASS_S + 120, check=False)
    if done.returncode != 0 and "FAILURES" not in done.stdout and "Inconsistent results" in done.stdout:
        # it could not draw the same value twice, which says nothing about us: once more
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PASS_S + 120, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    gateway.assert_unharmed()
    assert gateway.count("lightship_requests_total{") - before > 200


def test_description_is_valid_openapi(python: Path, gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_bytes(gateway.get("/openapi.json").body)
    done = subprocess.run([str(python), "-m", "openapi_spec_validator", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_answers_to_whatever_is_sent_are_as_described(
    python: Path, description: dict[str, Any], gateway: Any, tmp_path: Path
) -> None:
    # headers that are not described are no mistake, so that what is refused is looked at apart
    fuzz(python, description, gateway, tmp_path, "--exclude-checks", f"{NOT_CHECKED},negative_data_rejection")
    assert gateway.count('lightship_requests_total{model="good",outcome="served"') > 0


def test_bodies_against_the_description_are_refused(
    python: Path, description: dict[str, Any], gateway: Any, tmp_path: Path
) -> None:
    for path in description["paths"].values():
        path.get("post", {}).pop("parameters", None)
    fuzz(python, description, gateway, tmp_path, "--exclude-checks", NOT_CHECKED, "--include-method", "POST")
