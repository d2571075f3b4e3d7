"""What is to run where, as records: made from spec, measured ladder and planner, read by whoever renders or simulates.

A *deployment* is one model's ladder with everything a replica of each rung needs to run, but no file format of any
platform. Names that must agree between two rendered documents are generated from it, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lightship.ports.variants import WeightFormat


class FigureSource(StrEnum):
    """Where a planned figure comes from, the most trustworthy first."""

    MEASURED = "measured"  # on a machine like the one it is planned for
    MANIFEST = "manifest"  # counted: sizes of files, layers, heads
    ROOFLINE = "roofline"  # worked out of bytes, operations and the hardware's limits
    VENDOR = "vendor"  # a vendor's data sheet or price list
    GIVEN = "given"  # said by the user
    ASSUMED = "assumed"  # a rule of thumb, named in `how`


@dataclass(frozen=True)
class Figure:
    """One planned number and why it is what it is.

    `how` is its arithmetic in words and numbers (`16.0 GB / 100 MB/s x 2 + 120 s`), `unit` the unit of `value`.
    """

    value: float
    unit: str
    source: FigureSource
    how: str


@dataclass(frozen=True)
class ReplicaNeeds:
    """What one replica takes from the machine that it runs on.

    Args:
        memory_bytes: Host memory of all its processes: weights where they are read there, KV cache, activations, code.
        num_cores: CPU cores it is given.
        num_accelerators: Whole GPUs, of all its machines together; 0 for a CPU.
        accelerator: Name of their kind in the list of accelerators; "" where it does not matter, or there is none.
        num_nodes: Machines it is split over (tensor and pipeline parallel beyond one machine).
        startup_budget_s: Longest time from the start of its process to readiness, weight delivery included.
        startup_s: Usual time, for predictions.
        drain_s: Longest time that the requests under way take to end.
    """

    memory_bytes: Figure
    num_cores: Figure
    startup_budget_s: Figure
    startup_s: Figure
    drain_s: Figure
    num_accelerators: int = 0
    accelerator: str = ""
    num_nodes: int = 1


@dataclass(frozen=True)
class DeployedRung:
    """One rung of a ladder, ready to be started somewhere.

    Args:
        position: 0 is the top.
        variant_name: Of the ladder.
        variant_digest: Of its files; "" where it has not been made yet.
        weight_format: Says which engine reads it.
        weight_bytes: Of all its files.
        engine: `openvino`, `vllm` or `llamacpp`.
        engine_version: Pinned.
        command: Program and arguments of one replica. `{model}` stands for the folder with the files, `{config}` for
            the folder with `config_files`, `{host}` and `{port}` for the address it is to listen on, `{python}` for the
            interpreter that the engine is installed with, `{program}` for a program that is none of Python's.
        config_files: Files that the command reads, name to content, with the same placeholders.
        environment: Variables of its process.
        port: Where it listens.
        ready_path: Answered with 200 once it can serve.
        needs: What one replica takes.
        max_in_flight: Requests one replica serves at a time and keeps the promise.
        goodput_requests_per_s: Of one replica.
        quality_loss_high: Upper end of the interval; None where it was not measured.
        tensor_parallel: Devices each layer is split over.
        pipeline_parallel: Groups the layers are divided between.
        live_path: Answered while its process is not stuck; "" where `ready_path` says that, too.
        drains_itself: Whether it ends what is under way after SIGTERM; else whoever stops it waits before.
    """

    position: int
    variant_name: str
    variant_digest: str
    weight_format: WeightFormat
    weight_bytes: int
    engine: str
    engine_version: str
    command: tuple[str, ...]
    config_files: Mapping[str, str]
    environment: Mapping[str, str]
    port: int
    ready_path: str
    needs: ReplicaNeeds
    max_in_flight: Figure
    goodput_requests_per_s: Figure
    quality_loss_high: float | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    live_path: str = ""
    drains_itself: bool = True


@dataclass(frozen=True)
class DeployedGateway:
    """The gateway in front of the rungs, ready to be started somewhere.

    Args:
        command: As of a rung.
        config_files: As of a rung; `{rung-0}`, `{rung-1}`, ... stand for the base URLs of the rungs, `{state}` for the
            folder of what must outlast it, `{tls}` for the folder with `tls.crt` and `tls.key`.
        port: Where it listens.
        ready_path: Answered with 200 once it can serve.
        live_path: Answered while its process is not stuck.
        metrics_path: Where it tells its metrics.
        needs: What one gateway takes.
        has_tls: Whether it speaks HTTPS.
        keeps_state: Whether `{state}` must outlast it: keys, or budgets that are kept in files.
        reaches: TCP ports of what it calls besides the rungs: upstreams, Redis.
        shares_state: Whether several gateways can share what is counted: it is kept in Redis, or nothing is counted.
        slo_attainment: Share of requests that must keep the promise.
        reads_cluster: Whether its configuration may have a section `cluster`: then it follows the Pods of the rungs
            itself, and their base URLs are not needed.
    """

    command: tuple[str, ...]
    config_files: Mapping[str, str]
    port: int
    ready_path: str
    live_path: str
    metrics_path: str
    needs: ReplicaNeeds
    has_tls: bool = False
    keeps_state: bool = False
    shares_state: bool = True
    reaches: tuple[int, ...] = ()
    slo_attainment: float = 0.95
    reads_cluster: bool = False


@dataclass(frozen=True)
class Deployment:
    """One served model: its ladder and how many replicas of each rung there may be.

    `min_replicas` and `max_replicas` hold for each rung; 0 as the least lets the model sleep. `prefers_ladder` says
    that lower rungs meet a peak before more replicas do; `scale_down_after_s` how long fewer must have sufficed; the
    two prices bound what the replicas of a rung cost. `secrets` names the environment variables that are taken from
    secrets, never their values.
    """

    model_name: str
    source: str
    rungs: tuple[DeployedRung, ...]
    min_replicas: int
    max_replicas: int
    idle_after_s: float
    prefers_ladder: bool = False
    scale_down_after_s: float = 300.0
    usd_per_replica_hour: float | None = None
    max_usd_per_hour: float | None = None
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
