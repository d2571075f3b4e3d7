"""The replicas of a ladder on this machine: their addresses, cores and policy, from a spec and what was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lightship.artifacts.machine_memory import usable_memory_bytes
from lightship.cli.prepare import Surroundings
from lightship.cli.variant_worker import startup_budget_s
from lightship.cli.worker_setup import adapter_replicas, worker_setup
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.supervisor.placement import shared_cores
from lightship.engines.supervisor.pool import PoolSpec
from lightship.engines.supervisor.replica import ReplicaSpec
from lightship.errors import SpecError
from lightship.gateway.config import ReplicaConfig
from lightship.gateway.dispatch.config import RungFacts
from lightship.ports.variants import Variant
from lightship.scaling.records import Prefer, ScalePolicy
from lightship.spec.document import Spec
from lightship.spec.replicas import ReplicasSpec

# Share of the concurrency a rung was measured at that each replica should have under way: the rest is room for what
# comes while another one starts.
IN_FLIGHT_SHARE = 0.65
# Share of the machine's memory that replicas may take where the spec sets no budget.
_MEMORY_SHARE = 0.9
# A start is predicted by this where it was not measured.
_USUAL_STARTUP_S = 5.0


@dataclass(frozen=True)
class RungToServe:
    """One rung of the ladder, the variant that serves it, and what was measured of it; position 0 is the top.

    `memory_bytes` is the measured peak of one replica, `startup_s` its measured start; 0 where there is none.
    """

    position: int
    variant: Variant
    facts: RungFacts
    memory_bytes: int = 0
    startup_s: float = 0.0


@dataclass(frozen=True)
class LocalReplica:
    """One replica that may run here: for the supervisor, and for the gateway, which may know it by several names."""

    spec: ReplicaSpec
    config: ReplicaConfig
    adapters: tuple[ReplicaConfig, ...] = ()


@dataclass(frozen=True)
class LocalPool:
    """The replicas of one rung; one more than may run, so that one can be replaced without a gap."""

    policy: ScalePolicy
    rung: int
    replicas: tuple[LocalReplica, ...]

    def pool_spec(self, served_model: str) -> PoolSpec:
        """For the supervisor."""
        return PoolSpec(served_model, self.rung, self.policy, tuple(one.spec for one in self.replicas))


def local_pools(spec: Spec, rungs: Sequence[RungToServe], around: Surroundings) -> list[LocalPool]:
    """The pools of a ladder on this machine.

    Raises: SpecError: a model may sleep whose adapters nobody would wake.
    Effects: installs engines that are not there yet; takes free ports.
    """
    if not spec.replicas.min and spec.engines.vllm is not None and spec.engines.vllm.lora:
        what = "a request for an adapter wakes nobody, so its model must not sleep"
        raise SpecError(
            what, where="engines.vllm.lora", hint="Set replicas.min to 1 or more, or leave the adapters out."
        )
    lowest = rungs[-1]
    pools = []
    for rung in rungs:
        policy = scale_policy(spec, rung, lowest)
        cores = replica_cores(spec.replicas)
        replicas = tuple(
            local_replica(spec, rung, around, number=number, port=free_port(), cores=cores[number % len(cores)])
            for number in range(policy.max_replicas + 1)
        )
        pools.append(LocalPool(policy, rung.position, replicas))
    return pools


def local_replica(
    spec: Spec, rung: RungToServe, around: Surroundings, *, number: int, port: int, cores: frozenset[int] | None
) -> LocalReplica:
    """One replica of a rung at an address."""
    manifest = rung.variant.manifest
    setup = worker_setup(_on_cores(spec, cores), rung.variant, around, port=port)
    setup.install(around)
    name = f"{spec.model.name}-{manifest.name}-{rung.position}-{number}"
    config_path = around.home / "run" / f"worker-{port}.json"
    log_path = around.logs / f"worker-{manifest.name}.log"

    def make() -> WorkerProcess:
        return setup.process(name, config_path=config_path, log_path=log_path, cores=cores)

    replica = ReplicaSpec(
        name=name,
        served_model=spec.model.name,
        rung=rung.position,
        make=make,
        startup_budget_s=startup_budget_s(rung.variant, setup.adapter.name),
        startup_s=rung.startup_s or _USUAL_STARTUP_S,
        memory_bytes=rung.memory_bytes,
        memory_limit_bytes=spec.replicas.memory_limit or 0,
        drain_s=spec.gateway.drain_timeout_s,
    )
    config = ReplicaConfig(
        name=name,
        base_url=setup.settings.address,
        model_name=spec.model.name,
        variant_name=manifest.name,
        variant_digest=manifest.digest,
        rung=rung.position,
        served_model=spec.model.name,
        device=rung.facts.device,
    )
    adapters = adapter_replicas(spec, config) if setup.adapter.name == "vllm" else []
    return LocalReplica(replica, config, tuple(adapters))


def _on_cores(spec: Spec, cores: frozenset[int] | None) -> Spec:
    """The spec with as many threads as there are cores, for engines whose number of threads is left to them."""
    if cores is None:
        return spec
    engines = {
        name: engine.model_copy(update={"threads": len(cores)})
        for name in ("openvino", "vllm", "llamacpp")
        if (engine := getattr(spec.engines, name)) is not None and not engine.threads
    }
    return spec.model_copy(update={"engines": spec.engines.model_copy(update=engines)})


def scale_policy(spec: Spec, rung: RungToServe, lowest: RungToServe) -> ScalePolicy:
    """How the replicas of a rung are scaled: by the concurrency it was measured at."""
    replicas = spec.replicas
    each = max(1.0, IN_FLIGHT_SHARE * (rung.facts.concurrency or spec.measurement.target_concurrency))
    speedup = 1.0
    if rung.facts.goodput_requests_per_s and lowest.facts.goodput_requests_per_s:
        speedup = lowest.facts.goodput_requests_per_s / rung.facts.goodput_requests_per_s
    return ScalePolicy(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        in_flight_per_replica=each,
        in_flight_at_lowest_rung=each * speedup if speedup > 1 else None,
        prefer=Prefer(replicas.prefer),
        idle_after_s=replicas.idle_after_s,
        scale_down_window_s=replicas.scale_down_after_s,
        startup_s=rung.startup_s,
        attainment=spec.slo.attainment,
        usd_per_replica_hour=spec.cost.usd_per_hour,
        max_usd_per_hour=replicas.max_usd_per_hour,
    )


def replica_cores(replicas: ReplicasSpec) -> list[frozenset[int] | None]:
    """The cores of each replica of a rung: all of them where only one runs, else each its own part."""
    if replicas.max == 1 or not hasattr(os, "sched_getaffinity"):
        return [None]
    return list(shared_cores(sorted(os.sched_getaffinity(0)), num_replicas=replicas.max))


def memory_budget_bytes(replicas: ReplicasSpec) -> int | None:
    """What all replicas on this machine may take together; None where nothing is known."""
    if replicas.memory is not None:
        return replicas.memory
    return int(_MEMORY_SHARE * usable_memory_bytes()) or None
