"""What each platform of `deploy` lets a user choose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.deploy_images import OptionalImageField

_KubernetesName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63, examples=["inference-gateway"])
]


def named(text: str) -> str | None:
    """What a setting names, None where it says `none`."""
    return None if text == "none" else text


_Quantity = Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]*(Mi|Gi|Ti))$", max_length=16, examples=["auto", "100Gi"])]
_HostName = Annotated[
    str,
    Field(
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
        max_length=253,
        examples=["llm.example.com"],
    ),
]
_Url = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2048)]
_Access = Literal["ReadWriteOnce", "ReadWriteMany"]


class ComposeSpec(StrictModel):
    """Docker Compose."""

    publish: str = Field(
        default="127.0.0.1",
        pattern=r"^[0-9a-fA-F:.]+$",
        max_length=45,
        examples=["127.0.0.1", "0.0.0.0"],
        description="Address of this machine that the gateway's port is published on.",
    )
    prometheus_port: int = Field(
        default=9090, ge=1, le=65_535, description="Where the profile `prometheus` is published. Unit: port number."
    )


class ModelDeliverySpec(StrictModel):
    """How a variant's files come to the engine."""

    by: Literal["image", "claim", "copy"] = Field(
        default="image",
        description="`image` mounts the model's image as a volume, `claim` copies it once to a shared volume, `copy` "
        "copies it each time a Pod starts.",
    )
    storage_class: _KubernetesName = Field(
        default="none", description="Storage class of the claim; `none` is the cluster's default."
    )
    size: _Quantity = Field(default="auto", description="Size of the claim; `auto` is that of the files and a fifth.")
    access: _Access = Field(
        default="ReadWriteMany", description="How the claim is shared; ReadWriteOnce keeps all Pods on one node."
    )


class StateVolumeSpec(StrictModel):
    """The gateway's own volume, made where keys or budgets are kept in files."""

    storage_class: _KubernetesName = Field(
        default="none", description="Storage class; `none` is the cluster's default."
    )
    size: _Quantity = Field(default="1Gi", description="Size of the volume.")
    access: _Access = Field(default="ReadWriteOnce", description="ReadWriteMany lets several gateways read the keys.")


class MonitoringSpec(StrictModel):
    """Prometheus, by the resources of its operator."""

    resources: bool = Field(
        default=False, description="Whether ServiceMonitor, PodMonitor and PrometheusRule are rendered (their CRDs)."
    )
    labels: Annotated[dict[str, str], Field(strict=False)] = Field(
        default={}, max_length=16, description="Labels by which Prometheus selects them, like {release: prometheus}."
    )
    prometheus_url: _Url = Field(
        default="http://prometheus.monitoring.svc:9090",
        examples=["http://prometheus.monitoring.svc:9090"],
        description="Prometheus that KEDA asks.",
    )
    namespace: _KubernetesName = Field(
        default="monitoring", description="Namespace of the Prometheus that may read the metrics."
    )

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not 1 <= len(name) <= 316 or len(text) > 63 or any(one.isspace() for one in name + text):
                raise ValueError(f"{name}: {text!r} is no label")
        return value


class RouteSpec(StrictModel):
    """The Gateway API in front of our gateway."""

    gateway: _KubernetesName = Field(
        default="none", description="Name of the Gateway that an HTTPRoute is attached to; `none` renders no route."
    )
    gateway_namespace: _KubernetesName = Field(
        default="none", description="Its namespace; `none` is that of everything else."
    )
    hostnames: Annotated[tuple[_HostName, ...], Field(strict=False)] = Field(
        default=(), max_length=16, description="Host names of the route; none takes those of the Gateway."
    )
    inference_pool: bool = Field(
        default=False, description="Whether each rung's Pods are an InferencePool, too (its CRD), for other routers."
    )
    picker_port: int = Field(
        default=9002,
        ge=1,
        le=65_535,
        description="Port of the endpoint picker of an InferencePool. Unit: port number.",
    )
    picker: _KubernetesName = Field(
        default="none", description="Service of the endpoint picker; `none` leaves it out, which few routers accept."
    )


class KubernetesSpec(StrictModel):
    """Kubernetes."""

    namespace: str = Field(
        default="default",
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        examples=["llm"],
        description="Namespace of everything that is rendered.",
    )
    create_namespace: bool = Field(default=False, description="Whether the namespace is rendered, too.")
    version: str = Field(
        default="v1.35",
        pattern=r"^v1\.[1-9][0-9]$",
        max_length=5,
        examples=["v1.35"],
        description="Version of the oldest cluster this must run on.",
    )
    autoscaler: Literal["gateway", "hpa", "keda", "none"] = Field(
        default="gateway",
        description="Who changes the number of replicas: our gateway (nothing to install), a HorizontalPodAutoscaler "
        "with a metrics adapter, KEDA, or nobody.",
    )
    gateways: int = Field(default=1, ge=1, le=64, description="Gateways that run. Unit: replicas.")
    rollout: Literal["surge", "replace"] = Field(
        default="surge",
        description="`surge` starts a new replica before an old one ends, `replace` is for want of a spare GPU.",
    )
    models: ModelDeliverySpec = Field(default=ModelDeliverySpec(), description="How models come to the engines.")
    state: StateVolumeSpec = Field(default=StateVolumeSpec(), description="The gateway's volume.")
    network_policy: bool = Field(default=True, description="Whether only the gateway may reach the engines.")
    monitoring: MonitoringSpec = Field(default=MonitoringSpec(), description="Metrics and alerts.")
    route: RouteSpec = Field(default=RouteSpec(), description="Gateway API resources.")
    gpu_resource: str = Field(
        default="nvidia.com/gpu",
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
        max_length=253,
        examples=["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"],
        description="Name of the GPU resource, which a MIG slice has its own of.",
    )
    runtime_class: _KubernetesName = Field(
        default="none", examples=["nvidia"], description="Runtime class of Pods with a GPU; `none` is the default."
    )


class KnativeSpec(StrictModel):
    """Knative Serving: gateway and engines of all rungs in one Pod, which scales as a whole."""

    namespace: _KubernetesName = Field(default="default", description="Namespace of the service.")
    timeout_s: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="Longest request, not above the cluster's own limit (600 unless changed), in seconds.",
    )
    visibility: Literal["external", "cluster-local"] = Field(default="external", description="Who can reach it.")


class KserveSpec(StrictModel):
    """KServe's LLMInferenceService, for rungs on vLLM."""

    namespace: _KubernetesName = Field(default="default", description="Namespace of the services.")
    storage: Literal["auto", "hub", "image", "claim"] = Field(
        default="auto",
        description="Where models come from: `hub` (only the unchanged source), `image` (the model's image), `claim` "
        "(a volume that is there); `auto` takes the hub where it can, else the image.",
    )
    claim: _KubernetesName = Field(default="none", description="Name of the claim of `storage: claim`.")
    scheduler: bool = Field(default=True, description="Whether KServe's endpoint picker stands in front.")
    prometheus_url: _Url = Field(
        default="http://prometheus.monitoring.svc:9090",
        examples=["http://prometheus.monitoring.svc:9090"],
        description="Prometheus that KEDA asks where replicas.max is above replicas.min.",
    )

    @field_validator("claim")
    @classmethod
    def _goes_with_storage(cls, value: str, info: ValidationInfo) -> str:
        if (value == "none") == (info.data.get("storage") == "claim"):
            raise ValueError("claim and `storage: claim` need each other")
        return value


class RaySpec(StrictModel):
    """Ray Serve LLM, for rungs on vLLM."""

    service: bool = Field(default=False, description="Whether a RayService for KubeRay is rendered, too.")
    namespace: _KubernetesName = Field(default="default", description="Namespace of the RayService.")
    image: OptionalImageField = Field(
        default="none",
        examples=["rayproject/ray-llm:2.55.0-py311-cu128"],
        description="Image of the RayService with Ray and vLLM, which `service` needs.",
    )

    @field_validator("image")
    @classmethod
    def _goes_with_service(cls, value: str, info: ValidationInfo) -> str:
        if value == "none" and info.data.get("service"):
            raise ValueError("`service: true` needs an image with Ray and vLLM, like rayproject/ray-llm:TAG")
        return value


class SystemdSpec(StrictModel):
    """systemd units for one box."""

    python: str = Field(
        default="/opt/lightship/bin/python",
        pattern=r"^/[A-Za-z0-9._/@+-]+$",
        max_length=1024,
        description="Interpreter with Lightship on the box.",
    )
    vllm_python: str = Field(
        default="/opt/lightship-vllm/bin/python",
        pattern=r"^/[A-Za-z0-9._/@+-]+$",
        max_length=1024,
        description="Interpreter with vLLM on the box.",
    )
    llama_server: str = Field(
        default="/opt/lightship/bin/llama-server",
        pattern=r"^/[A-Za-z0-9._/@+-]+$",
        max_length=1024,
        description="Program of llama.cpp on the box.",
    )
    user: str = Field(
        default="dynamic",
        pattern=r"^[a-z_][a-z0-9_-]*$",
        max_length=31,
        examples=["dynamic", "lightship"],
        description="User of all units; `dynamic` lets systemd make one.",
    )
    models: str = Field(
        default="/var/lib/lightship-models",
        pattern=r"^/[A-Za-z0-9._/@+-]+$",
        max_length=1024,
        description="Folder of the models on the box.",
    )
    pin_cores: bool = Field(
        default=False, description="Whether each engine gets cores of its own, from core 1 on; core 0 is the gateway's."
    )
