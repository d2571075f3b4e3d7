"""Rules beyond schemas: each breaks one thing of resources that are right, and expects to be told of that one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest

from lightship.deploy.check import resource_problems

Resource = dict[str, Any]
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD: Resource = {
    "terminationGracePeriodSeconds": 70,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "engine",
            "image": "org/engine:1",
            "args": ["--port", "8000"],
            "env": [{"name": "A", "value": "1"}],
            "ports": [{"name": "http", "containerPort": 8000}],
            "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 2, "failureThreshold": 2},
            "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 10, "failureThreshold": 10},
            "lifecycle": {"preStop": {"sleep": {"seconds": 15}}},
            "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}},
            "securityContext": SECURITY,
            "volumeMounts": [{"name": "model", "mountPath": "/models"}],
        }
    ],
    "volumes": [{"name": "model", "emptyDir": {}}],
}
LABELS = {"app.kubernetes.io/name": "qwen"}
DEPLOYMENT: Resource = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "qwen"},
    "spec": {
        "progressDeadlineSeconds": 600,
        "selector": {"matchLabels": LABELS},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
}
HPA: Resource = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "qwen"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "qwen"},
        "minReplicas": 1,
        "maxReplicas": 4,
        "metrics": [{"type": "External"}],
        "behavior": {"scaleUp": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}},
    },
}
KEDA: Resource = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "qwen"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "qwen"},
        "minReplicaCount": 1,
        "maxReplicaCount": 4,
        "idleReplicaCount": 0,
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {"serverAddress": "http://p", "query": "q", "threshold": "4", "ignoreNullValues": "false"},
            }
        ],
    },
}
LWS: Resource = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1",
    "kind": "LeaderWorkerSet",
    "metadata": {"name": "big"},
    "spec": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": POD}}},
}
KNATIVE: Resource = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "qwen"},
    "spec": {
        "template": {
            "metadata": {"annotations": {"autoscaling.knative.dev/min-scale": "0"}},
            "spec": {
                "timeoutSeconds": 600,
                "containers": [{"name": "a", "ports": [{"containerPort": 8080}]}, {"name": "b"}],
                "volumes": [{"name": "t", "emptyDir": {}}],
            },
        }
    },
}
KSERVE: Resource = {
    "apiVersion": "serving.kserve.io/v1alpha2",
    "kind": "LLMInferenceService",
    "metadata": {"name": "qwen"},
    "spec": {"model": {"uri": "hf://a/b"}, "replicas": 1, "template": {"containers": [{"name": "main"}]}},
}
POOL: Resource = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "qwen"},
    "spec": {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}},
}
ROUTE: Resource = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "qwen"},
    "spec": {
        "rules": [
            {
                "timeouts": {"request": "10s", "backendRequest": "5s"},
                "backendRefs": [{"name": "gateway", "port": 8080}],
            }
        ]
    },
}
SERVICE: Resource = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "qwen"},
    "spec": {"ports": [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}]},
}
PDB: Resource = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "qwen"},
    "spec": {"maxUnavailable": 1},
}
LEASE: Resource = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "scaler"},
    "spec": {"leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
}
ROLE: Resource = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "scaler"},
    "rules": [{"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["qwen"], "verbs": ["get"]}],
}
ALL = {
    "deployment": [DEPLOYMENT],
    "hpa": [DEPLOYMENT, HPA],
    "keda": [DEPLOYMENT, KEDA],
    "role": [DEPLOYMENT, ROLE],
    "lws": [LWS],
    "knative": [KNATIVE],
    "kserve": [KSERVE],
    "pool": [POOL],
    "route": [ROUTE],
    "service": [SERVICE],
    "pdb": [PDB],
    "lease": [LEASE],
}


@dataclass(frozen=True)
class Case:
    """`change` breaks the last of the resources; `told` is part of what must be said."""

    name: str
    resources: str
    change: Callable[[Resource], Any]
    told: str


def pod(resource: Resource) -> Resource:
    found: Resource = resource["spec"]["template"]["spec"]
    return found


def container(resource: Resource) -> Resource:
    found: Resource = pod(resource)["containers"][0]
    return found


CASES = [
    Case("name too long", "deployment", lambda r: r["metadata"].update(name="a" * 64), "64 characters"),
    Case(
        "service name with dots", "service", lambda r: r["metadata"].update(name="qwen2.5-7b"), "must not contain dots"
    ),
    Case("namespace", "deployment", lambda r: r["metadata"].update(namespace="A_b"), "no name of a namespace"),
    Case(
        "label with slash", "deployment", lambda r: r["metadata"].update(labels={"m": "Qwen/Qwen3"}), "no label value"
    ),
    Case("annotation number", "deployment", lambda r: r["metadata"].update(annotations={"a": 1}), "needs quotes"),
    Case("selector", "deployment", lambda r: r["spec"]["template"]["metadata"].update(labels={"a": "b"}), "selector"),
    Case(
        "both rolling 0", "deployment", lambda r: r["spec"]["strategy"]["rollingUpdate"].update(maxSurge=0), "both be 0"
    ),
    Case("recreate", "deployment", lambda r: r["spec"]["strategy"].update(type="Recreate"), "rollingUpdate must not"),
    Case("deadline", "deployment", lambda r: r["spec"].update(minReadySeconds=600), "more than minReadySeconds"),
    Case("grace equals wait", "deployment", lambda r: pod(r).update(terminationGracePeriodSeconds=15), "are over when"),
    Case(
        "startup success", "deployment", lambda r: container(r)["livenessProbe"].update(successThreshold=2), "must be 1"
    ),
    Case(
        "liveness first",
        "deployment",
        lambda r: container(r)["livenessProbe"].update(periodSeconds=0),
        "gives up before",
    ),
    Case("probe port", "deployment", lambda r: container(r)["livenessProbe"]["httpGet"].update(port="x"), "is no port"),
    Case(
        "gpu request",
        "deployment",
        lambda r: container(r)["resources"].update(requests={"nvidia.com/gpu": "2"}),
        "limited to 1",
    ),
    Case(
        "no gpu limit",
        "deployment",
        lambda r: container(r).update(resources={"requests": {"a.com/gpu": "1"}}),
        "without",
    ),
    Case(
        "gpu part",
        "deployment",
        lambda r: container(r)["resources"]["limits"].update({"nvidia.com/gpu": "500m"}),
        "whole",
    ),
    Case("port name", "deployment", lambda r: container(r)["ports"][0].update(name="a-name-of-16-let"), "at most 15"),
    Case("port twice", "deployment", lambda r: container(r)["ports"].append({"containerPort": 8000}), "8000/TCP"),
    Case("mount", "deployment", lambda r: pod(r).update(volumes=[]), "no volume of the Pod"),
    Case("volume sources", "deployment", lambda r: pod(r)["volumes"][0].update(secret={}), "exactly one is needed"),
    Case("env twice", "deployment", lambda r: container(r)["env"].append({"name": "A", "value": "2"}), "given 2 times"),
    Case("env number", "deployment", lambda r: container(r)["env"][0].update(value=1), "needs quotes"),
    Case("arg number", "deployment", lambda r: container(r).update(args=[8000]), "needs quotes"),
    Case("image tag", "deployment", lambda r: container(r).update(image="host:5000/engine"), "neither tag nor digest"),
    Case("root", "deployment", lambda r: pod(r)["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
    Case("host path", "deployment", lambda r: pod(r).update(volumes=[{"name": "model", "hostPath": {}}]), "hostPath"),
    Case(
        "no config map",
        "deployment",
        lambda r: pod(r)["volumes"].append({"name": "c", "configMap": {"name": "c"}}),
        "'c' is not rendered",
    ),
    Case("hpa zero", "hpa", lambda r: r["spec"].update(minReplicas=0), "before Kubernetes 1.37"),
    Case("hpa max", "hpa", lambda r: r["spec"].update(maxReplicas=0), "maxReplicas: 0 is below"),
    Case(
        "window",
        "hpa",
        lambda r: r["spec"]["behavior"]["scaleUp"].update(stabilizationWindowSeconds=3601),
        "at most 3600 s",
    ),
    Case("no policies", "hpa", lambda r: r["spec"]["behavior"]["scaleUp"].update(policies=[]), "must not be empty"),
    Case(
        "period",
        "hpa",
        lambda r: r["spec"]["behavior"]["scaleUp"]["policies"][0].update(periodSeconds=1801),
        "1 to 1800 s",
    ),
    Case("target", "hpa", lambda r: r["spec"]["scaleTargetRef"].update(name="other"), "is scaled by"),
    Case("keda idle", "keda", lambda r: r["spec"].update(idleReplicaCount=1), "must be below minReplicaCount"),
    Case("keda min", "keda", lambda r: r["spec"].update(minReplicaCount=5), "above maxReplicaCount"),
    Case("keda number", "keda", lambda r: r["spec"]["triggers"][0]["metadata"].update(threshold=4), "needs quotes"),
    Case("keda null", "keda", lambda r: r["spec"]["triggers"][0]["metadata"].pop("ignoreNullValues"), "looks idle"),
    Case("keda triggers", "keda", lambda r: r["spec"].update(triggers=[]), "there is none"),
    Case("lws size", "lws", lambda r: r["spec"]["leaderWorkerTemplate"].update(size=0), "at least 1"),
    Case(
        "knative ports",
        "knative",
        lambda r: pod(r)["containers"][1].update(ports=[{"containerPort": 1}]),
        "exactly one must",
    ),
    Case(
        "knative port pair", "knative", lambda r: container(r)["ports"].append({"containerPort": 1}), "one is allowed"
    ),
    Case("knative toleration", "knative", lambda r: pod(r).update(tolerations=[]), "off by default"),
    Case("knative volume", "knative", lambda r: pod(r)["volumes"][0].update(image={}), "off by default"),
    Case(
        "knative time", "knative", lambda r: pod(r).update(responseStartTimeoutSeconds=601), "more than timeoutSeconds"
    ),
    Case(
        "kserve both", "kserve", lambda r: r["spec"].update(scaling={"maxReplicas": 2, "wva": {}}), "exclude each other"
    ),
    Case("kserve uri", "kserve", lambda r: r["spec"]["model"].update(uri="b"), "no source"),
    Case("pool ports", "pool", lambda r: r["spec"]["targetPorts"].append({"number": 8000}), "given 2 times"),
    Case("pool picker", "pool", lambda r: r["spec"]["endpointPickerRef"].pop("port"), "needs a port"),
    Case(
        "route times", "route", lambda r: r["spec"]["rules"][0]["timeouts"].update(request="4s"), "longer than request"
    ),
    Case("route port", "route", lambda r: r["spec"]["rules"][0]["backendRefs"][0].pop("port"), "needs a port"),
    Case("service names", "service", lambda r: r["spec"]["ports"][0].pop("name"), "need names"),
    Case("pdb both", "pdb", lambda r: r["spec"].update(minAvailable=1), "exclude each other"),
    Case("pdb nothing", "pdb", lambda r: r.update(spec={"minAvailable": 0}), "protects nothing"),
    Case("pdb everything", "pdb", lambda r: r.update(spec={"minAvailable": "100%"}), "could ever be drained"),
    Case("lease zero", "lease", lambda r: r["spec"].update(leaseDurationSeconds=0), "more than 0"),
    Case("lease time", "lease", lambda r: r["spec"].update(renewTime="2026-01-01T00:00:00Z"), "microseconds"),
]


@pytest.mark.parametrize("resources", ALL.values(), ids=ALL.keys())
def test_check_right_resources_have_no_problem(resources: list[Resource]) -> None:
    assert resource_problems(resources) == ()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_broken_resource_is_told(case: Case) -> None:
    *others, broken = deepcopy(ALL[case.resources])
    case.change(broken)
    found = [str(one) for one in resource_problems([*others, broken])]
    assert any(case.told in one for one in found), found


def test_check_replicas_beside_an_autoscaler_are_told() -> None:
    fixed = deepcopy(DEPLOYMENT)
    fixed["spec"]["replicas"] = 1
    for writer in (HPA, KEDA, ROLE):
        assert "spec.replicas: must be left out" in str(resource_problems([fixed, writer])[0])


def test_check_two_writers_of_one_target_are_told() -> None:
    assert any("several writers" in str(one) for one in resource_problems([DEPLOYMENT, HPA, KEDA]))


def test_check_the_same_resource_twice_is_told() -> None:
    assert any("rendered 2 times" in str(one) for one in resource_problems([PDB, PDB]))


def test_check_hpa_may_go_to_zero_on_new_clusters() -> None:
    sleeping = deepcopy(HPA)
    sleeping["spec"]["minReplicas"] = 0
    assert resource_problems([DEPLOYMENT, sleeping], version="v1.37") == ()
