"""How the rungs stand in this process, for whoever decides about their replicas."""

from __future__ import annotations

from collections import Counter

from lightship.gateway.activation.holding import HeldEngine
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.routing.pool import ReplicaPool
from lightship.ports.replica_control import RungLoad


def rung_loads(held: HeldEngine, dispatcher: Dispatcher, pool: ReplicaPool) -> list[RungLoad]:
    """One entry for each rung of each model, in a fixed order, spill rungs left out."""
    now_s = pool.clock.monotonic_s()
    num_held = Counter(held.held())
    num_queued = dispatcher.num_waiting_by_rung()
    return [
        RungLoad(
            served_model=model,
            rung=rung,
            num_held=num_held[model, rung],
            num_queued=num_queued[model, rung],
            num_in_flight=pool.rung_load(rung, served_model=model).num_in_flight,
            num_degraded=round(dispatcher.degraded_demand(model, rung), 1),
            attainment=_rounded(dispatcher.attainment(model, rung, now_s)),
        )
        for model, ladder in dispatcher.ladders.items()
        for rung in range(ladder.num_local)
    ]


def _rounded(share: float | None) -> float | None:
    """To hundredths: a load that is told anew because its fifth digit moved is no news."""
    return None if share is None else round(share, 2)
