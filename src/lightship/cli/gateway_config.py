"""From a spec to the configuration of one gateway process: pure, a function per section."""

from __future__ import annotations

from collections.abc import Sequence

from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.ports.engine import HopTimeouts
from lightship.spec.document import Spec
from lightship.spec.gateway import TimeoutsSpec


def gateway_config(spec: Spec, replicas: Sequence[ReplicaConfig], *, port: int) -> GatewayConfig:
    """The gateway in front of these replicas, with everything else as the spec says.

    Args:
        spec: What is wanted.
        replicas: Who serves; their rungs are chosen by the caller.
        port: To listen on; the spec's own may be 0.
    """
    return GatewayConfig(
        host=spec.gateway.listen.host,
        port=port,
        model_name=spec.model.name,
        replicas=tuple(replicas),
        timeouts=hop_timeouts(spec.gateway.timeouts),
        max_attempts=spec.gateway.retries.max_attempts,
        retry_budget_share=spec.gateway.retries.budget_share,
        body_limit_bytes=spec.gateway.body_limit,
        drain_timeout_s=spec.gateway.drain_timeout_s,
    )


def hop_timeouts(timeouts: TimeoutsSpec) -> HopTimeouts:
    """The limits of the hop to an engine."""
    return HopTimeouts(timeouts.connect_s, timeouts.first_token_s, timeouts.next_token_s, timeouts.total_s)
