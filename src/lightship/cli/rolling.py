"""A rolling update of what `up` or `serve` serves: every replica is replaced, each once its successor is ready.

SIGHUP asks for it. The spec is read again: settings of engines take effect, and a change of anything else is told of,
for it needs a new start (another ladder must be measured before it is served).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightship.cli.local_replicas import LocalPool, RungToServe, local_replica, replica_cores
from lightship.cli.prepare import Surroundings
from lightship.cli.running import LocalModel
from lightship.engines.supervisor.replica import ReplicaSpec
from lightship.engines.supervisor.supervisor import Supervisor
from lightship.errors import LightshipError
from lightship.spec.document import Spec
from lightship.spec.explain import leaves
from lightship.spec.paths import show_path

_LOGGER = logging.getLogger(__name__)


def changes_beside_engines(before: Spec, after: Spec) -> list[str]:
    """Paths of settings that differ and that a rolling update cannot bring about."""
    old, new = leaves(before), leaves(after)
    differing = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    return sorted(show_path(path) for path in differing if path[0] != "engines")


def replacements(
    spec: Spec, rungs: Sequence[RungToServe], pools: Sequence[LocalPool], around: Surroundings
) -> dict[str, ReplicaSpec]:
    """What the replicas are with this spec, each at the address it has, by name."""
    cores = replica_cores(spec.replicas)
    found = {}
    for rung, pool in zip(rungs, pools, strict=True):
        for number, old in enumerate(pool.replicas):
            port = int(old.config.base_url.rpartition(":")[2])
            one = local_replica(spec, rung, around, number=number, port=port, cores=cores[number % len(cores)])
            found[one.spec.name] = one.spec
    return found


async def roll(
    before: Sequence[Spec],
    after: Sequence[Spec],
    *,
    models: Sequence[LocalModel],
    supervisor: Supervisor,
    around: Surroundings,
) -> list[Spec]:
    """The specs that are served from now on.

    Whatever fails is logged and not raised: what served before serves on.
    """
    served: list[Spec] = []
    wanted: dict[str, ReplicaSpec] = {}
    for old, new, model in zip(before, after, models, strict=True):
        if ignored := changes_beside_engines(old, new):
            _LOGGER.warning("%s: needs a new start, and is not changed: %s", old.model.name, ", ".join(ignored))
        spec = old.model_copy(update={"engines": new.engines})
        if spec.engines != old.engines:
            _LOGGER.warning(
                "%s: settings of engines change: the figures of its ladder were measured with the old ones",
                old.model.name,
            )
        served.append(spec)
        wanted |= replacements(spec, model.served.rungs, model.pools, around)
    try:
        num_rolled = await supervisor.roll(wanted)
    except LightshipError as error:
        _LOGGER.error("the rolling update stopped: %s", error)  # noqa: TRY400 - a known condition
        return list(before)
    _LOGGER.warning("rolling update done: %d replicas replaced", num_rolled)
    return served
