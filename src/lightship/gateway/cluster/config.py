"""The cluster section of a gateway's configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from lightship.scaling.records import ScalePolicy

# RFC 1123, as the names of Deployments and Leases have to be.
T = TypeVar("T")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The replicas of one rung: the Pods of one Deployment.

    Args:
        served_model: The name clients send.
        rung: Its place on that ladder.
        deployment: The Deployment's name.
        selector: Labels of its Pods, as in its selector.
        port: Where each Pod's engine listens.
        policy: How it is scaled. The controller never leaves its bounds.
        startup_budget_s: Longest time a Pod may take to be ready.
        model_name: What the engines call their model.
        variant_name: What they serve.
        variant_digest: Of its files; "" where they say themselves.
        context_length: See `ReplicaConfig`, as for the next ones.
        max_concurrency: Bound on the attempts under way at one Pod.
        prefill_tokens_per_s: Of one Pod.
        decode_tokens_per_s: Of one Pod.
    """

    served_model: str
    rung: int = 0
    deployment: str
    selector: dict[str, str]
    port: int = 8000
    policy: ScalePolicy = ScalePolicy()
    startup_budget_s: float = 600.0
    model_name: str
    variant_name: str
    variant_digest: str = ""
    context_length: int | None = None
    max_concurrency: int | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gateway Pod has to know of its cluster.

    Args:
        namespace: Where everything is; "" takes the service account's.
        pools: What is scaled and routed to.
        scales: Whether this gateway decides on replicas. Off, it follows Pods and leaves their number to others (an
            autoscaler).
        lease_name: The Lease by which one gateway leads; the manifests bring it, because `create` cannot be allowed for
            one name alone.
        gateway_selector: Labels of the gateway's own Pods, whose counts the leader adds up.
        gateway_port: Where each of them serves `/metrics`.
        interval_s: Between two looks at the load: the most that a wake waits, beside the API.
        lease_duration_s: A leader that was silent for longer is replaced.
        renew_deadline_s: A leader that could not renew for longer stops deciding.
        retry_period_s: Between two tries to lead or to renew.
        stale_after_s: Pods that could not be followed for longer are not decided by.
        scale_refresh_s: Between two reads of what a Deployment asks for, to see what others did.
        request_limit_s: Longest time of one call to the API server.
        peer_limit_s: Longest time to read one gateway's counts.
    """

    namespace: str = ""
    pools: tuple[PoolConfig, ...]
    scales: bool = True
    lease_name: str = "lightship-scaler"
    gateway_selector: dict[str, str] = {}
    gateway_port: int = 8080
    interval_s: float = 0.5
    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0
    stale_after_s: float = 30.0
    scale_refresh_s: float = 5.0
    request_limit_s: float = 5.0
    peer_limit_s: float = 1.0


def cluster_problems(config: ClusterConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    durations = (
        "interval_s lease_duration_s renew_deadline_s retry_period_s stale_after_s scale_refresh_s request_limit_s "
        "peer_limit_s"
    )
    for name in durations.split():
        if not 0 < getattr(config, name) < math.inf:
            yield f"{name}: must be above 0 and finite, got {getattr(config, name):g}"
    if not config.retry_period_s * 1.2 < config.renew_deadline_s < config.lease_duration_s:
        yield (
            "renew_deadline_s: must be above 1.2 x retry_period_s and below lease_duration_s, got "
            f"{config.retry_period_s:g}, {config.renew_deadline_s:g} and {config.lease_duration_s:g}"
        )
    if config.lease_duration_s != int(config.lease_duration_s):
        yield f"lease_duration_s: must be whole seconds, as a Lease counts them, got {config.lease_duration_s:g}"
    if not config.pools:
        yield "pools: must name at least one"
    if config.scales and not config.gateway_selector:
        yield "gateway_selector: must name the labels of the gateway's own Pods, whose counts are added up"
    for key, name in (
        ("lease_name", config.lease_name),
        *((f"pools: {p.deployment}", p.deployment) for p in config.pools),
    ):
        if not _NAME.fullmatch(name):
            yield f"{key}: must be a name of RFC 1123, got {name!r}"
    if not 1 <= config.gateway_port <= 65535:
        yield f"gateway_port: must be within 1 and 65535, got {config.gateway_port}"
    for position, pool in enumerate(config.pools):
        yield from (f"pools[{position}].{problem}" for problem in _pool_problems(pool))
    places = [(pool.served_model, pool.rung) for pool in config.pools]
    yield from (f"pools: {model} has rung {rung} twice" for model, rung in _twice(places))
    yield from (f"pools: the Deployment {name} is named twice" for name in _twice([p.deployment for p in config.pools]))


def _pool_problems(pool: PoolConfig) -> Iterable[str]:
    if pool.rung < 0:
        yield f"rung: must be at least 0, got {pool.rung}"
    if not _NAME.fullmatch(pool.deployment):
        yield f"deployment: must be a name of RFC 1123, got {pool.deployment!r}"
    if not pool.selector:
        yield "selector: must name at least one label, or every Pod of the namespace would belong to it"
    if not 1 <= pool.port <= 65535:
        yield f"port: must be within 1 and 65535, got {pool.port}"
    if not 0 < pool.startup_budget_s < math.inf:
        yield f"startup_budget_s: must be above 0 and finite, got {pool.startup_budget_s:g}"
    if not 0 <= pool.policy.min_replicas <= pool.policy.max_replicas:
        yield (
            "policy: min_replicas must be at least 0 and at most max_replicas, got "
            f"{pool.policy.min_replicas} and {pool.policy.max_replicas}"
        )
    if pool.max_concurrency is not None and pool.max_concurrency < 1:
        yield f"max_concurrency: must be at least 1, got {pool.max_concurrency}"


def _twice(values: list[T]) -> list[T]:
    return [value for position, value in enumerate(values) if value in values[:position]]
