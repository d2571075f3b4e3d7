"""`lightship deploy ray`: a Serve config with one LLM deployment for each rung on vLLM, and a RayService for KubeRay.

Source: `ray.serve.schema.ServeDeploySchema`, `ray.serve.llm.LLMConfig` (Ray 2.60) and the CRD of ray.io/v1.
"""

from __future__ import annotations

from typing import Any

from lightship.deploy.document import Document, Reckoning, Rendered, unique_paths, without_none, yaml_text
from lightship.deploy.images import MODEL_FOLDER, Images, image_documents
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kserve import served_name
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import Engine, engines_of
from lightship.deploy.lifecycle import rung_lifecycle
from lightship.deploy.sizes import mebibytes, rung_reckonings, target_in_flight, whole_cores
from lightship.deploy.vllm_arguments import as_keywords, engine_options
from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung
from lightship.spec.deploy_platforms import named

_HTTP_PORT = 8000
# The head of a Ray cluster runs its control store and Serve's controller. Source: KubeRay's guide asks for at least
# 8 GiB where it serves.
_HEAD_MEMORY_MIB, _HEAD_CORES = 8192, 2


def render_ray(around: RenderInput) -> Rendered:
    """The Serve config, and the RayService where it is asked for.

    Raises: SpecError: a rung is not on vLLM.
    """
    config = serve_config(around)
    documents = [Document("serve.yaml", yaml_text(config))]
    resources: list[dict[str, Any]] = [{"kind": "ServeConfig", **config}]
    if around.settings.ray.service:
        service = _ray_service(around)
        documents.append(Document("ray-service.yaml", yaml_text(service)))
        if any(not _is_from_hub(around, one) for one in around.deployment.rungs):
            documents += image_documents(around, with_models=True)
        resources.append(service)
    reckonings: list[Reckoning] = []
    for rung in around.deployment.rungs:
        name = around.names.rungs[rung.position]
        reckonings += [*rung_reckonings(name, rung), *rung_lifecycle(rung, name).reckonings]
    return Rendered("ray", unique_paths(documents), tuple(reckonings), tuple(_notes(around)), tuple(resources))


def serve_config(around: RenderInput) -> dict[str, Any]:
    """The content of `serve deploy FILE`."""
    return {
        "http_options": {"host": "0.0.0.0", "port": _HTTP_PORT},
        "applications": [
            {
                "name": around.names.prefix,
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "args": {"llm_configs": [_llm_config(around, rung) for rung in around.deployment.rungs]},
            }
        ],
    }


def _llm_config(around: RenderInput, rung: DeployedRung) -> dict[str, Any]:
    keywords = as_keywords(engine_options(rung, platform="Ray Serve LLM"))
    if keywords.get("data_parallel_size") == 1:
        del keywords["data_parallel_size"]
    if isinstance(speculative := keywords.get("speculative_config"), dict):
        keywords["speculative_config"] = {
            key: value.replace("{model}", model_path(around, rung)) if isinstance(value, str) else value
            for key, value in speculative.items()
        }
    environment = dict(rung.environment)
    if _is_from_hub(around, rung):
        _, _, revision = around.deployment.source.removeprefix("hf:").partition("@")
        keywords |= {"revision": revision, "tokenizer_revision": revision}
        environment.pop("HF_HUB_OFFLINE", None)
    uses_gpu = rung.needs.num_accelerators > 0
    num_processes = rung.tensor_parallel * rung.pipeline_parallel
    return without_none(
        {
            "model_loading_config": {
                "model_id": served_name(around, rung),
                "model_source": model_path(around, rung),
            },
            "accelerator_type": named(around.settings.accelerator) if uses_gpu else None,
            "accelerator_config": None if uses_gpu else {"kind": "cpu"},
            "placement_group_config": None if uses_gpu else _cpu_bundles(rung, num_processes),
            "engine_kwargs": keywords,
            "deployment_config": {
                "max_ongoing_requests": max(1, round(rung.max_in_flight.value)),
                "graceful_shutdown_timeout_s": float(rung.needs.drain_s.value),
                "autoscaling_config": _autoscaling(around, rung),
            },
            "runtime_env": {"env_vars": {key: environment[key] for key in sorted(environment)}}
            if environment
            else None,
        }
    )


def _autoscaling(around: RenderInput, rung: DeployedRung) -> dict[str, Any]:
    deployment = around.deployment
    idle_s = float(deployment.idle_after_s) if deployment.min_replicas == 0 else None
    return without_none(
        {
            "min_replicas": deployment.min_replicas,
            "max_replicas": deployment.max_replicas,
            "initial_replicas": max(1, deployment.min_replicas),
            "target_ongoing_requests": target_in_flight(rung),
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 300.0,
            "downscale_to_zero_delay_s": idle_s,
        }
    )


def _is_from_hub(around: RenderInput, rung: DeployedRung) -> bool:
    return around.deployment.source.startswith("hf:") and rung.variant_name in around.unchanged


def _cpu_bundles(rung: DeployedRung, num_processes: int) -> dict[str, Any]:
    cores = max(1, whole_cores(rung.needs.num_cores) // num_processes)
    return {"bundles": [{"CPU": cores} for _ in range(num_processes)], "strategy": "PACK"}


def model_path(around: RenderInput, rung: DeployedRung) -> str:
    """Folder of a rung's files on every node, or the hub's id where the source is served as it is."""
    if _is_from_hub(around, rung):
        return around.deployment.source.removeprefix("hf:").partition("@")[0]
    return f"/mnt/models/{around.names.rungs[rung.position]}{MODEL_FOLDER}"


def _ray_service(around: RenderInput) -> dict[str, Any]:
    settings = around.settings.ray
    if named(settings.image) is None:
        raise SpecError("a RayService needs an image with Ray and vLLM", where="deploy.ray.image", hint="Name one.")
    metadata = meta.metadata(around, around.names.prefix, meta.ENGINE, annotations=meta.model_annotation(around))
    metadata["namespace"] = settings.namespace
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata,
        "spec": {
            "serveConfigV2": yaml_text(serve_config(around)).partition("\n")[2],
            "rayClusterConfig": {
                "enableInTreeAutoscaling": True,
                "headGroupSpec": {
                    # Serve's controller and proxy run there; engines do not
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
                    "template": {"spec": _head(around, settings.image)},
                },
                "workerGroupSpecs": [_workers(around, engine, settings.image) for engine in engines_of(around)],
            },
        },
    }


def _head(around: RenderInput, image: str) -> dict[str, Any]:
    memory = f"{_HEAD_MEMORY_MIB}Mi"
    ports = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": _HTTP_PORT}
    return without_none(
        {
            **_pod(around),
            "containers": [
                {
                    "name": "ray-head",
                    "image": image,
                    "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
                    "securityContext": _SECURITY,
                    "resources": {
                        "requests": {"cpu": str(_HEAD_CORES), "memory": memory},
                        "limits": {"memory": memory},
                    },
                }
            ],
        }
    )


_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _pod(around: RenderInput) -> dict[str, Any]:
    pull_secret = named(around.settings.images.pull_secret)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # the user of Ray's images
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": pull_secret}] if pull_secret else None,
    }


def _workers(around: RenderInput, engine: Engine, image: str) -> dict[str, Any]:
    rung = engine.rung
    # every rung's files are mounted: which worker a replica of which rung lands on is Ray's business
    local = [one for one in around.deployment.rungs if not _is_from_hub(around, one)]
    mounts: list[dict[str, Any]] = [
        {
            "name": f"model-{one.position}",
            "mountPath": f"/mnt/models/{around.names.rungs[one.position]}",
            "readOnly": True,
        }
        for one in local
    ]
    volumes: list[dict[str, Any]] = [
        {
            "name": f"model-{one.position}",
            "image": {"reference": Images(around).model(one), "pullPolicy": "IfNotPresent"},
        }
        for one in local
    ]
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_shared_mib(rung)}Mi"}})
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    compute = engine.compute()
    memory = f"{mebibytes(rung.needs.memory_bytes) + _shared_mib(rung)}Mi"
    compute["requests"]["memory"] = compute["limits"]["memory"] = memory
    deployment = around.deployment
    return {
        "groupName": f"rung-{rung.position}",
        "minReplicas": deployment.min_replicas * rung.needs.num_nodes,
        "maxReplicas": deployment.max_replicas * rung.needs.num_nodes,
        "rayStartParams": {},
        "template": {
            "metadata": {"labels": meta.labels(around, engine.name, meta.ENGINE)},
            "spec": without_none(
                {
                    **_pod(around),
                    **engine.placement(),
                    "containers": [
                        {
                            "name": "ray-worker",
                            "image": image,
                            "securityContext": _SECURITY,
                            "resources": compute,
                            "volumeMounts": mounts,
                        }
                    ],
                    "volumes": volumes,
                }
            ),
        },
    }


def _shared_mib(rung: DeployedRung) -> int:
    """Ray's object store and NCCL share it. Source: Ray warns below 2 GiB."""
    return 2048 * max(1, rung.tensor_parallel * rung.pipeline_parallel)


def _notes(around: RenderInput) -> list[str]:
    found = [*around.deployment.notes]
    if not around.settings.ray.service:
        local = [one for one in around.deployment.rungs if not _is_from_hub(around, one)]
        paths = ", ".join(sorted({model_path(around, rung) for rung in local}))
        needs = f"Every node of the Ray cluster needs the models at {paths}; then: " if paths else "Start it: "
        found.append(f"{needs}serve deploy serve.yaml")
    if len(around.deployment.rungs) > 1:
        names = ", ".join(served_name(around, rung) for rung in around.deployment.rungs)
        found.append(
            f"Ray serves each rung under its own name ({names}) and steps down no ladder; our gateway in front does: "
            "list the address of Ray Serve as upstreams of `lightship gateway`."
        )
    found.append("Keys, limits and the response cache are parts of our gateway, which is not in front here.")
    return found
