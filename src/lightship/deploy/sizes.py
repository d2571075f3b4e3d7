"""Memory, cores and load of replicas as platforms write them. Pure."""

from __future__ import annotations

import math

from lightship.deploy.document import Reckoning
from lightship.ports.deployment import DeployedRung, Figure, ReplicaNeeds

_MIB = 2**20
# Of the most requests that a replica can serve within the promise: room for those that come while another one starts.
IN_FLIGHT_SHARE = 0.65


def mebibytes(memory: Figure) -> int:
    """Whole MiB that hold it, in steps of 64."""
    return math.ceil(memory.value / _MIB / 64) * 64


def whole_cores(cores: Figure) -> int:
    """At least one."""
    return max(1, math.ceil(cores.value))


def target_in_flight(rung: DeployedRung) -> int:
    """Requests one replica should have under way; more of them ask for another replica."""
    return max(1, math.floor(rung.max_in_flight.value * IN_FLIGHT_SHARE))


def shared_memory_mib(rung: DeployedRung) -> int:
    """`/dev/shm` of a replica whose processes exchange tensors: 1 GiB for each, 0 where there is one process only.

    Source: NCCL's shared-memory transport; the default of 64 MiB in a container makes it fail.
    """
    num_processes = rung.tensor_parallel * rung.pipeline_parallel
    return 1024 * num_processes if num_processes > 1 else 0


def needs_reckonings(name: str, needs: ReplicaNeeds) -> tuple[Reckoning, ...]:
    """How memory and cores came about."""
    return (
        Reckoning(
            f"{name}: memory", f"{mebibytes(needs.memory_bytes)}Mi", f"{needs.memory_bytes.how}; in steps of 64 MiB"
        ),
        Reckoning(f"{name}: cores", str(whole_cores(needs.num_cores)), needs.num_cores.how),
    )


def rung_reckonings(name: str, rung: DeployedRung) -> tuple[Reckoning, ...]:
    """How memory, cores and the target of requests in flight came about."""
    shared = shared_memory_mib(rung)
    found = [
        *needs_reckonings(name, rung.needs),
        Reckoning(
            f"{name}: in-flight target",
            str(target_in_flight(rung)),
            f"{IN_FLIGHT_SHARE:g} x {rung.max_in_flight.value:g} requests ({rung.max_in_flight.how})",
        ),
    ]
    if rung.needs.num_accelerators:
        how = f"tensor parallel {rung.tensor_parallel} x pipeline parallel {rung.pipeline_parallel}"
        found.append(
            Reckoning(
                f"{name}: GPUs",
                str(rung.needs.num_accelerators),
                f"{how}, {accelerators_per_node(rung.needs)} on each machine",
            )
        )
    if rung.needs.num_nodes > 1:
        how = "what one machine has is not enough (deploy.gpus_per_node)"
        found.append(Reckoning(f"{name}: machines", str(rung.needs.num_nodes), how))
    if shared:
        how = f"1 GiB for each of {rung.tensor_parallel * rung.pipeline_parallel} processes that exchange tensors"
        found.append(Reckoning(f"{name}: shared memory", f"{shared}Mi", how))
    return tuple(found)


def accelerators_per_node(needs: ReplicaNeeds) -> int:
    """GPUs of each machine that a replica is split over."""
    return needs.num_accelerators // needs.num_nodes
