"""`lightship deploy kubernetes`: a plain folder for `kubectl apply -f`, a kustomize tree, build files of images."""

from __future__ import annotations

from typing import Any

from lightship.deploy.document import Document, Reckoning, Rendered, unique_paths, yaml_text
from lightship.deploy.images import UNBUILT_TAG, image_documents, model_tag
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes.engines import engines_of
from lightship.deploy.kubernetes.gateway import Gateway
from lightship.deploy.kubernetes.models import model_resources
from lightship.deploy.kubernetes.monitoring import monitoring_resources
from lightship.deploy.kubernetes.network import network_policies
from lightship.deploy.kubernetes.overlays import hardware_choices, kustomize_documents
from lightship.deploy.kubernetes.routes import route_resources
from lightship.deploy.kubernetes.scaling import scaling_resources
from lightship.deploy.sizes import needs_reckonings, rung_reckonings
from lightship.errors import SpecError

_SPOT_NOTICE_S = 30


def render_kubernetes(around: RenderInput) -> Rendered:
    """Everything for a cluster.

    Raises: SpecError: settings that do not go together on Kubernetes.
    """
    _check_version(around)
    files = kubernetes_files(around)
    plain = [Document(name, yaml_text(*resources)) for name, resources in files.items()]
    documents = [*plain, *kustomize_documents(around, files), *image_documents(around, with_models=True)]
    return Rendered(
        platform="kubernetes",
        documents=unique_paths(documents),
        reckonings=tuple(kubernetes_reckonings(around)),
        notes=tuple(_notes(around)),
        resources=tuple(one for resources in files.values() for one in resources),
    )


def kubernetes_files(around: RenderInput) -> dict[str, list[dict[str, Any]]]:
    """Resources by file name, in the order in which they are applied; files without one are left out."""
    files: dict[str, list[dict[str, Any]]] = {
        "00-namespace.yaml": _namespace(around),
        "10-models.yaml": model_resources(around),
        "20-gateway.yaml": Gateway(around).resources(),
        "30-scaling.yaml": scaling_resources(around),
        "40-network.yaml": network_policies(around),
        **{f"50-engine-{one.rung.position}.yaml": one.resources() for one in engines_of(around)},
        "60-monitoring.yaml": monitoring_resources(around),
        "70-routes.yaml": route_resources(around),
    }
    return {name: resources for name, resources in files.items() if resources}


def kubernetes_reckonings(around: RenderInput) -> list[Reckoning]:
    """The arithmetic of every number."""
    gateway = Gateway(around)
    found = [*needs_reckonings(gateway.name, around.gateway.needs), *gateway.lifecycle.reckonings]
    for engine in engines_of(around):
        found += [*rung_reckonings(engine.name, engine.rung), *engine.lifecycle.reckonings]
    return found


def _namespace(around: RenderInput) -> list[dict[str, Any]]:
    settings = around.settings.kubernetes
    if not settings.create_namespace:
        return []
    labels = {
        "app.kubernetes.io/managed-by": "lightship",
        # what all Pods here keep to
        "pod-security.kubernetes.io/enforce": "restricted",
    }
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": settings.namespace, "labels": labels}}]


def _check_version(around: RenderInput) -> None:
    settings = around.settings.kubernetes
    minor = minor_version(settings.version)
    where = "deploy.kubernetes"
    if settings.models.by == "image" and minor < 35:
        what = f"volumes from images are on by default from Kubernetes 1.35, and this is for {settings.version}"
        raise SpecError(
            what, where=f"{where}.models.by", hint="Choose claim or copy, or raise deploy.kubernetes.version."
        )
    if minor < 30:
        what = f"{settings.version} has no preStop sleep, which all workloads use"
        raise SpecError(what, where=f"{where}.version", hint="Take a cluster of 1.30 or later.")
    deployment = around.deployment
    if settings.autoscaler == "hpa" and deployment.min_replicas == 0 and minor < 37:
        what = "a HorizontalPodAutoscaler goes to zero from Kubernetes 1.37 only"
        hint = "Set replicas.min to 1, choose gateway or keda, or raise deploy.kubernetes.version."
        raise SpecError(what, where=f"{where}.autoscaler", hint=hint)
    if settings.autoscaler == "none" and deployment.min_replicas == 0:
        what = "nobody would ever start a replica: replicas.min is 0 and nobody changes it"
        raise SpecError(what, where=f"{where}.autoscaler", hint="Choose gateway or keda, or set replicas.min to 1.")


def minor_version(version: str) -> int:
    """35 of `v1.35`."""
    return int(version.partition(".")[2])


def _notes(around: RenderInput) -> list[str]:
    settings, names, deployment = around.settings.kubernetes, around.names, around.deployment
    found = [*deployment.notes]
    found += [
        f"{rung.variant_name} is not built yet, so its image has the tag `{UNBUILT_TAG}`: run `lightship up "
        "--no-serve`, then render again."
        for rung in deployment.rungs
        if model_tag(rung) == UNBUILT_TAG
    ]
    if deployment.secrets:
        literals = " ".join(f'--from-literal={name}="${name}"' for name in deployment.secrets)
        found.append(
            f"Create the secret first: kubectl -n {settings.namespace} create secret generic {names.secrets} {literals}"
        )
    if around.gateway.has_tls:
        cert, key = around.tls_files
        found.append(
            f"Create the certificate's secret first: kubectl -n {settings.namespace} create secret tls "
            f"{names.gateway_tls} --cert={cert} --key={key}"
        )
    if around.gateway.keeps_state:
        found.append(
            f"Make keys in the cluster: kubectl -n {settings.namespace} exec deploy/{names.gateway} -- "
            "/opt/lightship/bin/lightship keys create TENANT"
        )
    if settings.autoscaler == "hpa":
        found.append(
            "A HorizontalPodAutoscaler reads lightship_rung_requests_in_flight from external.metrics.k8s.io: it needs "
            "a metrics adapter that serves it."
        )
    if settings.autoscaler in {"keda", "hpa"} and not settings.monitoring.resources:
        found.append("The autoscaler reads the gateway's metrics from Prometheus, which must scrape them.")
    missing = sorted({"cpu", "gpu"} - set(hardware_choices(around)))
    found += [f"There is no overlay `{one}`: no engine of this ladder can run so." for one in missing]
    longest = max(one.lifecycle.grace_s for one in engines_of(around))
    if longest > _SPOT_NOTICE_S:
        found.append(
            f"Overlay spot: engines end within {longest} s, and some providers take a machine away after "
            f"{_SPOT_NOTICE_S} s; answers under way are cut then, and the gateway retries those without a first byte."
        )
    return found
