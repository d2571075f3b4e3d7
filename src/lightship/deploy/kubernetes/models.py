"""How a variant's files come into a Pod: an image as a volume, a claim that a job fills once, or a copy per Pod."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightship.deploy.document import without_none
from lightship.deploy.images import MODEL_FOLDER, USER_ID, Images, model_tag
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.ports.deployment import DeployedRung
from lightship.spec.deploy_platforms import named

_MOUNT = "/mnt/model"
_GIB = 2**30


@dataclass(frozen=True)
class ModelFiles:
    """A Pod's part of the delivery: where `{model}` is, and what the Pod needs for it."""

    folder: str
    volume: dict[str, Any]
    mount: dict[str, Any]
    init_containers: tuple[dict[str, Any], ...] = ()


def model_files(around: RenderInput, rung: DeployedRung) -> ModelFiles:
    """The delivery of one rung's files as the spec chooses it."""
    image = Images(around).model(rung)
    mount = {"name": "model", "mountPath": _MOUNT, "readOnly": True}
    match around.settings.kubernetes.models.by:
        case "image":
            volume = {"name": "model", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}
            return ModelFiles(f"{_MOUNT}{MODEL_FOLDER}", volume, mount)
        case "claim":
            volume = {"name": "model", "persistentVolumeClaim": {"claimName": around.names.models, "readOnly": True}}
            return ModelFiles(f"{_MOUNT}/{claim_folder(around, rung)}", volume, mount)
        case "copy":
            volume = {"name": "model", "emptyDir": {"sizeLimit": _gibibytes(rung.weight_bytes)}}
            copy = _copying(image, "/mnt/model/files", name="model", volume="model")
            return ModelFiles(f"{_MOUNT}/files", volume, mount, (copy,))


def claim_folder(around: RenderInput, rung: DeployedRung) -> str:
    """Folder of a rung's files in the claim; another content has another one."""
    return f"{around.names.rungs[rung.position]}-{model_tag(rung)}"


def model_resources(around: RenderInput) -> list[dict[str, Any]]:
    """The claim and the job that fills it, where models come by claim."""
    settings = around.settings.kubernetes
    if settings.models.by != "claim":
        return []
    names, rungs = around.names, around.deployment.rungs
    total = sum(rung.weight_bytes for rung in rungs)
    size = _gibibytes(total) if settings.models.size == "auto" else settings.models.size
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta.metadata(around, names.models, meta.MODELS),
        "spec": without_none(
            {
                "accessModes": [settings.models.access],
                "storageClassName": named(settings.models.storage_class),
                "resources": {"requests": {"storage": size}},
            }
        ),
    }
    return [claim, _job(around)]


def _job(around: RenderInput) -> dict[str, Any]:
    names, images = around.names, Images(around)
    containers = [
        _copying(
            images.model(rung), f"{_MOUNT}/{claim_folder(around, rung)}", name=f"copy-{rung.position}", volume="models"
        )
        for rung in around.deployment.rungs
    ]
    # A Job's Pod cannot be changed; what it copies is in its name, so that another content is another Job.
    version = meta.checksum({str(position): str(one["image"]) for position, one in enumerate(containers)})[:8]
    pull_secret = named(around.settings.images.pull_secret)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta.metadata(around, f"{names.prefix}-copy-{version}", meta.MODELS),
        "spec": {
            "backoffLimit": 6,
            "ttlSecondsAfterFinished": 86_400,
            "template": {
                "metadata": {"labels": meta.labels(around, names.models_job, meta.MODELS)},
                "spec": without_none(
                    {
                        "restartPolicy": "OnFailure",
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "imagePullSecrets": [{"name": pull_secret}] if pull_secret else None,
                        "securityContext": pod_security(),
                        "initContainers": containers[:-1] or None,
                        "containers": containers[-1:],
                        "volumes": [
                            {"name": "models", "persistentVolumeClaim": {"claimName": names.models}},
                        ],
                    }
                ),
            },
        },
    }


def _copying(image: str, target: str, *, name: str, volume: str) -> dict[str, Any]:
    """A container that copies its own files: into a folder of another name, compared with their sums, then renamed."""
    script = (
        f'set -eu; target={target}; partial="$target.partial"; '
        f'if [ -d "$target" ]; then exit 0; fi; rm -rf "$partial"; mkdir -p "$partial"; '
        f'cp -R {MODEL_FOLDER}/. "$partial/"; cd "$partial"; sha256sum -c SHA256SUMS >/dev/null; '
        f'mv "$partial" "$target"'
    )
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "securityContext": container_security(is_root_read_only=True),
        "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": volume, "mountPath": _MOUNT}],
    }


def pod_security() -> dict[str, Any]:
    """What the profile `restricted` of Pod Security asks of a Pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, is_root_read_only: bool) -> dict[str, Any]:
    """What it asks of a container. NVIDIA's CDI hook writes into the root of those with a GPU."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": is_root_read_only,
        "capabilities": {"drop": ["ALL"]},
    }


def _gibibytes(num_bytes: int) -> str:
    """The size and a fifth, in whole GiB."""
    return f"{max(1, math.ceil(num_bytes * 1.2 / _GIB))}Gi"
