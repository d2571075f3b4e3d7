"""Memory, energy and cost of variants, as measurements: the glue round the pure functions.

Cost and estimated memory follow from what was measured and from the spec, so they are made again whenever they are
shown. Energy and GPU memory are measured while a load runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lightship.artifacts.machine import Machine
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.errors import CheckpointError, MeasurementError
from lightship.evaluation.cost.from_measurements import cost_figures
from lightship.evaluation.cost.prices import load_prices, utc_day
from lightship.evaluation.energy import POWERCAP, EnergyMeter, NvmlEnergy, RaplPackages
from lightship.evaluation.memory import weight_bits_per_parameter
from lightship.evaluation.nvml import Unavailable, UsedMemory, nvml_devices
from lightship.evaluation.resource_figures import ResourceFigures
from lightship.planning.kv_cache import kv_bytes_per_token, openvino_kv_storage
from lightship.planning.memory import EngineSettings, MemoryPlan, plan_memory
from lightship.ports.clock import Clock
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Variant
from lightship.spec.cost import CostSpec

_WEIGHTS_PROTOCOL = "weight-files-1"


def resource_figures(
    cost: CostSpec,
    variants: Iterable[tuple[Variant, Target]],
    figures: Sequence[Measurement],
    *,
    machine: Machine,
    now_unix_s: float,
) -> ResourceFigures:
    """Memory and cost of every variant that has figures, from those figures and the spec.

    Raises: SpecError: an entry that the price list does not have.
    Effects: reads the variants' `config.json` and the price list.
    """
    found = ResourceFigures()
    for variant, target in variants:
        peaks = [
            one
            for one in figures
            if (one.variant_digest, one.target, one.metric) == (variant.manifest.digest, target, Metric.PEAK_RSS_BYTES)
        ]
        if peaks:
            newest = max(peaks, key=lambda one: one.measured_unix_s)
            found += memory_figures(
                variant,
                target,
                machine=newest.machine,
                measured_unix_s=newest.measured_unix_s,
                peak_rss_bytes=newest.value,
            )
    return found + cost_figures(
        cost, figures, num_cores=machine.num_cores, prices=load_prices(), today=utc_day(now_unix_s)
    )


def memory_figures(
    variant: Variant, target: Target, *, machine: str, measured_unix_s: float, peak_rss_bytes: float | None = None
) -> ResourceFigures:
    """Bits per weight, bytes per token of the KV cache, and estimated memory with its residual in `details`.

    Args:
        variant: Whose manifest and `config.json` are read.
        target: Whose settings say how keys and values are stored, and how many.
        machine: Fingerprint for the measurements.
        measured_unix_s: When the peak was measured.
        peak_rss_bytes: Measured peak; None or 0 where the system tells none, then there is no residual.

    Effects: reads `config.json`.
    """

    def figure(metric: Metric, value: float, protocol: str, details: dict[str, float]) -> Measurement:
        return Measurement(
            metric=metric,
            value=value,
            variant_digest=variant.manifest.digest,
            target=target,
            protocol=protocol,
            num_items=1,
            interval=None,
            measured_unix_s=measured_unix_s,
            machine=machine,
            details=details,
        )

    figures: list[Measurement] = []
    notes: list[str] = []
    weight_bytes, num_parameters = variant.manifest.weight_bytes, variant.manifest.num_parameters
    try:
        bits = weight_bits_per_parameter(weight_bytes=weight_bytes, num_parameters=num_parameters)
        details = {"weight_bytes": float(weight_bytes), "num_parameters": float(num_parameters)}
        figures.append(figure(Metric.WEIGHT_BITS_PER_PARAMETER, bits, _WEIGHTS_PROTOCOL, details))
    except MeasurementError as error:
        notes.append(_sentence(f"No bits per weight of {variant.manifest.name}: {error}"))
    try:
        model = read_model_shape(read_json_object(variant.folder / "config.json"))
        kv_bytes = _kv_bytes_per_token(model, target)
        precision = str(target.settings.get("kv_cache_precision"))
        shape = {"num_layers": model.num_layers, "num_kv_heads": model.num_kv_heads, "head_dim": model.head_dim}
        kv_details = {name: float(count) for name, count in shape.items()}
        figures.append(figure(Metric.KV_BYTES_PER_TOKEN, kv_bytes, f"kv-formula-1/{precision}", kv_details))
        estimate = _estimate(model, variant, target)
        total_bytes = estimate.host_total.value
        estimated = _estimate_details(estimate, kv_bytes, peak_rss_bytes)
        figures.append(figure(Metric.ESTIMATED_MEMORY_BYTES, total_bytes, "memory-sum-2/full-cache", estimated))
    except (CheckpointError, MeasurementError) as error:
        notes.append(_sentence(f"No memory estimate of {variant.manifest.name}: {error}"))
    return ResourceFigures(tuple(figures), tuple(notes))


def gpu_memory_figures(peak: UsedMemory | Unavailable, peak_rss: Measurement) -> ResourceFigures:
    """Peak GPU memory as a measurement beside that of peak resident memory, or the reason why there is none."""
    if isinstance(peak, Unavailable):
        return ResourceFigures(notes=(f"No GPU memory: {peak.reason}",))
    scope = "processes" if peak.is_of_processes else "whole-device"
    protocol = f"nvml-sampled-1/{scope}/{peak_rss.protocol}"
    return ResourceFigures(
        (replace(peak_rss, metric=Metric.PEAK_GPU_BYTES, value=float(peak.num_bytes), protocol=protocol),)
    )


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."


def _kv_bytes_per_token(model: ModelShape, target: Target) -> float:
    if target.engine != "openvino":
        raise MeasurementError(f"it is not known how {target.engine} stores keys and values")
    precision = str(target.settings.get("kv_cache_precision", "auto"))
    storage = openvino_kv_storage(precision, device=target.device, instruction_set=target.instruction_set)
    return kv_bytes_per_token(model, storage)


def _estimate(model: ModelShape, variant: Variant, target: Target) -> MemoryPlan:
    def setting(name: str) -> int:
        value = target.settings.get(name)
        if type(value) is not int:
            raise MeasurementError(f"the target does not say {name}")
        return value

    max_sequences = setting("max_sequences")
    settings = EngineSettings(
        engine=target.engine,
        kv_cache_bytes=setting("kv_cache_bytes"),
        kv_cache_type=str(target.settings.get("kv_cache_precision", "auto")),
        context_length=variant.manifest.context_length,
        max_sequences=max_sequences,
        step_tokens=max(setting("max_batched_tokens"), max_sequences),
        device=target.device,
        instruction_set=target.instruction_set,
    )
    return plan_memory(model, variant.manifest.weight_bytes, settings)


def _estimate_details(estimate: MemoryPlan, kv_bytes: float, peak_rss_bytes: float | None) -> dict[str, float]:
    parts = estimate.host
    details = {
        "weight_bytes": parts["weights"].value,
        "kv_cache_bytes": parts["kv_cache"].value,
        "kv_cache_tokens": parts["kv_cache"].value // kv_bytes,
        "activation_bytes": parts["activations"].value,
        "runtime_bytes": parts["code"].value,
    }
    if peak_rss_bytes:
        details["measured_peak_bytes"] = peak_rss_bytes
        details["residual_bytes"] = peak_rss_bytes - estimate.host_total.value
    return {name: float(value) for name, value in details.items()}


@contextmanager
def energy_meter(device: str, clock: Clock, *, powercap: Path = POWERCAP) -> Iterator[EnergyMeter]:
    """A meter of what a target on `device` draws: the CPU packages, and the NVIDIA devices where it uses them.

    Effects: opens the driver's library where the device is NVIDIA's.
    """
    rapl = RaplPackages(powercap)
    if not uses_nvidia(device):
        yield EnergyMeter([rapl], clock)
        return
    with nvml_devices() as devices:
        yield EnergyMeter([rapl, NvmlEnergy(devices)], clock)


def uses_nvidia(device: str) -> bool:
    """Whether a target's device is NVIDIA's; OpenVINO's `GPU` is Intel's."""
    return device.lower().startswith(("cuda", "nvidia"))
