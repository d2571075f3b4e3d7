"""Who may talk to whom: engines are reached by the gateway only and call nobody."""

from __future__ import annotations

from typing import Any

from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import PORT_NAME, Engine, engines_of
from lightship.deploy.kubernetes.scaling import asks_api_server
from lightship.spec.deploy_platforms import named

_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
# A policy sees the port of the API server's endpoints, which is 6443 on most clusters, or that of its Service.
_API_SERVER_PORTS = (443, 6443)


def network_policies(around: RenderInput) -> list[dict[str, Any]]:
    """One policy for the gateway, one for each rung's engines."""
    if not around.settings.kubernetes.network_policy:
        return []
    return [_gateway(around), *(_engine(around, one) for one in engines_of(around))]


def _policy(around: RenderInput, name: str, component: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta.metadata(around, name, component),
        "spec": {
            "podSelector": {"matchLabels": meta.selector(around, name)},
            "policyTypes": ["Ingress", "Egress"],
            **spec,
        },
    }


def _gateway(around: RenderInput) -> dict[str, Any]:
    engine_pods = {"podSelector": {"matchLabels": meta.component_selector(around, meta.ENGINE)}}
    engine_ports = [{"protocol": "TCP", "port": one.rung.port} for one in engines_of(around)]
    egress: list[dict[str, Any]] = [_DNS, {"to": [engine_pods], "ports": engine_ports}]
    if asks_api_server(around):
        # and the counts of the other gateways, which the one that scales adds up
        peers = {"podSelector": {"matchLabels": meta.selector(around, around.names.gateway)}}
        egress.append({"to": [peers], "ports": [{"protocol": "TCP", "port": around.gateway.port}]})
        egress.append({"ports": [{"protocol": "TCP", "port": port} for port in _API_SERVER_PORTS]})
    if around.gateway.reaches:
        egress.append({"ports": [{"protocol": "TCP", "port": port} for port in sorted(set(around.gateway.reaches))]})
    ingress = [{"ports": [{"protocol": "TCP", "port": PORT_NAME}]}]
    return _policy(around, around.names.gateway, meta.GATEWAY, {"ingress": ingress, "egress": egress})


def _engine(around: RenderInput, engine: Engine) -> dict[str, Any]:
    port = [{"protocol": "TCP", "port": engine.rung.port}]
    gateway_pods = {"podSelector": {"matchLabels": meta.component_selector(around, meta.GATEWAY)}}
    ingress: list[dict[str, Any]] = [{"from": [gateway_pods], "ports": port}]
    monitoring = around.settings.kubernetes.monitoring
    if monitoring.resources:
        namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": monitoring.namespace}}}
        ingress.append({"from": [namespace], "ports": port})
    route = around.settings.kubernetes.route
    if route.inference_pool and named(route.gateway):
        namespace_name = named(route.gateway_namespace) or around.settings.kubernetes.namespace
        gateway_namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace_name}}}
        ingress.append({"from": [gateway_namespace], "ports": port})
    egress: list[dict[str, Any]] = []
    if engine.is_split:
        group = {"podSelector": {"matchLabels": meta.selector(around, engine.name)}}
        ingress.append({"from": [group]})
        egress = [_DNS, {"to": [group]}]
    return _policy(around, engine.name, meta.ENGINE, {"ingress": ingress, "egress": egress})
