"""What one replica of a built variant takes: for renderers and the supervisor, under the spec that it is served by."""

from __future__ import annotations

from lightship.artifacts.machine import Machine
from lightship.cli.plan.machine import slow_read_rate
from lightship.cli.plan.rungs import stored_rung
from lightship.cli.prepare import Surroundings
from lightship.planning.latency import Promise
from lightship.planning.needs import replica_needs
from lightship.ports.deployment import Figure, FigureSource, ReplicaNeeds
from lightship.ports.variants import Variant
from lightship.spec.document import Spec


def needs_of_variant(
    variant: Variant,
    spec: Spec,
    machine: Machine,
    around: Surroundings,
    *,
    num_cores: Figure | None = None,
    read_bytes_per_s: Figure | None = None,
) -> ReplicaNeeds:
    """Memory, cores, times of one replica; measured figures of such a machine where there are any.

    Args:
        variant: Of the store.
        spec: Whose engine settings and promise hold.
        machine: Kind of machine it will run on.
        num_cores: That a replica is given; all of that machine by default.
        read_bytes_per_s: Slowest rate at which weights arrive; that of a slow volume by default.

    Raises: MeasurementError: the engine's storage of keys and values is not known. CheckpointError: its config.
    Effects: reads the variant's `config.json` and the measurements.
    """
    promise = Promise(spec.slo.ttft_ms, spec.slo.tpot_ms, spec.slo.attainment)
    cores = num_cores or Figure(machine.num_cores, "cores", FigureSource.MEASURED, "all that this process may use")
    return replica_needs(
        stored_rung(variant, spec, promise, machine, around),
        num_cores=cores,
        read_bytes_per_s=read_bytes_per_s or slow_read_rate(),
        tpot_ms=promise.tpot_ms,
        request_timeout_s=spec.gateway.timeouts.total_s,
    )
