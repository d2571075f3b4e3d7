"""Engines of the rungs: a Deployment each (a LeaderWorkerSet over several machines), Service, disruption budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightship.deploy.document import without_none
from lightship.deploy.images import Images
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.models import container_security, model_files, pod_security
from lightship.deploy.lifecycle import STARTUP_PERIOD_S, Lifecycle, rung_lifecycle
from lightship.deploy.placeholders import Places, filled_command, filled_files, rung_places
from lightship.deploy.sizes import accelerators_per_node, mebibytes, shared_memory_mib, whole_cores
from lightship.ports.deployment import DeployedRung
from lightship.spec.deploy_platforms import named

CONTAINER = "engine"
PORT_NAME = "http"
_CONFIG_FOLDER = "/etc/lightship/engine"


@dataclass(frozen=True)
class Engine:
    """One rung on Kubernetes."""

    around: RenderInput
    rung: DeployedRung

    @property
    def name(self) -> str:
        """Of its workload and Service."""
        return self.around.names.rungs[self.rung.position]

    @property
    def lifecycle(self) -> Lifecycle:
        """Of one replica."""
        return rung_lifecycle(self.rung, self.name)

    @property
    def places(self) -> Places:
        """Where things are in its container."""
        return rung_places(
            self.rung,
            host="0.0.0.0",
            model=model_files(self.around, self.rung).folder,
            config=_CONFIG_FOLDER,
            python=Images(self.around).interpreter(self.rung),
            program="/opt/llama/llama-server",
        )

    @property
    def config_files(self) -> dict[str, str]:
        """What its command reads."""
        return filled_files(self.rung.config_files, self.places)

    @property
    def is_split(self) -> bool:
        """Whether one replica is several Pods."""
        return self.rung.needs.num_nodes > 1

    def resources(self) -> list[dict[str, Any]]:
        """Everything of this rung."""
        workload = self.leader_worker_set() if self.is_split else self.deployment()
        return [*self.config_map(), workload, self.service(), *([] if self.is_split else [self.disruption_budget()])]

    def config_map(self) -> list[dict[str, Any]]:
        """Its configuration; nothing where a command says it all."""
        files = self.config_files
        if not files:
            return []
        metadata = meta.metadata(self.around, f"{self.name}-config", meta.ENGINE)
        return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}]

    def deployment(self) -> dict[str, Any]:
        """Its Deployment, without a number of replicas where somebody else changes it."""
        settings = self.around.settings.kubernetes
        is_fixed = settings.autoscaler == "none"
        rolling = {"maxUnavailable": 0, "maxSurge": 1}
        if settings.rollout == "replace":
            rolling = {"maxUnavailable": 1, "maxSurge": 0}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta.metadata(
                self.around, self.name, meta.ENGINE, annotations=meta.rung_annotations(self.around, self.rung)
            ),
            "spec": without_none(
                {
                    "replicas": self.around.deployment.min_replicas if is_fixed else None,
                    "progressDeadlineSeconds": self.lifecycle.progress_deadline_s,
                    "revisionHistoryLimit": 3,
                    "selector": {"matchLabels": meta.selector(self.around, self.name)},
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                    "template": self.template(),
                }
            ),
        }

    def leader_worker_set(self) -> dict[str, Any]:
        """The replica over several machines: the first Pod serves, the others compute for it.

        Source: vLLM's multi-node serving with multiprocessing (`--nnodes`, `--node-rank`, `--master-addr`,
        `--headless`); LeaderWorkerSet sets LWS_LEADER_ADDRESS and LWS_WORKER_INDEX in every container.
        """
        rung, num_nodes = self.rung, self.rung.needs.num_nodes
        is_fixed = self.around.settings.kubernetes.autoscaler == "none"
        common = ["--nnodes", str(num_nodes), "--node-rank", "$(LWS_WORKER_INDEX)"]
        common += ["--master-addr", "$(LWS_LEADER_ADDRESS)"]
        leader, worker = self.template(extra=common), self.template(extra=[*common, "--headless"])
        container = worker["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):
            del container[probe]
        labels = {**leader["metadata"]["labels"], "lightship.dev/role": "leader"}
        leader["metadata"]["labels"] = labels
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": meta.metadata(
                self.around, self.name, meta.ENGINE, annotations=meta.rung_annotations(self.around, rung)
            ),
            "spec": without_none(
                {
                    "replicas": self.around.deployment.min_replicas if is_fixed else None,
                    "rolloutStrategy": {
                        "type": "RollingUpdate",
                        "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
                    },
                    "leaderWorkerTemplate": {
                        "size": num_nodes,
                        "restartPolicy": "RecreateGroupOnPodRestart",
                        "leaderTemplate": leader,
                        "workerTemplate": worker,
                    },
                }
            ),
        }

    def template(self, *, extra: list[str] | None = None) -> dict[str, Any]:
        """Its Pod template; `extra` arguments go to the command's end."""
        files = self.config_files
        annotations = {**meta.rung_annotations(self.around, self.rung)}
        if files:
            annotations[meta.CHECKSUM] = meta.checksum(files)
        return {
            "metadata": {"labels": meta.labels(self.around, self.name, meta.ENGINE), "annotations": annotations},
            "spec": self.pod(extra or []),
        }

    def pod(self, extra: list[str]) -> dict[str, Any]:
        """Its Pod."""
        around, settings = self.around, self.around.settings
        delivery = model_files(around, self.rung)
        pull_secret = named(settings.images.pull_secret)
        return without_none(
            {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": self.lifecycle.grace_s,
                "imagePullSecrets": [{"name": pull_secret}] if pull_secret else None,
                "securityContext": pod_security(),
                **self.placement(),
                "topologySpreadConstraints": None if self.is_split else self._spread(),
                "initContainers": list(delivery.init_containers) or None,
                "containers": [self.container(extra)],
                "volumes": self._volumes(delivery.volume),
            }
        )

    def placement(self) -> dict[str, Any]:
        """What a Pod with a GPU needs besides its limit."""
        kubernetes = self.around.settings.kubernetes
        if not self.rung.needs.num_accelerators:
            return {}
        taint = kubernetes.gpu_resource.partition("/")[0] + "/gpu"
        return without_none(
            {
                "runtimeClassName": named(kubernetes.runtime_class),
                "tolerations": [{"key": taint, "operator": "Exists", "effect": "NoSchedule"}],
            }
        )

    def container(self, extra: list[str]) -> dict[str, Any]:
        """Its container, with all of its hardware."""
        program, *arguments = filled_command(self.rung.command, self.places)
        environment = {"HOME": "/tmp", **self.rung.environment}
        return {
            "name": CONTAINER,
            "image": Images(self.around).engine(self.rung),
            "imagePullPolicy": "IfNotPresent",
            "command": [program],
            "args": [*arguments, *extra],
            "env": [{"name": key, "value": environment[key]} for key in sorted(environment)],
            "ports": [{"name": PORT_NAME, "containerPort": self.rung.port, "protocol": "TCP"}],
            "securityContext": container_security(is_root_read_only=not self.rung.needs.num_accelerators),
            **self.probes(),
            "lifecycle": {"preStop": {"sleep": {"seconds": self.lifecycle.pre_stop_s}}},
            "resources": self.compute(),
            "volumeMounts": self._mounts(),
        }

    def compute(self) -> dict[str, Any]:
        """Requests and limits. Cores have no limit: a replica that is throttled breaks its promise for nothing."""
        needs = self.rung.needs
        memory = f"{mebibytes(needs.memory_bytes) + shared_memory_mib(self.rung)}Mi"
        limits = {"memory": memory}
        if needs.num_accelerators:
            limits[self.around.settings.kubernetes.gpu_resource] = str(accelerators_per_node(needs))
        return {"requests": {"cpu": str(whole_cores(needs.num_cores)), "memory": memory}, "limits": limits}

    def probes(self) -> dict[str, Any]:
        """Startup by its budget; readiness soon, liveness late: a busy engine is not a dead one."""
        ready = {"path": self.rung.ready_path, "port": PORT_NAME}
        live = {"path": self.rung.live_path or self.rung.ready_path, "port": PORT_NAME}
        return {
            "startupProbe": {
                "httpGet": ready,
                "periodSeconds": STARTUP_PERIOD_S,
                "timeoutSeconds": STARTUP_PERIOD_S,
                "failureThreshold": self.lifecycle.startup_failures,
            },
            "readinessProbe": {"httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
            "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 10},
        }

    def _mounts(self) -> list[dict[str, Any]]:
        mounts = [model_files(self.around, self.rung).mount, {"name": "tmp", "mountPath": "/tmp"}]
        if self.rung.config_files:
            mounts.append({"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True})
        if shared_memory_mib(self.rung):
            mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        return mounts

    def _volumes(self, model: dict[str, Any]) -> list[dict[str, Any]]:
        volumes = [model, {"name": "tmp", "emptyDir": {}}]
        if self.rung.config_files:
            volumes.append({"name": "config", "configMap": {"name": f"{self.name}-config"}})
        if shared := shared_memory_mib(self.rung):
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared}Mi"}})
        return volumes

    def _spread(self) -> list[dict[str, Any]]:
        return [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": meta.selector(self.around, self.name)},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ]

    def service(self) -> dict[str, Any]:
        """Its address for the gateway."""
        chosen = meta.selector(self.around, self.name)
        if self.is_split:
            chosen = {**chosen, "lightship.dev/role": "leader"}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta.metadata(self.around, self.name, meta.ENGINE),
            "spec": {
                "type": "ClusterIP",
                "selector": chosen,
                "ports": [{"name": PORT_NAME, "port": self.rung.port, "targetPort": PORT_NAME, "protocol": "TCP"}],
            },
        }

    def disruption_budget(self) -> dict[str, Any]:
        """One replica at a time; a broken one never holds up the drain of a node."""
        return {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta.metadata(self.around, self.name, meta.ENGINE),
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": meta.selector(self.around, self.name)},
            },
        }


def engines_of(around: RenderInput) -> list[Engine]:
    """The engines, top rung first."""
    return [Engine(around, rung) for rung in around.deployment.rungs]
