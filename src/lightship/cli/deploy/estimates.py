"""What one replica takes, each figure with its arithmetic: measured where it was, else from files and rules."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.machine import this_machine
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.model_shape import read_model_shape
from lightship.cli.deploy.ladder import ChosenRung
from lightship.cli.plan.settings import engine_settings
from lightship.errors import SpecError
from lightship.planning.memory import plan_memory
from lightship.ports.deployment import Figure, FigureSource, ReplicaNeeds
from lightship.ports.measurements import Metric
from lightship.spec.deploy_platforms import named
from lightship.spec.document import Spec
from lightship.units import format_bytes

_GIB = 2**30
# Time from weights in memory to readiness. `up` allows as much on a CPU, where vLLM compiles for minutes; on a GPU it
# captures graphs.
_WARM_UP_S = {"openvino": 60.0, "vllm": 420.0, "llamacpp": 60.0}
_WARM_UP_ON_GPU_S = 120.0
# Of interpreter, libraries and activations, beside weights and KV cache, where the planner has nothing to go by.
_OVERHEAD_BYTES = {"openvino": _GIB, "vllm": 4 * _GIB, "llamacpp": _GIB // 2}
# Of llama.cpp's sequences together, where the shape of the model is not known.
_UNKNOWN_LLAMACPP_CACHE_BYTES = 2.0 * _GIB
# A limit that is met kills the process, so it lies above the most that was seen.
_MEMORY_MARGIN = 1.2
_GATEWAY_PROCESS_BYTES = 256 * 2**20
_GATEWAY_STARTUP_S = 30.0


@dataclass(frozen=True)
class Hardware:
    """What a rung runs on: GPUs of all its machines together (0 on a CPU), and how many machines."""

    num_accelerators: int
    num_nodes: int


def rung_hardware(spec: Spec, engine: str, *, on_gpu: bool) -> Hardware:
    """The hardware of one replica.

    Raises: SpecError: its GPUs do not come out even on machines of `deploy.gpus_per_node`.
    """
    if engine != "vllm" or not on_gpu or spec.engines.vllm is None:
        return Hardware(0, 1)
    vllm = spec.engines.vllm
    needed = vllm.tensor_parallel * vllm.pipeline_parallel * vllm.data_parallel
    per_node = spec.deploy.gpus_per_node
    num_nodes = math.ceil(needed / per_node)
    if needed % num_nodes:
        what = f"{needed} GPUs are not the same number on each of {num_nodes} machines with {per_node}"
        raise SpecError(what, where="deploy.gpus_per_node", hint="Change it, or tensor_parallel and pipeline_parallel.")
    return Hardware(needed, num_nodes)


def weight_bytes_of(spec: Spec, rung: ChosenRung, checkpoint: Checkpoint | None) -> Figure:
    """Size of a rung's files: counted, else that of the source, which no variant exceeds by much.

    Raises: SpecError: nothing says it.
    """
    if rung.variant is not None:
        how = "sum of the variant's files"
        return Figure(rung.variant.manifest.num_bytes, "B", FigureSource.MANIFEST, how)
    if spec.deploy.weight_size:
        return Figure(spec.deploy.weight_size, "B", FigureSource.GIVEN, "deploy.weight_size")
    if checkpoint is None:
        what = f"the size of {rung.recipe.name} is not known: {spec.model.source} is not on this machine"
        hint = "Set deploy.weight_size, for example 16 GB, or run `lightship up --no-serve` first."
        raise SpecError(what, where="deploy.weight_size", hint=hint)
    total = sum(entry.num_bytes for entry in checkpoint.files)
    how = "files of the source, as an upper bound: the variant is not built yet"
    return Figure(total, "B", FigureSource.ASSUMED, how)


def cores_of(spec: Spec, rung: ChosenRung, hardware: Hardware) -> Figure:
    """Cores of one replica."""
    if spec.deploy.cores:
        return Figure(spec.deploy.cores, "cores", FigureSource.GIVEN, "deploy.cores")
    if hardware.num_accelerators:
        per_node = hardware.num_accelerators // hardware.num_nodes
        how = f"2 + one for each of {per_node} GPUs of a machine, the least that vLLM's documentation asks for"
        return Figure(2 + per_node, "cores", FigureSource.VENDOR, how)
    threads: int = getattr(spec.engines, rung.engine).threads
    if threads:
        more = 1 if rung.engine == "vllm" else 0
        how = f"engines.{rung.engine}.threads" + (" + 1 for its scheduler" if more else "")
        return Figure(threads + more, "cores", FigureSource.GIVEN, how)
    num_cores = this_machine().num_cores
    is_measured = rung.figure(Metric.PEAK_RSS_BYTES) is not None
    how = "cores of this machine" + (", where it was measured" if is_measured else "; set deploy.cores for others")
    return Figure(num_cores, "cores", FigureSource.MEASURED if is_measured else FigureSource.ASSUMED, how)


def memory_of(spec: Spec, rung: ChosenRung, weights: Figure, checkpoint: Checkpoint | None, *, on_gpu: bool) -> Figure:
    """Host memory of one replica."""
    if spec.replicas.memory_limit is not None:
        return Figure(spec.replicas.memory_limit, "B", FigureSource.GIVEN, "replicas.memory_limit")
    scoring = weights.value if rung.engine == "openvino" else 0.0
    second = (
        f" + {format_bytes(scoring)} for a second copy of the weights, on which prompts are scored" if scoring else ""
    )
    peak = rung.figure(Metric.PEAK_RSS_BYTES)
    measured = 0.0 if peak is None or on_gpu else peak.interval.high if peak.interval else peak.value
    planned = None if on_gpu else planned_memory(spec, rung, weights, checkpoint)
    if planned is not None:
        # what a short load took is no bound: caches fill, and OpenVINO keeps memory for each size of step
        more = f"; {format_bytes(measured)} were measured at most" if measured else ""
        how = f"{format_bytes(max(measured, planned.value))} x {_MEMORY_MARGIN:g}{second}: {planned.how}{more}"
        return Figure(max(measured, planned.value) * _MEMORY_MARGIN + scoring, "B", planned.source, how)
    # llama.cpp's is filled at its start, so what was measured has it
    cache = 0.0 if on_gpu or rung.engine == "llamacpp" else float(getattr(spec.engines, rung.engine).kv_cache_size)
    if measured:
        more = f" + KV cache {format_bytes(cache)}, which a load that is longer may fill" if cache else ""
        how = f"{format_bytes(measured)} measured at most x {_MEMORY_MARGIN:g}{more}{second}"
        return Figure(measured * _MEMORY_MARGIN + cache + scoring, "B", FigureSource.MEASURED, how)
    if rung.engine == "llamacpp" and not on_gpu:
        cache = _UNKNOWN_LLAMACPP_CACHE_BYTES
    cache_how = f"KV cache {format_bytes(cache)}" if cache else "KV cache on the GPU"
    overhead = _OVERHEAD_BYTES[rung.engine]
    total = (weights.value + cache + overhead) * _MEMORY_MARGIN + scoring
    how = (
        f"(weights {format_bytes(weights.value)} + {cache_how} + {format_bytes(overhead)} for code and activations, a "
        f"rule of thumb) x {_MEMORY_MARGIN:g}{second}"
    )
    return Figure(total, "B", FigureSource.ASSUMED, how)


def planned_memory(spec: Spec, rung: ChosenRung, weights: Figure, checkpoint: Checkpoint | None) -> Figure | None:
    """What the planner says a replica takes on a CPU once its caches are full; None where no shape of a model is known.

    Raises: CheckpointError: its configuration cannot be read.
    """
    folder = rung.variant.folder if rung.variant is not None else checkpoint.folder if checkpoint is not None else None
    if folder is None or not (folder / "config.json").is_file():
        return None
    context = rung.variant.manifest.context_length if rung.variant is not None else 0
    if not context and checkpoint is not None:
        context = checkpoint.context_length
    settings = engine_settings(
        spec, rung.engine, context_length=context, instruction_set=this_machine().instruction_set
    )
    shape = read_model_shape(read_json_object(folder / "config.json"))
    return plan_memory(shape, weights.value, settings).host_total


def startup_budget_of(spec: Spec, engine: str, weights: Figure, *, on_gpu: bool) -> Figure:
    """Longest time from the start of the process to readiness: bytes / slowest bandwidth x 2 + warm-up."""
    speed = spec.deploy.read_mb_per_s
    warm_up_s = _WARM_UP_ON_GPU_S if on_gpu else _WARM_UP_S[engine]
    budget_s = weights.value / (speed * 1e6) * 2 + warm_up_s
    how = (
        f"{weights.value / 1e6:,.0f} MB / {speed:g} MB/s x 2 + {warm_up_s:g} s for {engine} to warm up ({weights.how})"
    )
    return Figure(budget_s, "s", FigureSource.ASSUMED, how)


def startup_of(spec: Spec, rung: ChosenRung, weights: Figure, *, on_gpu: bool) -> Figure:
    """Usual time to readiness."""
    measured = rung.figure(Metric.STARTUP_S)
    if measured is not None and not on_gpu:
        return Figure(measured.value, "s", FigureSource.MEASURED, "start to first token, measured here")
    budget = startup_budget_of(spec, rung.engine, weights, on_gpu=on_gpu)
    return Figure(budget.value / 2, "s", FigureSource.ASSUMED, f"half of the budget: {budget.how}")


def drain_of(spec: Spec) -> Figure:
    """Longest time that requests under way get after the signal to stop."""
    tokens, tpot_ms = spec.gateway.admission.default_max_tokens, spec.slo.tpot_ms
    promised_s = (spec.slo.ttft_ms + tokens * tpot_ms) / 1000
    how = (
        f"gateway.drain_timeout_s; a promised answer of {tokens} tokens takes {spec.slo.ttft_ms:g} ms + {tokens} x "
        f"{tpot_ms:g} ms = {promised_s:.3g} s"
    )
    return Figure(spec.gateway.drain_timeout_s, "s", FigureSource.GIVEN, how)


def in_flight_of(spec: Spec, rung: ChosenRung) -> Figure:
    """Requests one replica serves at a time and keeps the promise."""
    kept = [
        one.concurrency
        for one in rung.figures
        if one.metric is Metric.SLO_ATTAINMENT and one.concurrency and one.value >= spec.slo.attainment
    ]
    most = getattr(spec.engines, rung.engine).max_sequences
    if kept:
        how = f"most of the measured concurrencies at which {spec.slo.attainment:.0%} kept the promise"
        return Figure(min(max(kept), most), "requests", FigureSource.MEASURED, how)
    target = spec.measurement.target_concurrency
    if rung.figures:
        how = f"measurement.target_concurrency; at none that was measured {spec.slo.attainment:.0%} kept the promise"
    else:
        how = "measurement.target_concurrency; nothing was measured"
    if most < target:
        how += f", bounded by engines.{rung.engine}.max_sequences"
    return Figure(min(target, most), "requests", FigureSource.GIVEN, how)


def goodput_of(rung: ChosenRung) -> Figure:
    """Good requests per second of one replica; 0 where it was not measured."""
    speed = rung.facts.goodput_requests_per_s
    if rung.facts.concurrency:
        how = f"measured at {rung.facts.concurrency} concurrent requests"
        return Figure(speed, "requests/s", FigureSource.MEASURED, how)
    return Figure(0.0, "requests/s", FigureSource.ASSUMED, "not measured")


def rung_needs(spec: Spec, rung: ChosenRung, checkpoint: Checkpoint | None, *, on_gpu: bool) -> ReplicaNeeds:
    """All of what one replica takes. Raises: SpecError: see `weight_bytes_of` and `rung_hardware`."""
    hardware = rung_hardware(spec, rung.engine, on_gpu=on_gpu)
    is_on_gpu = hardware.num_accelerators > 0
    weights = weight_bytes_of(spec, rung, checkpoint)
    return ReplicaNeeds(
        memory_bytes=memory_of(spec, rung, weights, checkpoint, on_gpu=is_on_gpu),
        num_cores=cores_of(spec, rung, hardware),
        startup_budget_s=startup_budget_of(spec, rung.engine, weights, on_gpu=is_on_gpu),
        startup_s=startup_of(spec, rung, weights, on_gpu=is_on_gpu),
        drain_s=drain_of(spec),
        num_accelerators=hardware.num_accelerators,
        accelerator=(named(spec.deploy.accelerator) or "") if is_on_gpu else "",
        num_nodes=hardware.num_nodes,
    )


def gateway_needs(spec: Spec) -> ReplicaNeeds:
    """What one gateway takes."""
    workers = spec.gateway.workers
    cache = spec.gateway.cache.exact.max_size if spec.gateway.cache.exact else 0
    how = f"{workers} processes x {format_bytes(_GATEWAY_PROCESS_BYTES)}, a rule of thumb"
    how += f" + response cache {format_bytes(cache)}" if cache else ""
    memory = Figure(workers * _GATEWAY_PROCESS_BYTES + cache, "B", FigureSource.ASSUMED, how)
    startup = Figure(_GATEWAY_STARTUP_S, "s", FigureSource.ASSUMED, "as long as `lightship up` waits for its gateway")
    return ReplicaNeeds(
        memory_bytes=memory,
        num_cores=Figure(workers, "cores", FigureSource.GIVEN, "gateway.workers, one core each"),
        startup_budget_s=startup,
        startup_s=Figure(startup.value / 2, "s", FigureSource.ASSUMED, "half of the budget"),
        drain_s=drain_of(spec),
    )
