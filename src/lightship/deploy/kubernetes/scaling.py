"""Who changes the number of replicas: our gateway, a HorizontalPodAutoscaler, KEDA, nobody. One writer, never two."""

from __future__ import annotations

from typing import Any

import msgspec

from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import Engine, engines_of
from lightship.deploy.sizes import target_in_flight
from lightship.errors import SpecError
from lightship.observability import names as metrics
from lightship.ports.deployment import DeployedRung
from lightship.scaling.records import Prefer, ScalePolicy

LEASE_S = 15


def _behavior(around: RenderInput) -> dict[str, Any]:
    """Up at once, down slowly: what `scaling.decide.scale` does, in the words of an autoscaler."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": round(around.deployment.scale_down_after_s),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
        },
    }


def scaling_resources(around: RenderInput) -> list[dict[str, Any]]:
    """What the chosen autoscaler needs.

    Raises: SpecError: it cannot do what `replicas` asks for.
    """
    match around.settings.kubernetes.autoscaler:
        case "gateway":
            _refuse_split(around)
            return [_lease(around), *_rights(around)]
        case "hpa":
            return [*_rights(around), *(_horizontal(around, one) for one in engines_of(around))]
        case "keda":
            return [*_rights(around), *(_scaled_object(around, one) for one in engines_of(around))]
        case "none":
            _check_fixed(around)
            return _rights(around)


def cluster_section(around: RenderInput) -> dict[str, Any]:
    """What the gateway has to know to follow the Pods of its rungs, and to change their number if that is its part."""
    settings = around.settings.kubernetes
    return {
        "namespace": settings.namespace,
        "pools": [_pool(around, one) for one in engines_of(around)],
        "scales": settings.autoscaler == "gateway",
        "lease_name": around.names.scaler,
        "lease_duration_s": float(LEASE_S),
        "gateway_selector": meta.selector(around, around.names.gateway),
        "gateway_port": around.gateway.port,
    }


def _pool(around: RenderInput, engine: Engine) -> dict[str, Any]:
    deployment, rung = around.deployment, engine.rung
    each = float(target_in_flight(rung))
    policy = ScalePolicy(
        min_replicas=deployment.min_replicas,
        max_replicas=deployment.max_replicas,
        in_flight_per_replica=each,
        in_flight_at_lowest_rung=_in_flight_at_lowest(around, rung, each),
        prefer=Prefer.LADDER if deployment.prefers_ladder else Prefer.REPLICAS,
        idle_after_s=deployment.idle_after_s,
        scale_down_window_s=deployment.scale_down_after_s,
        usd_per_replica_hour=deployment.usd_per_replica_hour,
        max_usd_per_hour=deployment.max_usd_per_hour,
        startup_s=rung.needs.startup_s.value,
        attainment=around.gateway.slo_attainment,
    )
    pool: dict[str, Any] = {
        "served_model": deployment.model_name,
        "rung": rung.position,
        "deployment": engine.name,
        "selector": engine.service()["spec"]["selector"],
        "port": rung.port,
        "policy": msgspec.to_builtins(policy),
        "startup_budget_s": float(engine.lifecycle.startup_budget_s),
        "model_name": deployment.model_name,
        "variant_name": rung.variant_name,
        "variant_digest": rung.variant_digest,
    }
    return pool


def _in_flight_at_lowest(around: RenderInput, rung: DeployedRung, each: float) -> float | None:
    """What a replica would take if the lowest rung answered, as its goodput says; None where it is no faster."""
    own, lowest = rung.goodput_requests_per_s.value, around.deployment.rungs[-1].goodput_requests_per_s.value
    return each * lowest / own if own and lowest > own else None


def _refuse_split(around: RenderInput) -> None:
    for engine in engines_of(around):
        if engine.is_split:
            what = f"the gateway scales Deployments, and {engine.rung.variant_name} is a LeaderWorkerSet"
            raise SpecError(what, where="deploy.kubernetes.autoscaler", hint="Choose keda, hpa or none.")


def _rights(around: RenderInput) -> list[dict[str, Any]]:
    """A role for the gateway where it has something to ask the API server for."""
    return [_role(around), _binding(around)] if asks_api_server(around) else []


def asks_api_server(around: RenderInput) -> bool:
    """Whether the gateway has business with the API server: it scales, or follows Pods."""
    return around.settings.kubernetes.autoscaler == "gateway" or around.gateway.reads_cluster


def _check_fixed(around: RenderInput) -> None:
    deployment = around.deployment
    if deployment.min_replicas != deployment.max_replicas:
        raise SpecError(
            f"nobody changes the number of replicas, and it may be {deployment.min_replicas} to "
            f"{deployment.max_replicas}",
            where="deploy.kubernetes.autoscaler",
            hint="Choose gateway, hpa or keda, or set replicas.min and replicas.max to the same number.",
        )


def _lease(around: RenderInput) -> dict[str, Any]:
    """Shipped, so that nobody needs the right to create one, which no name could limit."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta.metadata(around, around.names.scaler, meta.GATEWAY),
        "spec": {"leaseDurationSeconds": LEASE_S},
    }


def _role(around: RenderInput) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]
    if around.settings.kubernetes.autoscaler == "gateway":
        rules = [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments/scale"],
                "resourceNames": [one.name for one in engines_of(around)],
                "verbs": ["get", "patch"],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [around.names.scaler],
                "verbs": ["get", "update"],
            },
            # two writers of one number would fight: it looks whether there is another one
            {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["get", "list"]},
            *rules,
        ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": meta.metadata(around, around.names.scaler, meta.GATEWAY),
        "rules": rules,
    }


def _binding(around: RenderInput) -> dict[str, Any]:
    namespace = around.settings.kubernetes.namespace
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": meta.metadata(around, around.names.scaler, meta.GATEWAY),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": around.names.scaler},
        "subjects": [{"kind": "ServiceAccount", "name": around.names.gateway, "namespace": namespace}],
    }


def _target(engine: Engine) -> dict[str, str]:
    if engine.is_split:
        return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": engine.name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": engine.name}


def _horizontal(around: RenderInput, engine: Engine) -> dict[str, Any]:
    deployment = around.deployment
    if not meta.is_label_value(deployment.model_name):
        raise SpecError(
            f"{deployment.model_name!r} is no value of a Kubernetes label, which the metric is selected by",
            where="deploy.kubernetes.autoscaler",
            hint="Choose gateway or keda, or give model.name without slash and colon, at most 63 characters.",
        )
    chosen = {metrics.LABEL_MODEL: deployment.model_name, metrics.LABEL_RUNG: str(engine.rung.position)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta.metadata(around, engine.name, meta.ENGINE),
        "spec": {
            "scaleTargetRef": _target(engine),
            "minReplicas": deployment.min_replicas,
            "maxReplicas": deployment.max_replicas,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": _demand_metric(around), "selector": {"matchLabels": chosen}},
                        "target": {"type": "AverageValue", "averageValue": str(target_in_flight(engine.rung))},
                    },
                }
            ],
            "behavior": _behavior(around),
        },
    }


def _demand_metric(around: RenderInput) -> str:
    """Where replicas come first, what lower rungs answer for want of room is demand for this one, as in `scale`."""
    return metrics.RUNG_DEMAND if around.deployment.prefers_ladder else metrics.RUNG_FULL_DEMAND


def _scaled_object(around: RenderInput, engine: Engine) -> dict[str, Any]:
    """A query without `or vector(0)`: an absent metric is not idleness, and `fallback` acts on it."""
    deployment, monitoring = around.deployment, around.settings.kubernetes.monitoring
    chosen = f'model="{deployment.model_name}",rung="{engine.rung.position}"'
    # the label comes with the ServiceMonitor; without it the requests of all gateways that are scraped count
    service = f',service="{around.names.gateway}"' if monitoring.resources else ""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": meta.metadata(around, engine.name, meta.ENGINE),
        "spec": {
            "scaleTargetRef": _target(engine),
            "minReplicaCount": deployment.min_replicas,
            "maxReplicaCount": deployment.max_replicas,
            "pollingInterval": 5,
            "cooldownPeriod": round(deployment.idle_after_s),
            "fallback": {"failureThreshold": 3, "replicas": max(1, deployment.min_replicas)},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(around)}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": monitoring.prometheus_url,
                        "query": f"sum({_demand_metric(around)}{{{chosen}{service}}})",
                        "threshold": str(target_in_flight(engine.rung)),
                        "activationThreshold": "0",
                        "ignoreNullValues": "false",
                    },
                }
            ],
        },
    }
