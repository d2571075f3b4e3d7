"""Where the system is deployed, and how: read by `lightship deploy`, without meaning for a system on this machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from lightship.spec.base import StrictModel
from lightship.spec.deploy_images import ImageField, RepositoryField
from lightship.spec.deploy_platforms import (
    ComposeSpec,
    KnativeSpec,
    KserveSpec,
    KubernetesSpec,
    RaySpec,
    SystemdSpec,
)
from lightship.spec.values import show_bytes
from lightship.units import parse_bytes

_MAX_WEIGHTS = 2**46
_SIZE_TEXT = r"^(auto|\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?[bB]|[bB])?\s*)$"
# `auto` is 0: counted from the files.
_WeightBytes = Annotated[
    int,
    BeforeValidator(lambda value: 0 if value == "auto" else parse_bytes(value) if isinstance(value, str) else value),
    Field(ge=0, le=_MAX_WEIGHTS),
    PlainSerializer(lambda size: show_bytes(size) if size else "auto", return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _SIZE_TEXT, "maxLength": 32, "examples": ["auto", "16 GB"]},
                {"type": "integer", "minimum": 0, "maximum": _MAX_WEIGHTS},
            ]
        }
    ),
]


class ImagesSpec(StrictModel):
    """Container images; `auto` is the one that the rendered build files make."""

    repository: RepositoryField = Field(
        default="lightship",
        examples=["registry.example.com/llm"],
        description="Where the images that are built are pushed to, without a tag.",
    )
    gateway: ImageField = Field(default="auto", examples=["auto"], description="Image of the gateway.")
    openvino: ImageField = Field(default="auto", examples=["auto"], description="Image of the engine openvino.")
    vllm: ImageField = Field(
        default="auto", examples=["auto", "vllm/vllm-openai:v0.32.0"], description="Image of the engine vllm."
    )
    llamacpp: ImageField = Field(default="auto", examples=["auto"], description="Image of the engine llamacpp.")
    python_base: ImageField = Field(
        default="python:3.11-slim-bookworm",
        description="What our images are built on; add @sha256:... to pin its content.",
    )
    model_base: ImageField = Field(
        default="busybox:1.37.0", description="What images with a model are built on: it needs a shell to copy files."
    )
    redis: ImageField = Field(default="redis:7.4-bookworm", description="Image of the profile `redis` of compose.")
    prometheus: ImageField = Field(
        default="prom/prometheus:v3.4.0", description="Image of the profile `prometheus` of compose."
    )
    pull_secret: str = Field(
        default="none",
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        max_length=253,
        examples=["registry-login"],
        description="Kubernetes secret for pulling images; `none` needs none.",
    )


class DeploySpec(StrictModel):
    """Where the system is deployed: one section per platform, and what all of them share."""

    name: str = Field(
        default="auto",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        examples=["auto", "storyteller"],
        description="What all names that are made begin with; `auto` makes it of the model's name.",
    )
    engine_port: int = Field(
        default=8100,
        ge=1024,
        le=65_000,
        description="Port of the first rung's engine; the next one has the next. Unit: port number.",
    )
    read_mb_per_s: float = Field(
        default=100,
        ge=0.1,
        le=1_000_000,
        description="Slowest bandwidth at which weights are read, for budgets of start. Unit: 10^6 bytes per second.",
    )
    weight_size: _WeightBytes = Field(
        default=0,
        description="Size of one variant's weights where no file is there to count, like `16 GB`. Unit: bytes.",
    )
    cores: int = Field(
        default=0, ge=0, le=4096, description="CPU cores of one replica; 0 takes the engine's threads. Unit: cores."
    )
    gpus_per_node: int = Field(
        default=8, ge=1, le=64, description="GPUs of one machine; what needs more is split over machines. Unit: GPUs."
    )
    accelerator: str = Field(
        default="none",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=63,
        examples=["H100"],
        description="Kind of GPU, as Ray calls it; `none` leaves it open.",
    )
    images: ImagesSpec = Field(default=ImagesSpec(), description="Container images.")
    compose: ComposeSpec = Field(default=ComposeSpec(), description="Docker Compose on one machine.")
    kubernetes: KubernetesSpec = Field(default=KubernetesSpec(), description="Kubernetes and its resources.")
    knative: KnativeSpec = Field(default=KnativeSpec(), description="Knative Serving, which sleeps.")
    kserve: KserveSpec = Field(default=KserveSpec(), description="KServe's LLMInferenceService.")
    ray: RaySpec = Field(default=RaySpec(), description="Ray Serve LLM.")
    systemd: SystemdSpec = Field(default=SystemdSpec(), description="systemd, for a box at the edge.")
