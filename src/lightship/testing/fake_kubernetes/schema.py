"""Which fields the kinds we render have, so that a misspelt one is refused as a real server refuses it.

A schema is a mapping of field names to schemas; `ANY` takes whatever comes; a list of one schema is a list of such.
Not complete: values are not checked here (see `validation`), and what Lightship never renders is missing and would be
refused. Source: the reference of the Kubernetes API, 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ANY: Any = None
Schema = Any


def _fields(text: str, **others: Schema) -> dict[str, Schema]:
    return {**dict.fromkeys(text.split(), ANY), **others}


_METADATA = _fields(
    "name generateName namespace labels annotations finalizers ownerReferences managedFields uid resourceVersion "
    "generation creationTimestamp deletionTimestamp deletionGracePeriodSeconds selfLink"
)
_SELECTOR = _fields("matchLabels matchExpressions")
_PROBE = _fields(
    "httpGet exec tcpSocket grpc initialDelaySeconds periodSeconds timeoutSeconds successThreshold failureThreshold "
    "terminationGracePeriodSeconds",
    httpGet=_fields("path port host scheme httpHeaders"),
)
_HOOK = _fields("exec httpGet tcpSocket sleep", sleep=_fields("seconds"))
_CONTAINER = _fields(
    "name image imagePullPolicy command args workingDir envFrom stdin stdinOnce tty terminationMessagePath "
    "terminationMessagePolicy volumeDevices resizePolicy restartPolicy restartPolicyRules",
    env=[_fields("name value valueFrom")],
    ports=[_fields("name containerPort hostPort hostIP protocol")],
    resources=_fields("requests limits claims"),
    volumeMounts=[_fields("name mountPath subPath subPathExpr readOnly recursiveReadOnly mountPropagation")],
    securityContext=_fields(
        "allowPrivilegeEscalation capabilities privileged procMount readOnlyRootFilesystem runAsGroup runAsNonRoot "
        "runAsUser seLinuxOptions seccompProfile appArmorProfile windowsOptions"
    ),
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
    lifecycle=_fields("stopSignal", preStop=_HOOK, postStart=_HOOK),
)
_POD_SPEC = _fields(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases "
    "hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets nodeName nodeSelector os "
    "overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources restartPolicy "
    "runtimeClassName schedulerName schedulingGates serviceAccount serviceAccountName setHostnameAsFQDN "
    "shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints",
    containers=[_CONTAINER],
    initContainers=[_CONTAINER],
    securityContext=_fields(
        "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy seLinuxOptions "
        "seccompProfile appArmorProfile supplementalGroups supplementalGroupsPolicy sysctls windowsOptions"
    ),
    volumes=[
        _fields(
            "name configMap secret emptyDir persistentVolumeClaim image hostPath projected downwardAPI csi nfs "
            "ephemeral iscsi"
        )
    ],
)
_TEMPLATE = {"metadata": _METADATA, "spec": _POD_SPEC}


def _kind(spec: Schema, *, has_status: bool = True) -> dict[str, Schema]:
    head = "apiVersion kind status" if has_status else "apiVersion kind"
    return {**_fields(head), "metadata": _METADATA, "spec": spec}


def _flat(fields: str) -> dict[str, Schema]:
    return {"apiVersion": ANY, "kind": ANY, "metadata": _METADATA, **_fields(fields)}


SCHEMAS: dict[str, Schema] = {
    "Namespace": _kind(_fields("finalizers")),
    "ServiceAccount": _flat("automountServiceAccountToken imagePullSecrets secrets"),
    "ConfigMap": _flat("data binaryData immutable"),
    "Secret": _flat("data stringData immutable type"),
    "Role": _flat("rules"),
    "ClusterRole": _flat("rules aggregationRule"),
    "RoleBinding": _flat("roleRef subjects"),
    "ClusterRoleBinding": _flat("roleRef subjects"),
    "Service": _kind(
        _fields(
            "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy "
            "healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
            "loadBalancerSourceRanges publishNotReadyAddresses selector sessionAffinity sessionAffinityConfig "
            "trafficDistribution type",
            ports=[_fields("name port targetPort protocol nodePort appProtocol")],
        )
    ),
    "PersistentVolumeClaim": _kind(
        _fields(
            "accessModes dataSource dataSourceRef resources selector storageClassName volumeAttributesClassName "
            "volumeMode volumeName"
        )
    ),
    "Pod": _kind(_POD_SPEC),
    "Deployment": _kind(
        _fields(
            "minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit",
            selector=_SELECTOR,
            strategy=_fields("type", rollingUpdate=_fields("maxSurge maxUnavailable")),
            template=_TEMPLATE,
        )
    ),
    "ReplicaSet": _kind(_fields("minReadySeconds replicas", selector=_SELECTOR, template=_TEMPLATE)),
    "Job": _kind(
        _fields(
            "activeDeadlineSeconds backoffLimit completionMode completions parallelism suspend ttlSecondsAfterFinished",
            selector=_SELECTOR,
            template=_TEMPLATE,
        )
    ),
    "PodDisruptionBudget": _kind(_fields("maxUnavailable minAvailable unhealthyPodEvictionPolicy", selector=_SELECTOR)),
    "NetworkPolicy": _kind(_fields("egress ingress policyTypes", podSelector=_SELECTOR), has_status=False),
    "HorizontalPodAutoscaler": _kind(
        _fields(
            "maxReplicas metrics minReplicas",
            scaleTargetRef=_fields("apiVersion kind name"),
            behavior=_fields("scaleUp scaleDown"),
        )
    ),
    "Lease": _kind(
        _fields("acquireTime holderIdentity leaseDurationSeconds leaseTransitions preferredHolder renewTime strategy"),
        has_status=False,
    ),
}


def unknown_fields(kind: str, obj: Any) -> list[str]:
    """The paths of fields that the kind does not have, as `spec.template.spec.foo`; [] for kinds without a schema."""
    return list(_unknown(SCHEMAS.get(kind), obj, ""))


def _unknown(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if isinstance(schema, dict) and isinstance(value, dict):
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            if name in schema:
                yield from _unknown(schema[name], inner, here)
            else:
                yield here
    elif isinstance(schema, list) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown(schema[0], inner, f"{path}[{index}]")
