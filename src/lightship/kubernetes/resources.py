"""Kinds and where the API server keeps them.

Those that Lightship renders or reads are listed, so that no request goes out before the first one that matters; others
are looked up at the server (`client.resource_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class ApiResource:
    """One kind at one version. `plural` is its name in paths."""

    group: str
    version: str
    kind: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Where the collection, one object or a part of it is.

        >>> DEPLOYMENTS.path(namespace="llm", name="a", subresource="scale")
        '/apis/apps/v1/namespaces/llm/deployments/a/scale'
        """
        start = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.is_namespaced and namespace:
            start += f"/namespaces/{quote(namespace, safe='')}"
        parts = [start, self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = ApiResource("", "v1", "Namespace", "namespaces", is_namespaced=False)
PODS = ApiResource("", "v1", "Pod", "pods")
EVENTS = ApiResource("", "v1", "Event", "events")
CONFIG_MAPS = ApiResource("", "v1", "ConfigMap", "configmaps")
SECRETS = ApiResource("", "v1", "Secret", "secrets")
SERVICES = ApiResource("", "v1", "Service", "services")
PERSISTENT_VOLUME_CLAIMS = ApiResource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENTS = ApiResource("apps", "v1", "Deployment", "deployments")
REPLICA_SETS = ApiResource("apps", "v1", "ReplicaSet", "replicasets")
LEASES = ApiResource("coordination.k8s.io", "v1", "Lease", "leases")
ENDPOINT_SLICES = ApiResource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
POD_AUTOSCALERS = ApiResource("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")

BUILT_IN = (
    NAMESPACES,
    PODS,
    EVENTS,
    CONFIG_MAPS,
    SECRETS,
    SERVICES,
    PERSISTENT_VOLUME_CLAIMS,
    ApiResource("", "v1", "PersistentVolume", "persistentvolumes", is_namespaced=False),
    ApiResource("", "v1", "ServiceAccount", "serviceaccounts"),
    ApiResource("", "v1", "ResourceQuota", "resourcequotas"),
    ApiResource("", "v1", "LimitRange", "limitranges"),
    DEPLOYMENTS,
    REPLICA_SETS,
    ApiResource("apps", "v1", "StatefulSet", "statefulsets"),
    ApiResource("apps", "v1", "DaemonSet", "daemonsets"),
    ApiResource("batch", "v1", "Job", "jobs"),
    ApiResource("batch", "v1", "CronJob", "cronjobs"),
    LEASES,
    ENDPOINT_SLICES,
    POD_AUTOSCALERS,
    ApiResource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ApiResource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ApiResource("networking.k8s.io", "v1", "Ingress", "ingresses"),
    ApiResource("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ApiResource("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ApiResource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", is_namespaced=False),
    ApiResource("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", is_namespaced=False),
    ApiResource("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", is_namespaced=False),
    ApiResource("storage.k8s.io", "v1", "StorageClass", "storageclasses", is_namespaced=False),
)
_BY_KIND = {(resource.api_version, resource.kind): resource for resource in BUILT_IN}


def built_in(api_version: str, kind: str) -> ApiResource | None:
    """The resource of a kind that every cluster has and Lightship knows, or None."""
    return _BY_KIND.get((api_version, kind))
