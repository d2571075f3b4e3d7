"""Pools of replicas in memory, and the check that nothing is left counted in them."""

from __future__ import annotations

from typing import Any

from lightship.gateway.config import ReplicaConfig
from lightship.gateway.routing.config import DEFAULT_ROUTING, RoutingConfig
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.ports.engine import CallTerms, EngineCall
from lightship.testing.fake_engine import FakeEngine, Script
from lightship.testing.virtual_time import LoopClock

CHAT = "/v1/chat/completions"


def call(
    body: bytes = b'{"model":"m"}', *, path: str = CHAT, is_streaming: bool = True, rung: int = 0, **terms: Any
) -> EngineCall:
    """A call for the model `m`."""
    return EngineCall(
        path=path,
        body=body,
        request_id="r",
        model="m",
        is_streaming=is_streaming,
        rung=rung,
        terms=CallTerms(**terms),
    )


def replica_config(name: str, **changes: Any) -> ReplicaConfig:
    """A replica of the model `m`."""
    fields: dict[str, Any] = {"base_url": f"http://{name}", "model_name": "m", "variant_name": "fp16", **changes}
    return ReplicaConfig(name=name, **fields)


def replica(script: Script, name: str, **changes: Any) -> Replica:
    """A replica that plays a script."""
    return Replica(replica_config(name, **changes), FakeEngine(script, name=name))


def pool_of(
    *scripts: Script, routing: RoutingConfig = DEFAULT_ROUTING, interval_s: float = 1.0, **changes: Any
) -> ReplicaPool:
    """Replicas r0, r1, ... of one rung, on the event loop's clock, with pauses of breakers that are not jittered."""
    replicas = [replica(script, f"r{number}", **changes) for number, script in enumerate(scripts)]
    return ReplicaPool(
        replicas, clock=LoopClock(), interval_s=interval_s, routing=routing, draw=lambda: 1.0, secret=b"test"
    )


def fake_of(pool: ReplicaPool, name: str) -> FakeEngine:
    """The engine behind a replica."""
    engine = pool[name].engine
    assert isinstance(engine, FakeEngine)
    return engine


def assert_all_zero(pool: ReplicaPool) -> None:
    """Nothing is counted in flight anywhere, and no probe of a breaker is out."""
    for one in pool:
        assert (one.state.num_in_flight, one.state.device.work_us, one.ledger.work_us) == (0, 0, 0), one.config.name
        assert not one.breaker.has_probe
        assert isinstance(one.engine, FakeEngine)
        assert one.engine.num_open == 0
