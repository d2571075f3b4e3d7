"""What a plan is made from. Facts come in as figures, each with its source; nothing here is looked up."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightship.artifacts.model_shape import ModelShape
from lightship.planning.accelerators import Accelerator
from lightship.planning.capacity import Traffic
from lightship.planning.latency import MeasuredLoad, Promise, Tokens
from lightship.planning.memory import EngineSettings
from lightship.ports.deployment import Figure


@dataclass(frozen=True)
class RungToPlan:
    """One variant on one engine.

    Args:
        name: Of the variant.
        weight_bytes: Of its files: counted in the manifest, or worked out of the shape.
        settings: Of the worker.
        arithmetic: `half`, `int8` or `fp8`: what its matrices are multiplied in.
        loads: What was measured of it on such a machine, by concurrency.
        measured_peak: Measured peak memory; None where there is none.
        startup_s: Usual time from start to the first token.
        warmup_s: Longest time that an engine takes besides reading the weights.
        quality_loss_high: Upper end of the interval; None where it was not measured.
    """

    name: str
    shape: ModelShape
    weight_bytes: Figure
    settings: EngineSettings
    startup_s: Figure
    warmup_s: Figure
    arithmetic: str = "half"
    loads: tuple[MeasuredLoad, ...] = ()
    measured_peak: Figure | None = None
    quality_loss_high: float | None = None


@dataclass(frozen=True)
class MachineToPlan:
    """What one replica has to itself.

    Args:
        memory_bytes: Host memory.
        bandwidth: Bytes per second that are read: of memory, or of one accelerator's.
        flops: Operations per second by arithmetic, of the cores or of one accelerator.
        read_bytes_per_s: At which weights come from disk or network, at the slowest.
        accelerator: Kind of GPU; None for a CPU.
        num_accelerators: GPUs that one replica may use.
    """

    name: str
    memory_bytes: Figure
    num_cores: Figure
    bandwidth: Figure
    flops: dict[str, Figure]
    read_bytes_per_s: Figure
    accelerator: Accelerator | None = None
    num_accelerators: int = 0


@dataclass(frozen=True)
class Prices:
    """What an hour of one replica's machine costs, and what a cloud API asks instead, in USD per million tokens."""

    usd_per_replica_hour: Figure | None = None
    cloud_input_usd_per_1m: float | None = None
    cloud_output_usd_per_1m: float | None = None

    @property
    def has_cloud(self) -> bool:
        """Whether there is something to compare with."""
        return self.cloud_input_usd_per_1m is not None and self.cloud_output_usd_per_1m is not None


@dataclass(frozen=True)
class PlanRequest:
    """All of it.

    Args:
        rungs: The ladder, top first; at least one.
        tokens: Mean of a request.
        efficiency: Share of the roofline that engines are taken to reach.
        degraded_budget: Share of requests that lower rungs may serve.
        num_spare: Replicas beyond those that the load needs, for one that fails (N+1).
        request_timeout_s: After which a request is ended.
    """

    rungs: tuple[RungToPlan, ...]
    machine: MachineToPlan
    traffic: Traffic
    tokens: Tokens
    promise: Promise
    efficiency: Figure
    degraded_budget: float = 0.0
    num_spare: int = 1
    request_timeout_s: float = 600.0
    prices: Prices = field(default_factory=Prices)
