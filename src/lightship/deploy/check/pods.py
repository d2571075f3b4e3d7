"""Pods: mounts and volumes, ports, probes, times of the stop, GPUs, environment.

Source: k8s.io/kubernetes, pkg/apis/core/validation; Pod Security Standards, profile `restricted`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_STANDARD_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
_WHOLE = re.compile(r"[0-9]+")
_DEFAULT_GRACE_S = 30
_CONTAINER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def pod_problems(pod: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a Pod's spec, each with its path inside."""
    containers = pod.get("containers", [])
    if not containers:
        yield "containers: there is none"
    every = [*pod.get("initContainers", []), *containers]
    yield from _repeated((one.get("name", "") for one in every), "containers", "name")
    volumes = pod.get("volumes", [])
    yield from _repeated((one.get("name", "") for one in volumes), "volumes", "name")
    for volume in volumes:
        sources = set(volume) - {"name"}
        if len(sources) != 1:
            yield f"volumes: {volume.get('name')!r} has the sources {sorted(sources)}, exactly one is needed"
    names = {one.get("name") for one in volumes}
    for container in every:
        where = f"containers[{container.get('name')}]"
        yield from (f"{where}.{what}" for what in _container_problems(container, names))
    grace_s = pod.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
    yield from _stop_problems(containers, grace_s)
    yield from _ports_twice(containers)
    yield from _security_problems(pod, every)


def _container_problems(container: Mapping[str, Any], volumes: set[Any]) -> Iterator[str]:
    if _CONTAINER_NAME.fullmatch(container.get("name", "")) is None:
        yield "name: is no DNS label"
    image = container.get("image", "")
    if "@" not in image and ":" not in image.rpartition("/")[2]:
        yield f"image: {image!r} has neither tag nor digest"
    environment = container.get("env", [])
    yield from _repeated((one["name"] for one in environment), "env", "name")
    for one in environment:
        if "value" in one and not isinstance(one["value"], str):
            yield f"env: the value of {one['name']} is {one['value']!r}, which needs quotes to be text"
        if "value" in one and "valueFrom" in one:
            yield f"env: {one['name']} has both value and valueFrom"
    for word in [*container.get("command", []), *container.get("args", [])]:
        if not isinstance(word, str):
            yield f"args: {word!r} needs quotes to be text"
    yield from _mount_problems(container, volumes)
    for port in container.get("ports", []):
        name = port.get("name", "")
        if name and (len(name) > 15 or _PORT_NAME.fullmatch(name) is None or "--" in name):
            yield f"ports: the name {name!r} must be at most 15 small letters, digits and single hyphens"
    yield from _probe_problems(container)
    yield from _resource_problems(container.get("resources", {}))


def _mount_problems(container: Mapping[str, Any], volumes: set[Any]) -> Iterator[str]:
    mounts = container.get("volumeMounts", [])
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"volumeMounts: {mount['name']!r} is no volume of the Pod"
    yield from _repeated((one["mountPath"] for one in mounts), "volumeMounts", "mountPath")


def _probe_problems(container: Mapping[str, Any]) -> Iterator[str]:
    ports = {one.get("name") for one in container.get("ports", [])}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            yield f"{name}: successThreshold must be 1"
        port = probe.get("httpGet", {}).get("port")
        if isinstance(port, str) and port not in ports:
            yield f"{name}: {port!r} is no port of the container"
    ready, live = container.get("readinessProbe"), container.get("livenessProbe")
    if ready and live and _patience_s(live) <= _patience_s(ready):
        yield "livenessProbe: gives up before readinessProbe does, so a busy container is killed and not relieved"


def _patience_s(probe: Mapping[str, Any]) -> int:
    patience: int = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    return patience


def _resource_problems(resources: Mapping[str, Any]) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name in sorted((set(requests) | set(limits)) - _STANDARD_RESOURCES):
        if name.startswith("hugepages-"):
            continue
        if name not in limits:
            yield f"resources: {name} is requested without a limit"
        elif name in requests and str(requests[name]) != str(limits[name]):
            yield f"resources: {name} is requested {requests[name]} times and limited to {limits[name]}"
        if name in limits and _WHOLE.fullmatch(str(limits[name])) is None:
            yield f"resources: {limits[name]} {name}: only whole ones can be had"


def _stop_problems(containers: list[Mapping[str, Any]], grace_s: int) -> Iterator[str]:
    for container in containers:
        sleep_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep_s >= grace_s:
            yield (
                f"terminationGracePeriodSeconds: {grace_s} s are over when the wait of {sleep_s} s before the stop "
                f"signal of {container.get('name')!r} is"
            )


def _ports_twice(containers: list[Mapping[str, Any]]) -> Iterator[str]:
    ports = [
        f"{port['containerPort']}/{port.get('protocol', 'TCP')}"
        for container in containers
        for port in container.get("ports", [])
    ]
    yield from _repeated(iter(ports), "containers.ports", "containerPort")


def _security_problems(pod: Mapping[str, Any], containers: list[Mapping[str, Any]]) -> Iterator[str]:
    """What Pod Security only warns of on a Deployment, and refuses on its Pods."""
    security = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key}: is not restricted"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "volumes: hostPath is not restricted"
    for container in containers:
        own = container.get("securityContext", {})
        where = f"containers[{container.get('name')}].securityContext"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation must be false"
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            yield f"{where}: capabilities must drop ALL"
        if not (own.get("runAsNonRoot") or security.get("runAsNonRoot")):
            yield f"{where}: runAsNonRoot must be true"
        if not (own.get("seccompProfile") or security.get("seccompProfile")):
            yield f"{where}: seccompProfile must be set"


def _repeated(values: Iterator[Any], where: str, what: str) -> Iterator[str]:
    yield from (f"{where}: the {what} {value!r} is given {n} times" for value, n in Counter(values).items() if n > 1)
