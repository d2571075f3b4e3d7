"""Deployments that several tests render: a ladder on CPUs, vLLM on GPUs, llama.cpp on a box at the edge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightship.cli.deploy.inputs import render_input
from lightship.cli.prepare import Surroundings
from lightship.cli.progress import progress_for_stderr
from lightship.deploy.inputs import RenderInput
from lightship.ports.clock import SystemClock
from lightship.ports.deployment import DeployedRung
from lightship.spec.document import Spec

# Two rungs that sleep, a cloud that takes what is too much, keys, alerts, a route.
CPU = """
model: {source: builtin:fairytales, name: storyteller}
variants: [fp16, int8]
ladder: [fp16@openvino, int8@openvino]
replicas: {min: 0, max: 4, idle_after_s: 900}
gateway: {listen: 0.0.0.0:8080, keys: {required: true}}
upstreams:
  - {name: cloud, base_url: https://api.example.com/v1, model: big, api_key_env: CLOUD_KEY,
     price_usd_per_1m: {input: 0.15, output: 0.60}}
routing: {spill: {to: cloud}}
deploy:
  cores: 2
  kubernetes:
    namespace: llm
    create_namespace: true
    monitoring: {resources: true, labels: {release: prometheus}}
    route: {gateway: inference-gateway, hostnames: [llm.example.com], inference_pool: true, picker: picker}
"""
# Two GPUs per replica, a model id with a slash, KEDA, models by claim.
GPU = """
model: {source: "hf:acme/chat-8b@0123456789abcdef0123456789abcdef01234567", name: acme/chat-8b}
variants: [bf16]
engines: {vllm: {device: cuda, tensor_parallel: 2, kv_cache_size: 20 GiB, threads: 8}}
replicas: {min: 1, max: 4}
gateway: {listen: 0.0.0.0:8080}
deploy:
  name: chat
  weight_size: 16 GB
  accelerator: H100
  images: {vllm: "registry.example.com/vllm:1", pull_secret: registry-login}
  kubernetes:
    autoscaler: keda
    rollout: replace
    runtime_class: nvidia
    models: {by: claim, storage_class: fast}
  ray: {service: true, image: "rayproject/ray-llm:2.55.0"}
"""
# One box, TLS, fixed replicas, models copied.
EDGE = """
model: {source: builtin:fairytales, name: storyteller}
variants: [q8_0]
engines: {llamacpp: {threads: 3, max_sequences: 4}}
gateway:
  listen: 0.0.0.0:8443
  tls: {cert_file: /etc/ssl/story.crt, key_file: /etc/ssl/story.key}
deploy:
  cores: 3
  kubernetes: {autoscaler: none, version: v1.33, models: {by: copy}}
  systemd: {pin_cores: true}
"""
CASES: Mapping[str, str] = {"cpu": CPU, "gpu": GPU, "edge": EDGE}


@pytest.fixture(scope="session")
def deploy_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory without variants and measurements, kept so that a checkpoint is hashed once."""
    return tmp_path_factory.mktemp("deploy-home")


def spec_of(text: str, **changes: Any) -> Spec:
    """The spec of a YAML text; `changes` replace values by path, dots written as two underscores."""
    data = yaml.safe_load(text)
    for path, value in changes.items():
        *sections, key = path.split("__")
        inner = data
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return Spec.model_validate(data)


def input_of(spec: Spec, home: Path, *, platform: str = "kubernetes") -> RenderInput:
    """What a renderer is given, without what differs from machine to machine."""
    return _input_of(spec.model_dump_json(), home, platform)


@cache
def _input_of(spec_json: str, home: Path, platform: str) -> RenderInput:
    spec = Spec.model_validate(json.loads(spec_json))
    around = render_input(spec, Surroundings(home, SystemClock(), progress_for_stderr()), platform=platform)
    deployment = replace(around.deployment, rungs=tuple(_of_no_machine(one) for one in around.deployment.rungs))
    others = {name: tuple(_of_no_machine(one) for one in rungs) for name, rungs in around.other_hardware.items()}
    return replace(around, deployment=deployment, other_hardware=others, python_pins=("example==1.0",), version="0.1.0")


def _of_no_machine(rung: DeployedRung) -> DeployedRung:
    version = "2026.1" if rung.engine == "openvino" else rung.engine_version
    return replace(rung, engine_version=version)


def built(around: RenderInput) -> RenderInput:
    """The same with variants that were made."""

    def made(rungs: tuple[DeployedRung, ...]) -> tuple[DeployedRung, ...]:
        return tuple(replace(one, variant_digest="sha256:" + f"{one.position + 10:x}" * 64) for one in rungs)

    rungs = made(around.deployment.rungs)
    return replace(
        around,
        deployment=replace(around.deployment, rungs=rungs),
        other_hardware={name: made(others) for name, others in around.other_hardware.items()},
        model_folders={one.variant_name: f"/var/lib/variants/{one.variant_name}" for one in rungs},
    )
