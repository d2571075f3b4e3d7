"""The layers of a gateway, top to bottom. Read this file first.

    client
      app.py           one ASGI app: reads the request, counts its outcome
      relay.py         sends the reply on as it comes; what happens when it breaks
    --- the commit point: a layer below may still try another replica, nothing above may ---
      RetryingEngine   another replica after a failed attempt, within a budget
      ObservedEngine   counts attempts, measures the replica's share of the time
      BalancedEngine   picks a replica of the call's rung, counts what is in flight there
      RemoteEngine     one replica over HTTP

Each layer is an `Engine` round another one. A new feature is a new layer with its place and its reason in this list.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightship.gateway.balancing import BalancedEngine
from lightship.gateway.config import GatewayConfig
from lightship.gateway.observing import ObservedEngine
from lightship.gateway.replicas import ReplicaPool
from lightship.gateway.retrying import RetryBudget, RetryingEngine
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.ports.clock import Clock
from lightship.ports.engine import Engine


@dataclass(frozen=True)
class Stack:
    """All layers between the app and the replicas; `top` is the one to call."""

    top: Engine
    retrying: RetryingEngine

    def apply(self, config: GatewayConfig) -> None:
        """Effects: calls from now on meet these settings; what the layers have learned stays."""
        self.retrying.apply(max_attempts=config.max_attempts, budget_share=config.retry_budget_share)


def build_stack(pool: ReplicaPool, config: GatewayConfig, *, telemetry: GatewayTelemetry, clock: Clock) -> Stack:
    """All layers between the app and the replicas."""
    engine: Engine = BalancedEngine(pool)
    engine = ObservedEngine(engine, telemetry=telemetry, clock=clock)
    retrying = RetryingEngine(engine, max_attempts=config.max_attempts, budget=RetryBudget(config.retry_budget_share))
    return Stack(retrying, retrying)
