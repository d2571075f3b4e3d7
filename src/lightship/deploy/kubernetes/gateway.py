"""The gateway: Deployment, Service, configuration, volume, and what it may do in the cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lightship.deploy.document import without_none
from lightship.deploy.images import PYTHON, Images
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import PORT_NAME, engines_of
from lightship.deploy.kubernetes.models import container_security, pod_security
from lightship.deploy.kubernetes.scaling import asks_api_server, cluster_section
from lightship.deploy.lifecycle import STARTUP_PERIOD_S, Lifecycle, gateway_lifecycle
from lightship.deploy.placeholders import Places, filled_command, filled_files, gateway_places
from lightship.deploy.sizes import mebibytes, whole_cores
from lightship.errors import SpecError
from lightship.spec.deploy_platforms import named

CONTAINER = "gateway"
_CONFIG_FOLDER = "/etc/lightship/gateway"
_TLS_FOLDER = "/etc/lightship/tls"
_STATE_FOLDER = "/var/lib/lightship"


@dataclass(frozen=True)
class Gateway:
    """The gateway on Kubernetes."""

    around: RenderInput

    @property
    def name(self) -> str:
        """Of its workload and Service."""
        return self.around.names.gateway

    @property
    def lifecycle(self) -> Lifecycle:
        """Of one gateway, at least as long as its engines'."""
        return gateway_lifecycle(self.around.gateway, [one.lifecycle for one in engines_of(self.around)], self.name)

    @property
    def places(self) -> Places:
        """Where things are in its container, and the rungs in the cluster."""
        urls = [f"http://{one.name}:{one.rung.port}" for one in engines_of(self.around)]
        return gateway_places(
            self.around.gateway,
            urls,
            host="0.0.0.0",
            config=_CONFIG_FOLDER,
            state=_STATE_FOLDER,
            tls=_TLS_FOLDER,
            python=PYTHON,
        )

    @property
    def config_files(self) -> dict[str, str]:
        """What it reads; with the Pods of its rungs to follow, where it can, in place of their addresses."""
        files = filled_files(self.around.gateway.config_files, self.places)
        return {name: self._with_cluster(text) for name, text in files.items()}

    def _with_cluster(self, text: str) -> str:
        if not self.around.gateway.reads_cluster:
            return text
        config = json.loads(text)
        urls = {self.places.values[f"rung-{position}"] for position in range(len(self.around.deployment.rungs))}
        config["replicas"] = [one for one in config["replicas"] if one["base_url"] not in urls]
        config["cluster"] = cluster_section(self.around)
        return json.dumps(config, indent=2) + "\n"

    def resources(self) -> list[dict[str, Any]]:
        """Everything of the gateway.

        Raises: SpecError: several gateways, and what they count or the keys they read cannot be shared.
        """
        self._check_shared()
        return [
            *self._volume_claim(),
            self._config_map(),
            self._service_account(),
            self._deployment(),
            self._service(),
            self._disruption_budget(),
        ]

    def _check_shared(self) -> None:
        gateway, settings = self.around.gateway, self.around.settings.kubernetes
        if settings.gateways == 1:
            return
        where = "deploy.kubernetes.gateways"
        if not gateway.shares_state:
            what = f"{settings.gateways} gateways would each count limits and budgets for themselves"
            raise SpecError(
                what, where=where, hint="Set gateway.state.redis_url or redis_url_env, or take one gateway."
            )
        if gateway.keeps_state and settings.state.access != "ReadWriteMany":
            what = f"{settings.gateways} gateways read one file of keys"
            raise SpecError(
                what, where=where, hint="Set deploy.kubernetes.state.access to ReadWriteMany, or take one gateway."
            )

    def _volume_claim(self) -> list[dict[str, Any]]:
        state = self.around.settings.kubernetes.state
        if not self.around.gateway.keeps_state:
            return []
        return [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": meta.metadata(self.around, self.around.names.gateway_state, meta.GATEWAY),
                "spec": without_none(
                    {
                        "accessModes": [state.access],
                        "storageClassName": named(state.storage_class),
                        "resources": {"requests": {"storage": "1Gi" if state.size == "auto" else state.size}},
                    }
                ),
            }
        ]

    def _config_map(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta.metadata(self.around, self.around.names.gateway_config, meta.GATEWAY),
            "data": self.config_files,
        }

    def _service_account(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta.metadata(self.around, self.name, meta.GATEWAY),
            "automountServiceAccountToken": False,
        }

    def _deployment(self) -> dict[str, Any]:
        settings, gateway = self.around.settings.kubernetes, self.around.gateway
        is_alone = gateway.keeps_state and settings.state.access == "ReadWriteOnce"
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta.metadata(
                self.around, self.name, meta.GATEWAY, annotations=meta.model_annotation(self.around)
            ),
            "spec": {
                "replicas": settings.gateways,
                "progressDeadlineSeconds": self.lifecycle.progress_deadline_s,
                "revisionHistoryLimit": 3,
                "selector": {"matchLabels": meta.selector(self.around, self.name)},
                # a volume for one node at a time cannot be mounted by the old and the new one
                "strategy": {"type": "Recreate"} if is_alone else rolling,
                "template": {
                    "metadata": {
                        "labels": meta.labels(self.around, self.name, meta.GATEWAY),
                        "annotations": {
                            **meta.model_annotation(self.around),
                            meta.CHECKSUM: meta.checksum(self.config_files),
                        },
                    },
                    "spec": self._pod(),
                },
            },
        }

    def _pod(self) -> dict[str, Any]:
        names, settings = self.around.names, self.around.settings
        pull_secret = named(settings.images.pull_secret)
        state: dict[str, Any] = {"emptyDir": {}}
        if self.around.gateway.keeps_state:
            state = {"persistentVolumeClaim": {"claimName": names.gateway_state}}
        volumes: list[dict[str, Any]] = [
            {"name": "config", "configMap": {"name": names.gateway_config}},
            {"name": "state", **state},
            {"name": "tmp", "emptyDir": {}},
        ]
        if self.around.gateway.has_tls:
            volumes.append({"name": "tls", "secret": {"secretName": names.gateway_tls}})
        return without_none(
            {
                "serviceAccountName": self.name,
                "automountServiceAccountToken": asks_api_server(self.around),
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": self.lifecycle.grace_s,
                "imagePullSecrets": [{"name": pull_secret}] if pull_secret else None,
                "securityContext": pod_security(),
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": meta.selector(self.around, self.name)},
                    }
                ],
                "containers": [self._container()],
                "volumes": volumes,
            }
        )

    def _container(self) -> dict[str, Any]:
        gateway = self.around.gateway
        program, *arguments = filled_command(gateway.command, self.places)
        mounts: list[dict[str, Any]] = [
            {"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True},
            {"name": "state", "mountPath": _STATE_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},
        ]
        if gateway.has_tls:
            mounts.append({"name": "tls", "mountPath": _TLS_FOLDER, "readOnly": True})
        memory = f"{mebibytes(gateway.needs.memory_bytes)}Mi"
        return {
            "name": CONTAINER,
            "image": Images(self.around).gateway,
            "imagePullPolicy": "IfNotPresent",
            "command": [program],
            "args": arguments,
            "env": self._environment(),
            "ports": [{"name": PORT_NAME, "containerPort": gateway.port, "protocol": "TCP"}],
            "securityContext": container_security(is_root_read_only=True),
            **self._probes(),
            "lifecycle": {"preStop": {"sleep": {"seconds": self.lifecycle.pre_stop_s}}},
            "resources": {
                "requests": {"cpu": str(whole_cores(gateway.needs.num_cores)), "memory": memory},
                "limits": {"memory": memory},
            },
            "volumeMounts": mounts,
        }

    def _environment(self) -> list[dict[str, Any]]:
        """Secrets by reference, and who it is, for the lease."""
        names = self.around.names
        fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
        return [
            {"name": "HOME", "value": "/tmp"},
            {"name": "LIGHTSHIP_HOME", "value": _STATE_FOLDER},
            *(
                {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
                for name, path in fields.items()
            ),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": names.secrets, "key": name}}}
                for name in self.around.deployment.secrets
            ),
        ]

    def _probes(self) -> dict[str, Any]:
        """Its start is judged by life. It is ready when an engine is, or when it can hold requests for one."""
        gateway = self.around.gateway
        scheme = "HTTPS" if gateway.has_tls else "HTTP"
        ready = {"path": gateway.ready_path, "port": PORT_NAME, "scheme": scheme}
        live = {"path": gateway.live_path, "port": PORT_NAME, "scheme": scheme}
        return {
            "startupProbe": {
                "httpGet": live,
                "periodSeconds": STARTUP_PERIOD_S,
                "timeoutSeconds": STARTUP_PERIOD_S,
                "failureThreshold": self.lifecycle.startup_failures,
            },
            "readinessProbe": {"httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
            "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 10},
        }

    def _service(self) -> dict[str, Any]:
        gateway = self.around.gateway
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta.metadata(self.around, self.name, meta.GATEWAY),
            "spec": {
                "type": "ClusterIP",
                "selector": meta.selector(self.around, self.name),
                "ports": [{"name": PORT_NAME, "port": gateway.port, "targetPort": PORT_NAME, "protocol": "TCP"}],
            },
        }

    def _disruption_budget(self) -> dict[str, Any]:
        return {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta.metadata(self.around, self.name, meta.GATEWAY),
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": meta.selector(self.around, self.name)},
            },
        }
