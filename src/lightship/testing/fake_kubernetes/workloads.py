"""What scheduler, kubelet and controllers would do, at a test's command."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable

from lightship.kubernetes.resources import DEPLOYMENTS, PODS, REPLICA_SETS, JsonObject
from lightship.testing.fake_kubernetes.server import FakeKubernetes
from lightship.testing.fake_kubernetes.store import Record


class Workloads:
    """Deployments, their replica sets and their Pods.

    Args:
        fake: The server.
        namespace: Where.
        follows: Whether Pods are made and taken away at once whenever something changes; else at `reconcile`.
        becomes_ready: Whether new Pods are ready at once.
        ip_of: The address of a Pod, by its number.
    """

    def __init__(
        self,
        fake: FakeKubernetes,
        *,
        namespace: str = "default",
        follows: bool = True,
        becomes_ready: bool = False,
        ip_of: Callable[[int], str] = lambda number: f"10.0.{number // 256}.{number % 256}",
    ) -> None:
        self._ip_of = ip_of
        self._fake = fake
        self._namespace = namespace
        self._num_pods = 0
        self.becomes_ready = becomes_ready
        if follows:
            fake.store.after_write.append(self.reconcile)

    def reconcile(self) -> None:
        """Effects: each Deployment has the Pods it asks for, and its status says how they are.

        New Pods of a changed template come all at once; old ones go once as many new ones are ready.
        """
        for deployment in list(self._fake.store.objects(DEPLOYMENTS, self._namespace)):
            self._reconcile(deployment)

    def pods(self, deployment: str) -> list[JsonObject]:
        """The Pods of a Deployment, the oldest first."""
        found = [
            copy.deepcopy(pod)
            for pod in self._fake.store.objects(PODS, self._namespace)
            if pod["metadata"]["ownerReferences"][0]["name"].rpartition("-")[0] == deployment
        ]
        return sorted(found, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2]))

    def start(self, name: str) -> None:
        """Effects: the Pod has a node, an address, and its container runs; it is not ready."""
        self._status(name, phase="Running", ip=True, container={"running": {"startedAt": self._fake.now()}})

    def make_ready(self, name: str, *, is_ready: bool = True) -> None:
        """Effects: the Pod is ready, or no longer."""
        self._status(
            name, phase="Running", ip=True, is_ready=is_ready, container={"running": {"startedAt": self._fake.now()}}
        )

    def make_all_ready(self, deployment: str) -> None:
        """Effects: every Pod of a Deployment that is not going is ready."""
        for pod in self.pods(deployment):
            if "deletionTimestamp" not in pod["metadata"]:
                self.make_ready(pod["metadata"]["name"])

    def crash(self, name: str, *, num_restarts: int = 3, exit_code: int = 1, log: str = "") -> None:
        """Effects: the Pod's container ended and waits to be started again."""
        waiting = {"reason": "CrashLoopBackOff", "message": f"back-off 40s restarting failed container in pod {name}"}
        ended = {"terminated": {"exitCode": exit_code, "reason": "Error"}}
        self._status(
            name, phase="Running", ip=True, container={"waiting": waiting}, last=ended, num_restarts=num_restarts
        )
        self._fake.logs[name, True] = log

    def fail_pull(self, name: str, *, message: str = "not found") -> None:
        """Effects: the Pod's image cannot be had."""
        self._status(name, phase="Pending", container={"waiting": {"reason": "ImagePullBackOff", "message": message}})

    def refuse_schedule(self, name: str, *, message: str = "0/3 nodes are available: 3 Insufficient cpu.") -> None:
        """Effects: no node takes the Pod."""
        conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
        self._write(name, {"phase": "Pending", "conditions": conditions})

    def finish_terminations(self) -> None:
        """Effects: Pods that are being deleted are gone."""
        for pod in list(self._fake.store.objects(PODS, self._namespace)):
            if "deletionTimestamp" in pod["metadata"]:
                self._fake.store.remove(PODS, pod)

    def post_event(self, name: str, *, reason: str, message: str, kind: str = "Pod", is_warning: bool = True) -> None:
        """Effects: there is an event about an object."""
        self._num_pods += 1
        self._fake.put(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{name}.{self._num_pods}", "namespace": self._namespace},
                "involvedObject": {"kind": kind, "name": name, "namespace": self._namespace},
                "reason": reason,
                "message": message,
                "type": "Warning" if is_warning else "Normal",
                "lastTimestamp": self._fake.now(),
            }
        )

    def say_progress_failed(self, deployment: str) -> None:
        """Effects: the Deployment's condition says that its deadline has passed."""
        condition = {
            "type": "Progressing",
            "status": "False",
            "reason": "ProgressDeadlineExceeded",
            "message": f'ReplicaSet "{deployment}" has timed out progressing.',
        }
        obj = self._fake.find(DEPLOYMENTS, deployment, namespace=self._namespace)
        assert obj is not None
        obj.setdefault("status", {})["conditions"] = [condition]
        self._fake.put(obj, manager="kube-controller-manager")

    def _reconcile(self, deployment: JsonObject) -> None:
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        template = json.dumps(spec["template"], sort_keys=True).encode()
        digest = hashlib.sha256(template).hexdigest()[:10]
        self._ensure_replica_set(deployment, digest)
        everyone = [pod for pod in self.pods(name) if "deletionTimestamp" not in pod["metadata"]]
        new = [pod for pod in everyone if pod["metadata"]["labels"]["pod-template-hash"] == digest]
        old = [pod for pod in everyone if pod not in new]
        wanted = spec.get("replicas", 1)
        for _ in range(wanted - len(new)):
            new.append(self._make_pod(deployment, digest))
        for surplus in new[wanted:]:
            self._delete(surplus)
        new = new[:wanted]
        num_ready = sum(map(is_ready, new))
        if num_ready >= wanted:
            for pod in old:
                self._delete(pod)
            old = []
        ready = num_ready + sum(map(is_ready, old))
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(new) + len(old),
            "updatedReplicas": len(new),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, wanted - ready),
        }
        kept = deployment.get("status", {})
        if any(kept.get(key) != value for key, value in status.items()):
            obj = self._fake.find(DEPLOYMENTS, name, namespace=self._namespace)
            assert obj is not None
            obj["status"] = {**kept, **status}
            self._fake.put(obj, manager="kube-controller-manager")

    def _ensure_replica_set(self, deployment: JsonObject, digest: str) -> None:
        name = f"{deployment['metadata']['name']}-{digest}"
        if self._fake.find(REPLICA_SETS, name, namespace=self._namespace) is None:
            self._fake.put(
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "metadata": _owned(name, self._namespace, deployment, kind="Deployment"),
                    "spec": {"template": deployment["spec"]["template"]},
                },
                manager="kube-controller-manager",
            )

    def _make_pod(self, deployment: JsonObject, digest: str) -> JsonObject:
        self._num_pods += 1
        owner = self._fake.find(REPLICA_SETS, f"{deployment['metadata']['name']}-{digest}", namespace=self._namespace)
        assert owner is not None
        template = copy.deepcopy(deployment["spec"]["template"])
        metadata = _owned(f"{owner['metadata']['name']}-{self._num_pods}", self._namespace, owner, kind="ReplicaSet")
        metadata["labels"] = {**template["metadata"]["labels"], "pod-template-hash": digest}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template.get("spec", {}),
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
        }
        made = self._fake.put(pod, manager="kube-controller-manager")
        if self.becomes_ready:
            self.make_ready(made["metadata"]["name"])
            return self._fake.find(PODS, made["metadata"]["name"], namespace=self._namespace) or made
        return made

    def _delete(self, pod: JsonObject) -> None:
        obj = self._fake.find(PODS, pod["metadata"]["name"], namespace=self._namespace)
        assert obj is not None
        obj["metadata"]["deletionTimestamp"] = self._fake.now()
        self._fake.store.write(PODS, Record(obj))

    def _status(
        self,
        name: str,
        *,
        phase: str,
        ip: bool = False,
        is_ready: bool = False,
        container: JsonObject,
        last: JsonObject | None = None,
        num_restarts: int = 0,
    ) -> None:
        number = int(name.rpartition("-")[2])
        status: JsonObject = {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if is_ready else "False"},
            ],
            "containerStatuses": [
                {
                    "name": "main",
                    "ready": is_ready,
                    "restartCount": num_restarts,
                    "state": container,
                    "lastState": last or {},
                }
            ],
        }
        if ip:
            status["podIP"] = self._ip_of(number)
        self._write(name, status)

    def _write(self, name: str, status: JsonObject) -> None:
        obj = self._fake.find(PODS, name, namespace=self._namespace)
        assert obj is not None, f"there is no Pod {name}"
        obj["status"] = status
        self._fake.put(obj, manager="kubelet")


def is_ready(pod: JsonObject) -> bool:
    """Whether a Pod's condition says so."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _owned(name: str, namespace: str, owner: JsonObject, *, kind: str) -> JsonObject:
    reference = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    return {"name": name, "namespace": namespace, "ownerReferences": [reference]}
