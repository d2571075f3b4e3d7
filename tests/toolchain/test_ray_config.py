"""Rendered Serve configs, read by Ray itself in an environment of its own: what it accepts, and that it is not lax."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy_cases import CASES, built, input_of, spec_of
from tests.e2e.conftest import ensure_environment

from lightship.deploy.ray_serve import serve_config

# The version whose schema the renderer was written against.
REQUIREMENTS = ("ray[serve]==2.60.0",)
SCRIPT = """
import json, sys
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeDeploySchema
config = ServeDeploySchema.model_validate(json.load(sys.stdin))
for application in config.applications:
    for one in application.args["llm_configs"]:
        options = one["deployment_config"]
        DeploymentSchema.model_validate({"name": "one", **options})
        AutoscalingConfig.model_validate(options["autoscaling_config"])
        unknown = set(options["autoscaling_config"]) - set(AutoscalingConfig.model_fields)
        assert not unknown, unknown
print([application.name for application in config.applications])
"""


def read_by_ray(python: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-W", "ignore", "-c", SCRIPT]
    return subprocess.run(command, input=json.dumps(config), capture_output=True, text=True, check=False)


@pytest.mark.toolchain
@pytest.mark.parametrize("least", [0, 1])
def test_ray_reads_the_rendered_config_and_refuses_a_wrong_one(least: int, deploy_home: Path) -> None:
    python = ensure_environment("ray", REQUIREMENTS)
    spec = spec_of(CASES["gpu"], replicas__min=least)
    config = yaml.safe_load(yaml.safe_dump(serve_config(built(input_of(spec, deploy_home, platform="ray")))))
    result = read_by_ray(python, config)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['chat']"
    config["applications"][0]["args"]["llm_configs"][0]["deployment_config"]["autoscaling_config"]["min_replicas"] = 9
    assert read_by_ray(python, config).returncode != 0
