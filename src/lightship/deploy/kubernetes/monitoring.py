"""What the Prometheus operator reads: whom to scrape, and when to wake somebody up."""

from __future__ import annotations

from typing import Any

from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import PORT_NAME
from lightship.observability import names as metrics

_INTERVAL = "15s"
# Multi-window burn rates for a budget over 30 days: 2 % of it within an hour, 5 % within six hours.
# Source: The Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
_BURNS = (("page", 14.4, "1h", "5m", "2m"), ("ticket", 6.0, "6h", "30m", "15m"))


def monitoring_resources(around: RenderInput) -> list[dict[str, Any]]:
    """ServiceMonitor of the gateway, PodMonitor of the engines, alerts; nothing unless the spec asks for them."""
    if not around.settings.kubernetes.monitoring.resources:
        return []
    return [_service_monitor(around), _pod_monitor(around), _rules(around)]


def _metadata(around: RenderInput, name: str, component: str) -> dict[str, Any]:
    metadata = meta.metadata(around, name, component)
    metadata["labels"] = {**metadata["labels"], **around.settings.kubernetes.monitoring.labels}
    return metadata


def _service_monitor(around: RenderInput) -> dict[str, Any]:
    gateway = around.gateway
    endpoint: dict[str, Any] = {"port": PORT_NAME, "path": gateway.metrics_path, "interval": _INTERVAL}
    if gateway.has_tls:
        # the certificate is for the name that clients know, not for the addresses of Pods
        endpoint |= {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _metadata(around, around.names.gateway, meta.GATEWAY),
        "spec": {
            "selector": {"matchLabels": meta.selector(around, around.names.gateway)},
            "endpoints": [endpoint],
        },
    }


def _pod_monitor(around: RenderInput) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": _metadata(around, f"{around.names.prefix}-engines", meta.ENGINE),
        "spec": {
            "selector": {"matchLabels": meta.component_selector(around, meta.ENGINE)},
            "podTargetLabels": ["app.kubernetes.io/name"],
            "podMetricsEndpoints": [{"port": PORT_NAME, "path": "/metrics", "interval": _INTERVAL}],
        },
    }


def _rules(around: RenderInput) -> dict[str, Any]:
    rules = [*_burn_rules(around), _held_rule(around), _silence_rule(around)]
    if around.deployment.min_replicas:  # else a replica that is down may be asleep
        rules.append(_replica_rule(around))
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": _metadata(around, around.names.prefix, meta.GATEWAY),
        "spec": {"groups": [{"name": around.names.prefix, "rules": rules}]},
    }


def _chosen(around: RenderInput, *more: str) -> str:
    service = f'service="{around.names.gateway}",namespace="{around.settings.kubernetes.namespace}"'
    return "{" + ",".join((service, *more)) + "}"


def _burn_rules(around: RenderInput) -> list[dict[str, Any]]:
    budget = round(1 - around.gateway.slo_attainment, 6)
    if budget <= 0:
        return []  # a promise without an error budget has no rate at which it burns
    counter = f"{metrics.SLO_REQUESTS}_total"

    def missed_share(window: str) -> str:
        by = f"sum by ({metrics.LABEL_OBJECTIVE})"
        missed, judged = (f"{metrics.LABEL_VERDICT}{rest}" for rest in ('="bad"', '=~"good|bad"'))
        return (
            f"({by} (rate({counter}{_chosen(around, missed)}[{window}])) / "
            f"{by} (rate({counter}{_chosen(around, judged)}[{window}])))"
        )

    def burns(window: str, factor: float) -> str:
        return f"{missed_share(window)} > {factor:g} * {budget:g}"

    return [
        {
            "alert": "LightshipSloBurn",
            "expr": f"{burns(long, factor)} and {burns(short, factor)}",
            "for": wait,
            "labels": {"severity": severity},
            "annotations": {
                "summary": "The promise {{ $labels.objective }} is missed "
                f"{factor:g} times as often as its budget allows.",
                "description": f"Budget: {budget:.2%} of requests, over {long} and {short}.",
            },
        }
        for severity, factor, long, short, wait in _BURNS
    ]


def _replica_rule(around: RenderInput) -> dict[str, Any]:
    return {
        "alert": "LightshipReplicaDown",
        "expr": f"max by ({metrics.LABEL_REPLICA}) ({metrics.REPLICA_UP}{_chosen(around)}) == 0",
        "for": "10m",
        "labels": {"severity": "ticket"},
        "annotations": {
            "summary": "The replica {{ $labels.replica }} is not ready.",
            "description": "Requests go to its peers, or to another rung.",
        },
    }


def _held_rule(around: RenderInput) -> dict[str, Any]:
    return {
        "alert": "LightshipRequestsHeld",
        "expr": f"sum({metrics.QUEUED}{_chosen(around)}) > 0",
        "for": "2m",
        "labels": {"severity": "page"},
        "annotations": {
            "summary": "Requests have been waiting for two minutes.",
            "description": "Replicas do not start, or there are too few: see Pods that are Pending, and the maximum.",
        },
    }


def _silence_rule(around: RenderInput) -> dict[str, Any]:
    return {
        "alert": "LightshipGatewayAbsent",
        "expr": f"absent({metrics.QUEUED}{_chosen(around)})",
        "for": "5m",
        "labels": {"severity": "page"},
        "annotations": {
            "summary": "No gateway tells its metrics.",
            "description": "Autoscalers that read them are blind: an absent metric is not an idle model.",
        },
    }
