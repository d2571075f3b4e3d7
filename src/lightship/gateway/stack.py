"""The layers of a gateway, top to bottom. Read this file first.

    client
      app.py           one ASGI app: reads the request, counts its outcome
      relay.py         sends the reply on as it comes; what happens when it breaks
      LimitedEngine    the caller's own limits and budgets: reserves before, settles after
      CachedEngine     gives an answer that was given before; one call for several equal requests (if configured)
      HeldEngine       holds what comes for a model that sleeps, until it has woken (if somebody starts replicas)
      AdmittedEngine   waits for its turn, chooses the rung, refuses what cannot be served in time
      MeteredEngine    asks for the token counts of a stream, reads them, hides them again
    --- the commit point: a layer below may still try another replica, nothing above may ---
      RetryingEngine   another replica after a failed attempt, within a budget
      ObservedEngine   counts attempts, measures the replica's share of the time
      HedgedEngine     a second attempt when the first byte is late, if configured
      BalancedEngine   picks a replica of the call's rung, counts what is in flight there
      ResponsesEngine  /v1/responses as the engine has it, or made of chat completions
      FirstTokenEngine what a stream says before its first token commits to nothing
      RemoteEngine     one replica over HTTP

Each layer is an `Engine` round another one. A new feature is a new layer with its place and its reason in this list.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.activation.holding import HeldEngine
from lightship.gateway.cache.caching import CachedEngine
from lightship.gateway.cache.store import ResponseStore
from lightship.gateway.cache.telemetry import CacheTelemetry
from lightship.gateway.config import GatewayConfig
from lightship.gateway.dispatch.admitting import AdmittedEngine
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.metering import MeteredEngine
from lightship.gateway.observing import ObservedEngine
from lightship.gateway.routing.balancing import BalancedEngine
from lightship.gateway.routing.hedging import HedgedEngine
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.retrying import RetryBudget, RetryingEngine
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.limiting import LimitedEngine
from lightship.ports.clock import Clock
from lightship.ports.engine import Engine
from lightship.ports.replica_control import ReplicaControl


@dataclass(frozen=True)
class Stack:
    """All layers between the app and the replicas; `top` is the one to call."""

    top: Engine
    pool: ReplicaPool
    limited: LimitedEngine
    cached: CachedEngine | None
    held: HeldEngine | None
    admitted: AdmittedEngine
    retrying: RetryingEngine

    def note_readiness(self) -> None:
        """Effects: admission goes by the replicas that are ready now, and what was held for one goes on."""
        dispatcher = self.admitted.dispatcher
        for model, ladder in dispatcher.ladders.items():
            for rung in range(len(ladder.places)):
                num_ready = self.pool.rung_load(rung, served_model=model).num_ready
                dispatcher.note_replicas(model, rung, num_ready)
        if dispatcher.num_waiting:
            self.admitted.advance()
        if self.held is not None:
            self.held.recheck()

    def apply(self, config: GatewayConfig) -> None:
        """Effects: calls from now on meet these settings; what the layers have learned stays."""
        self.limited.apply(config.tenants, variants_of(config))
        if self.cached is not None:
            self.cached.apply(config.cache)
        if self.held is not None:
            self.held.config = config.activation or ActivationConfig()
        self.admitted.apply(config.complete_dispatch)
        self.note_readiness()
        self.retrying.apply(max_attempts=config.max_attempts, budget_share=config.retry_budget_share)


def build_stack(
    pool: ReplicaPool,
    config: GatewayConfig,
    *,
    telemetry: GatewayTelemetry,
    clock: Clock,
    ledger: Ledger,
    responses: ResponseStore | None = None,
    control: ReplicaControl | None = None,
) -> Stack:
    """All layers between the app and the replicas.

    Args:
        pool: The replicas.
        config: Everything that is configured.
        telemetry: Where it is counted.
        clock: Time.
        ledger: Where limits are counted.
        responses: Where answers are kept, if they are.
        control: Who starts and stops the replicas, where somebody does.
    """
    budget = RetryBudget(config.retry_budget_share, clock=clock)
    engine: Engine = HedgedEngine(BalancedEngine(pool), pool=pool, budget=budget)
    engine = ObservedEngine(engine, telemetry=telemetry, clock=clock)
    retrying = RetryingEngine(engine, max_attempts=config.max_attempts, budget=budget, clock=clock)
    dispatcher = Dispatcher(
        config.complete_dispatch,
        is_up=pool.is_up,
        rung_of_session=lambda model, terms: pool.sessions.rung_of((terms.tenant, terms.session), served_model=model),
    )
    telemetry.watch_dispatcher(dispatcher, clock)
    admitted = AdmittedEngine(MeteredEngine(retrying), dispatcher, clock=clock, jitter=random.random)
    inner: Engine = admitted
    held = None
    if control is not None:
        inner = held = HeldEngine(
            admitted,
            config.activation or ActivationConfig(),
            control=control,
            is_up=pool.is_up,
            acceptable_rungs=dispatcher.acceptable_rungs,
            clock=clock,
        )
    cached = None
    if responses is not None:
        inner = cached = CachedEngine(
            inner,
            config.cache,
            store=responses,
            acceptable_digests=dispatcher.acceptable_digests,
            telemetry=CacheTelemetry(telemetry.registry),
            clock=clock,
        )
    limited = LimitedEngine(
        inner, ledger=ledger, config=config.tenants, variants=variants_of(config), random_share=random.random
    )
    return Stack(limited, pool, limited, cached, held, admitted, retrying)


def variants_of(config: GatewayConfig) -> dict[str, list[str]]:
    """Names of the variants of each served model, from the top rung down."""
    ladders = config.complete_dispatch.ladders
    return {model: [rung.variant_name for rung in ladder.rungs] for model, ladder in ladders.items()}
