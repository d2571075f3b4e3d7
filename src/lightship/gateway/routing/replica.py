"""One replica: what it is, the engine that reaches it, and what is known of it."""

from __future__ import annotations

from typing import Protocol

from lightship.engines.remote import ProbeResult
from lightship.gateway.config import ReplicaConfig
from lightship.gateway.routing.breaker import Breaker
from lightship.gateway.routing.config import DEFAULT_ROUTING, RoutingConfig
from lightship.gateway.routing.engine_metrics import EngineView
from lightship.gateway.routing.health import Health
from lightship.gateway.routing.load import TokenRates, WorkLedger
from lightship.gateway.routing.outliers import ShowingTally
from lightship.gateway.routing.picking import UNLIMITED, DeviceLoad, ReplicaState
from lightship.ports.engine import Engine


class ProbedEngine(Engine, Protocol):
    """An engine that can be asked whether it wants requests."""

    async def probe_ready(self, *, timeout_s: float) -> ProbeResult:
        """What a readiness probe found; never raises."""
        ...


class MetricsSource(Protocol):
    """Something that tells an engine's metrics."""

    async def read_metrics(self, *, timeout_s: float) -> bytes | None:
        """The engine's metrics in Prometheus' text format, or None where there are none; never raises."""
        ...


class Replica:
    """One replica. Everything but the config and the engine belongs to the pool it is in.

    Args:
        config: What it is.
        engine: Reaches it.
        metrics: Where its engine's metrics come from, if they are to be read.
    """

    def __init__(self, config: ReplicaConfig, engine: ProbedEngine, *, metrics: MetricsSource | None = None) -> None:
        self.config = config
        self.engine = engine
        self.metrics = metrics
        self.health = Health()
        self.state = ReplicaState(config.name, config.rung)
        self.breaker = Breaker(DEFAULT_ROUTING.breaker)
        self.ledger = WorkLedger(self.state, _rates(config, DEFAULT_ROUTING))
        self.tally = ShowingTally()
        self.view = EngineView()
        self.ejected_until_s = 0.0
        self.num_ejections_in_a_row = 0
        self.is_withdrawn = False
        """Whoever runs it says that it takes nothing new: it sleeps, starts or drains, whatever probes find."""

    def apply(
        self,
        config: ReplicaConfig,
        routing: RoutingConfig,
        *,
        served_model: str,
        device: DeviceLoad,
        num_processes: int,
    ) -> None:
        """Effects: from now on it is this; what is under way stays counted."""
        self.config = config
        state = self.state
        state.rung, state.served_model, state.weight = config.rung, served_model, config.weight
        most = config.max_concurrency
        state.max_in_flight = UNLIMITED if most is None else max(1, most // num_processes)
        self.breaker.apply(routing.breaker)
        self.ledger.apply(_rates(config, routing), device)

    def is_same_process(self, config: ReplicaConfig) -> bool:
        """Whether `config` means the engine this replica already reaches, in the same way."""
        mine = self.config
        return (mine.name, mine.base_url, mine.api_key_env) == (config.name, config.base_url, config.api_key_env)


def _rates(config: ReplicaConfig, routing: RoutingConfig) -> TokenRates:
    return TokenRates(
        config.prefill_tokens_per_s or routing.prefill_tokens_per_s,
        config.decode_tokens_per_s or routing.decode_tokens_per_s,
    )
