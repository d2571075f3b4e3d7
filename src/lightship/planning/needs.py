"""What one replica of a rung takes from whoever runs it, as renderers and the supervisor read it. Pure."""

from __future__ import annotations

from math import ceil

from lightship.planning.memory import MemoryPlan, plan_memory
from lightship.planning.records import RungToPlan
from lightship.ports.deployment import Figure, FigureSource, ReplicaNeeds
from lightship.units import format_bytes

# The slowest bandwidth may be shared with another replica that starts.
_BANDWIDTH_MARGIN = 2.0


def replica_needs(
    rung: RungToPlan,
    *,
    num_cores: Figure,
    read_bytes_per_s: Figure,
    tpot_ms: float,
    request_timeout_s: float,
    memory: MemoryPlan | None = None,
    accelerator: str = "",
    gpus_per_machine: int = 0,
) -> ReplicaNeeds:
    """Memory, cores and times of one replica.

    Memory is the estimate for a full cache, or the measured peak where that is more. The startup budget is
    weight bytes / slowest bandwidth x 2 + the engine's warm-up. It drains as long as its worst request takes: one that
    fills the context at `tpot_ms` a token, or reaches the time limit of requests.

    Args:
        num_cores: That it is given.
        read_bytes_per_s: At which its weights come from disk or network, at the slowest.
        tpot_ms: Time per output token of a full replica.
        accelerator: Kind of GPU in the list of accelerators; "" for a CPU.
        gpus_per_machine: GPUs of one machine; a replica with more is split over several.
        memory: Of `plan_memory`, where it is there already.

    Raises: MeasurementError: the engine's storage of keys and values is not known.
    """
    settings = rung.settings
    memory = memory or plan_memory(rung.shape, rung.weight_bytes.value, settings)
    host = memory.host_total
    if rung.measured_peak is not None and rung.measured_peak.value > host.value:
        host = rung.measured_peak
    rate = read_bytes_per_s
    reading_s = rung.weight_bytes.value / rate.value
    budget = Figure(
        _BANDWIDTH_MARGIN * reading_s + rung.warmup_s.value,
        "s",
        rate.source,
        f"{format_bytes(rung.weight_bytes.value)} / {rate.value / 1e6:.4g} MB/s x {_BANDWIDTH_MARGIN:g} + "
        f"{rung.warmup_s.value:g} s ({rate.how}; {rung.warmup_s.how})",
    )
    whole_s = settings.context_length * tpot_ms / 1000
    is_cut = whole_s > request_timeout_s
    how = f"{settings.context_length} tokens x {tpot_ms:.4g} ms" + (
        f", but requests end after {request_timeout_s:g} s" if is_cut else ""
    )
    drain = Figure(min(whole_s, request_timeout_s), "s", FigureSource.GIVEN if is_cut else FigureSource.ROOFLINE, how)
    return ReplicaNeeds(
        memory_bytes=host,
        num_cores=num_cores,
        startup_budget_s=budget,
        startup_s=rung.startup_s,
        drain_s=drain,
        num_accelerators=settings.num_devices if settings.is_gpu else 0,
        accelerator=accelerator if settings.is_gpu else "",
        num_nodes=ceil(settings.num_devices / max(1, gpus_per_machine)) if settings.is_gpu else 1,
    )
