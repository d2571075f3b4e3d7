"""Which Deployments somebody else scales: two writers of one number would fight."""

from __future__ import annotations

from collections.abc import Iterable

from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import ForbiddenError
from lightship.kubernetes.resources import POD_AUTOSCALERS, JsonObject


async def other_writers(client: KubernetesClient, *, namespace: str) -> dict[str, str] | None:
    """Deployment -> the HorizontalPodAutoscaler that scales it; None where we may not look.

    KEDA makes such an autoscaler for each ScaledObject, so those are found, too.

    Raises: KubernetesError: the server cannot be asked.
    """
    try:
        listing = await client.list(POD_AUTOSCALERS, namespace=namespace)
    except ForbiddenError:
        return None
    return targets(listing.items)


def targets(autoscalers: Iterable[JsonObject]) -> dict[str, str]:
    """Deployment -> the autoscaler that names it."""
    return {
        obj["spec"]["scaleTargetRef"]["name"]: f"HorizontalPodAutoscaler {obj['metadata']['name']}"
        for obj in autoscalers
        if obj["spec"]["scaleTargetRef"].get("kind") == "Deployment"
    }
