"""`lightship deploy knative`: gateway and engines of all rungs in the containers of one Pod, which scales as a whole.

Knative's activator holds requests while that Pod starts, and the gateway's probes of its engines stay inside the Pod:
engines as services of their own would be kept awake by them. Models are in the engines' images, because no volume that
outlasts a Pod and no init container is allowed unless a cluster's administrator switches it on.
Source: config/core/configmaps/features.yaml of knative/serving, for what is off by default.
"""

from __future__ import annotations

import math
from typing import Any

from lightship.deploy.document import Document, Reckoning, Rendered, unique_paths, without_none, yaml_text
from lightship.deploy.images import LLAMA_SERVER, MODEL_FOLDER, PYTHON, Images, image_documents
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.models import container_security
from lightship.deploy.lifecycle import PULL_ALLOWANCE_S, rung_lifecycle
from lightship.deploy.placeholders import Places, filled_command, filled_files, gateway_places, rung_places
from lightship.deploy.sizes import mebibytes, needs_reckonings, rung_reckonings, target_in_flight, whole_cores
from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung
from lightship.spec.deploy_platforms import named

_ENGINE_CONFIG, _GATEWAY_CONFIG = "/etc/lightship/engine", "/etc/lightship/gateway"
# Longest time that Knative takes for it. Source: knative/serving, pkg/apis/autoscaling (ScaleToZeroPodRetentionPeriod).
_LONGEST_RETENTION_S = 3600


def render_knative(around: RenderInput) -> Rendered:
    """One Knative Service with its configuration.

    Raises: SpecError: what Knative cannot do.
    """
    _refuse_what_knative_cannot(around)
    engine_files = {
        around.names.rungs[rung.position]: filled_files(rung.config_files, _engine_places(around, rung))
        for rung in around.deployment.rungs
    }
    gateway_files = filled_files(around.machine_gateway.config_files, _gateway_places(around))
    maps = [_config_map(around, around.names.gateway_config, gateway_files)]
    maps += [_config_map(around, f"{name}-config", files) for name, files in engine_files.items() if files]
    service = _service(around, meta.checksum({"gateway": str(gateway_files), "engines": str(engine_files)}))
    reckonings = [*needs_reckonings(around.names.gateway, around.machine_gateway.needs)]
    for rung in around.deployment.rungs:
        name = around.names.rungs[rung.position]
        reckonings += [*rung_reckonings(name, rung), rung_lifecycle(rung, name).reckonings[0]]
    reckonings += _own_reckonings(around)
    return Rendered(
        platform="knative",
        documents=unique_paths(
            [
                Document("10-config.yaml", yaml_text(*maps)),
                Document("20-service.yaml", yaml_text(service)),
                *image_documents(around, with_models=False, bakes_models=True),
            ]
        ),
        reckonings=tuple(reckonings),
        notes=tuple(_notes(around)),
        resources=(*maps, service),
    )


def _refuse_what_knative_cannot(around: RenderInput) -> None:
    deployment, hint = around.deployment, "Take kubernetes, or change that."
    for rung in deployment.rungs:
        if rung.needs.num_nodes > 1:
            what = f"{rung.variant_name} is split over {rung.needs.num_nodes} machines, and a Pod is on one"
            raise SpecError(what, where="deploy.knative", hint=hint)
    if around.machine_gateway.keeps_state:
        what = "keys or budgets are kept in files, and Knative mounts no volume that outlasts a Pod"
        raise SpecError(what, where="deploy.knative", hint=hint)
    if deployment.max_replicas > 1 and not around.machine_gateway.shares_state:
        what = f"{deployment.max_replicas} gateways would each count limits and budgets for themselves"
        raise SpecError(what, where="replicas.max", hint="Set gateway.state.redis_url, or take one replica.")
    if around.machine_gateway.has_tls:
        what = "Knative's ingress ends TLS and speaks plain HTTP to the Pod"
        raise SpecError(
            what, where="gateway.tls", hint="Remove it for Knative; certificates belong to the cluster there."
        )
    if deployment.idle_after_s > _LONGEST_RETENTION_S and deployment.min_replicas == 0:
        what = f"Knative keeps an idle Pod for at most {_LONGEST_RETENTION_S} s"
        raise SpecError(what, where="replicas.idle_after_s", hint="Set it to 3600 or less.")


def _engine_places(around: RenderInput, rung: DeployedRung) -> Places:
    return rung_places(
        rung,
        host="127.0.0.1",
        model=MODEL_FOLDER,
        config=_ENGINE_CONFIG,
        python=Images(around).interpreter(rung),
        program=LLAMA_SERVER,
    )


def _gateway_places(around: RenderInput) -> Places:
    urls = [f"http://127.0.0.1:{rung.port}" for rung in around.deployment.rungs]
    return gateway_places(
        around.machine_gateway,
        urls,
        host="0.0.0.0",
        config=_GATEWAY_CONFIG,
        state="/tmp",
        tls="/etc/lightship/tls",
        python=PYTHON,
    )


def _metadata(around: RenderInput, name: str, **more: Any) -> dict[str, Any]:
    labels = meta.labels(around, name, meta.GATEWAY)
    return {"name": name, "namespace": around.settings.knative.namespace, "labels": labels, **more}


def _config_map(around: RenderInput, name: str, files: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(around, name), "data": files}


def _target(around: RenderInput) -> int:
    return max(target_in_flight(rung) for rung in around.deployment.rungs)


def _budget_s(around: RenderInput) -> int:
    budgets = [rung.needs.startup_budget_s.value for rung in around.deployment.rungs]
    return math.ceil(max(budgets)) + PULL_ALLOWANCE_S


def _own_reckonings(around: RenderInput) -> list[Reckoning]:
    budget_s = _budget_s(around)
    return [
        Reckoning(
            "service: target",
            str(_target(around)),
            "the largest in-flight target of its rungs: a Pod is full when the rung that serves is",
        ),
        Reckoning(
            "service: progress-deadline",
            f"{budget_s} s",
            f"the longest startup budget, {budget_s - PULL_ALLOWANCE_S} s, + {PULL_ALLOWANCE_S} s for pulling images",
        ),
    ]


def _service(around: RenderInput, config_checksum: str) -> dict[str, Any]:
    deployment, settings = around.deployment, around.settings.knative
    annotations = {
        "autoscaling.knative.dev/min-scale": str(deployment.min_replicas),
        "autoscaling.knative.dev/max-scale": str(deployment.max_replicas),
        "autoscaling.knative.dev/metric": "concurrency",
        "autoscaling.knative.dev/target": str(_target(around)),
        "serving.knative.dev/progress-deadline": f"{_budget_s(around)}s",
        meta.CHECKSUM: config_checksum,
    }
    if deployment.min_replicas == 0:
        period = f"{round(deployment.idle_after_s)}s"
        annotations["autoscaling.knative.dev/scale-to-zero-pod-retention-period"] = period
    metadata = _metadata(around, around.names.prefix, annotations=meta.model_annotation(around))
    if settings.visibility == "cluster-local":
        metadata["labels"]["networking.knative.dev/visibility"] = "cluster-local"
    pull_secret = named(around.settings.images.pull_secret)
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "template": {
                "metadata": {"annotations": annotations},
                "spec": without_none(
                    {
                        # requests are admitted by the gateway, which knows what its engines can take
                        "containerConcurrency": 0,
                        "timeoutSeconds": settings.timeout_s,
                        "responseStartTimeoutSeconds": settings.timeout_s,
                        "enableServiceLinks": False,
                        "automountServiceAccountToken": False,
                        "imagePullSecrets": [{"name": pull_secret}] if pull_secret else None,
                        "containers": [
                            _gateway_container(around),
                            *(_engine_container(around, rung) for rung in deployment.rungs),
                        ],
                        "volumes": _volumes(around),
                    }
                ),
            }
        },
    }


def _security(*, is_root_read_only: bool) -> dict[str, Any]:
    return {
        **container_security(is_root_read_only=is_root_read_only),
        "runAsNonRoot": True,
        "runAsUser": 2000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _gateway_container(around: RenderInput) -> dict[str, Any]:
    gateway, names = around.machine_gateway, around.names
    program, *arguments = filled_command(gateway.command, _gateway_places(around))
    memory = f"{mebibytes(gateway.needs.memory_bytes)}Mi"
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": names.secrets, "key": name}}}
        for name in around.deployment.secrets
    ]
    return {
        "name": "gateway",
        "image": Images(around).gateway,
        "command": [program],
        "args": arguments,
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "LIGHTSHIP_HOME", "value": "/tmp"}, *secrets],
        "ports": [{"containerPort": gateway.port}],
        # it is ready when an engine is, so Knative sends nothing before
        "readinessProbe": {"httpGet": {"path": gateway.ready_path}, "periodSeconds": 1, "timeoutSeconds": 2},
        "securityContext": _security(is_root_read_only=True),
        "resources": {
            "requests": {"cpu": str(whole_cores(gateway.needs.num_cores)), "memory": memory},
            "limits": {"memory": memory},
        },
        "volumeMounts": [
            {"name": "gateway-config", "mountPath": _GATEWAY_CONFIG, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _engine_container(around: RenderInput, rung: DeployedRung) -> dict[str, Any]:
    program, *arguments = filled_command(rung.command, _engine_places(around, rung))
    environment = {"HOME": "/tmp", **rung.environment}
    memory = f"{mebibytes(rung.needs.memory_bytes)}Mi"
    limits = {"memory": memory}
    if rung.needs.num_accelerators:
        limits[around.settings.kubernetes.gpu_resource] = str(rung.needs.num_accelerators)
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]
    if rung.config_files:
        mounts.append({"name": f"config-{rung.position}", "mountPath": _ENGINE_CONFIG, "readOnly": True})
    return {
        "name": f"engine-{rung.position}",
        "image": Images(around).engine_with_model(rung),
        "command": [program],
        "args": arguments,
        "env": [{"name": key, "value": environment[key]} for key in sorted(environment)],
        "securityContext": _security(is_root_read_only=not rung.needs.num_accelerators),
        "resources": {
            "requests": {"cpu": str(whole_cores(rung.needs.num_cores)), "memory": memory},
            "limits": limits,
        },
        "volumeMounts": mounts,
    }


def _volumes(around: RenderInput) -> list[dict[str, Any]]:
    names = around.names
    volumes: list[dict[str, Any]] = [
        {"name": "gateway-config", "configMap": {"name": names.gateway_config}},
        {"name": "tmp", "emptyDir": {}},
    ]
    volumes += [
        {"name": f"config-{rung.position}", "configMap": {"name": f"{names.rungs[rung.position]}-config"}}
        for rung in around.deployment.rungs
        if rung.config_files
    ]
    return volumes


def _notes(around: RenderInput) -> list[str]:
    found, settings = [*around.deployment.notes], around.settings.knative
    if around.deployment.secrets:
        literals = " ".join(f'--from-literal={name}="${name}"' for name in around.deployment.secrets)
        found.append(
            f"Create the secret first: kubectl -n {settings.namespace} create secret generic {around.names.secrets} "
            f"{literals}"
        )
    if any(one.needs.num_accelerators for one in around.deployment.rungs):
        found.append(
            "GPU nodes with a taint need a toleration, which Knative takes only with the feature "
            "kubernetes.podspec-tolerations; without the taint nothing is needed."
        )
    if len(around.deployment.rungs) > 1:
        found.append("All rungs are in each Pod, so each Pod takes the memory of them all.")
    found.append(
        f"A request may take {settings.timeout_s} s; a cluster's max-revision-timeout-seconds (600) must allow it."
    )
    return found
