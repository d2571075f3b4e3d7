"""The Gateway API: a route to our gateway, and pools of engines for routers of others."""

from __future__ import annotations

from typing import Any

from lightship.deploy.document import without_none
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import Engine, engines_of
from lightship.spec.deploy_platforms import named


def route_resources(around: RenderInput) -> list[dict[str, Any]]:
    """HTTPRoute where a Gateway is named, InferencePools where they are asked for."""
    route = around.settings.kubernetes.route
    found = [_http_route(around)] if named(route.gateway) else []
    return found + ([_pool(around, one) for one in engines_of(around)] if route.inference_pool else [])


def _http_route(around: RenderInput) -> dict[str, Any]:
    route = around.settings.kubernetes.route
    parent = without_none({"name": route.gateway, "namespace": named(route.gateway_namespace)})
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": meta.metadata(around, around.names.gateway, meta.GATEWAY),
        "spec": without_none(
            {
                "parentRefs": [parent],
                "hostnames": list(route.hostnames) or None,
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                        # streams last as long as the gateway's own limits allow; 0s sets none here
                        "timeouts": {"request": "0s", "backendRequest": "0s"},
                        "backendRefs": [{"name": around.names.gateway, "port": around.gateway.port}],
                    }
                ],
            }
        ),
    }


def _pool(around: RenderInput, engine: Engine) -> dict[str, Any]:
    route = around.settings.kubernetes.route
    picker = None
    if named(route.picker):
        picker = {"name": route.picker, "port": {"number": route.picker_port}, "failureMode": "FailOpen"}
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": meta.metadata(around, engine.name, meta.ENGINE),
        "spec": without_none(
            {
                "selector": {"matchLabels": engine.service()["spec"]["selector"]},
                "targetPorts": [{"number": engine.rung.port}],
                "endpointPickerRef": picker,
            }
        ),
    }
