"""The table of `engine_support.yaml` as values: what an engine executes on a platform, how, and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lightship.artifacts.machine import Machine
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat


class Feature(StrEnum):
    """Something of a variant or its settings that an engine must have kernels for."""

    FP32 = "32-bit"
    BITS_16 = "16-bit"
    INT8_WEIGHTS = "int8-weights"
    INT8_ACTIVATIONS = "int8-activations"
    INT4_WEIGHTS = "int4-weights"
    LOW_BIT_WEIGHTS = "low-bit-weights"
    FP8_WEIGHTS = "fp8-weights"
    KV_8_BIT = "8-bit-kv-cache"
    EXPERTS = "experts"
    QUANTIZED_EXPERTS = "quantized-experts"
    ACTIVATION_ORDER = "activation-order"
    SPARSITY_2OF4 = "sparsity-2of4"
    SPARSITY_UNSTRUCTURED = "sparsity-unstructured"
    GGUF_FILES = "gguf-files"
    BITSANDBYTES = "bitsandbytes"
    PROMPT_LOOKUP = "prompt-lookup"
    DRAFT_MODEL = "draft-model"


TITLES = {
    Feature.FP32: "32-bit weights",
    Feature.BITS_16: "16-bit weights",
    Feature.INT8_WEIGHTS: "8-bit weights, 16-bit activations (W8A16)",
    Feature.INT8_ACTIVATIONS: "8-bit weights and activations (W8A8)",
    Feature.INT4_WEIGHTS: "4-bit weights (W4A16)",
    Feature.LOW_BIT_WEIGHTS: "2-, 3-, 5- or 6-bit weights",
    Feature.FP8_WEIGHTS: "FP8 weights",
    Feature.KV_8_BIT: "8-bit KV cache",
    Feature.EXPERTS: "mixture of experts",
    Feature.QUANTIZED_EXPERTS: "quantized experts",
    Feature.ACTIVATION_ORDER: "activation order by group (desc_act)",
    Feature.SPARSITY_2OF4: "2:4 sparsity",
    Feature.SPARSITY_UNSTRUCTURED: "unstructured sparsity",
    Feature.GGUF_FILES: "GGUF files",
    Feature.BITSANDBYTES: "bitsandbytes",
    Feature.PROMPT_LOOKUP: "prompt lookup (n-gram drafts)",
    Feature.DRAFT_MODEL: "draft model",
}
WEIGHT_FEATURES = frozenset(
    {
        Feature.FP32,
        Feature.BITS_16,
        Feature.INT8_WEIGHTS,
        Feature.INT8_ACTIVATIONS,
        Feature.INT4_WEIGHTS,
        Feature.LOW_BIT_WEIGHTS,
        Feature.FP8_WEIGHTS,
    }
)


class Platform(StrEnum):
    """What executes: a CPU by the most capable instruction set that changes what engines can do, or an accelerator."""

    AVX2 = "avx2"
    AVX512 = "avx512"
    AMX = "amx"
    ARM = "arm"
    CUDA = "cuda"
    INTEL_GPU = "intel-gpu"
    NPU = "npu"
    OTHER = "other"


class Verdict(StrEnum):
    """What an engine does with a feature."""

    RUNS = "runs"
    NO_GAIN = "no-gain"
    REFUSED = "refused"
    UNTESTED = "untested"


# The format that a recipe ends in says which engine serves it.
ENGINE_OF_FORMAT = {
    WeightFormat.OPENVINO_IR: "openvino",
    WeightFormat.SAFETENSORS: "vllm",
    WeightFormat.GGUF: "llamacpp",
}


@dataclass(frozen=True)
class Support:
    """One cell: the verdict, how or why in a few words, and where it was read or seen."""

    verdict: Verdict
    how: str
    source: str


_NOT_IN_TABLE = Support(Verdict.UNTESTED, "", "no entry")


@dataclass(frozen=True)
class SupportTable:
    """All rows.

    Args:
        engines: Title and version by engine.
        cells: By engine, feature and platform.
        nearest: What to suggest where a feature is refused, best first.
        cpu_head_sizes: Sizes of attention heads with kernels on a CPU, by engine; an engine without an entry takes any.
    """

    engines: Mapping[str, tuple[str, str]]
    cells: Mapping[tuple[str, Feature, Platform], Support]
    nearest: Mapping[Feature, tuple[tuple[str, Feature], ...]]
    cpu_head_sizes: Mapping[str, tuple[int, ...]]

    def find(self, engine: str, feature: Feature, platform: Platform) -> Support:
        """The cell, or one that says nothing is known."""
        return self.cells.get((engine, feature, platform), _NOT_IN_TABLE)


def parse_support_table(content: Mapping[str, Any]) -> SupportTable:
    """The table that the data states.

    Raises: ValueError: an unknown feature, platform, verdict or engine, a row without source or one there twice.
    """
    cells: dict[tuple[str, Feature, Platform], Support] = {}
    for row in content["rows"]:
        engine, feature = row["engine"], Feature(row["feature"])
        if engine not in content["engines"]:
            raise ValueError(f"row of an unknown engine {engine!r}")
        if not row.get("source"):
            raise ValueError(f"the row {engine}, {feature} has no source")
        for name, cell in row["platforms"].items():
            verdict, _, how = cell.partition(": ")
            key = (engine, feature, Platform(name))
            if key in cells:
                raise ValueError(f"{key} is there twice")
            cells[key] = Support(Verdict(verdict), how, row["source"])
    return SupportTable(
        engines={name: (str(one["title"]), str(one["version"])) for name, one in content["engines"].items()},
        cells=cells,
        nearest={
            Feature(name): tuple((engine, Feature(feature)) for engine, feature in pairs)
            for name, pairs in content["nearest"].items()
        },
        cpu_head_sizes={engine: tuple(one["cpu"]) for engine, one in content["head_sizes"].items()},
    )


@cache
def support_table() -> SupportTable:
    """The table that ships with the package.

    Effects: reads a file of the package, once.
    """
    return parse_support_table(
        yaml.safe_load((resources.files(__package__) / "engine_support.yaml").read_text("utf-8"))
    )


def platform_of(machine: Machine, device: str = "cpu") -> Platform:
    """What executes on `machine`, given the device of an engine's settings (`CPU`, `GPU.1`, `NPU`, `cuda`, `auto`).

    `auto` counts as the CPU: a machine's fingerprint does not tell of accelerators.

    Raises: SpecError: a device nobody knows.
    """
    match device.lower().partition(".")[0]:
        case "cuda":
            return Platform.CUDA
        case "gpu":
            return Platform.INTEL_GPU
        case "npu":
            return Platform.NPU
        case "cpu" | "auto":
            return _cpu_platform(machine)
        case _:
            raise SpecError(f"device {device!r} is not known", where="engines", hint="Known: CPU, GPU, NPU, cuda.")


def _cpu_platform(machine: Machine) -> Platform:
    if machine.architecture.lower() in {"aarch64", "arm64"}:
        return Platform.ARM
    has = set(machine.instruction_sets)
    if has & {"amx_int8", "amx_bf16"}:
        return Platform.AMX
    if "avx512f" in has:
        return Platform.AVX512
    return Platform.AVX2 if "avx2" in has else Platform.OTHER


def table_rows(table: SupportTable) -> Iterator[tuple[str, Feature, dict[Platform, Support]]]:
    """(engine, feature, cells by platform) in the order of the data."""
    grouped: dict[tuple[str, Feature], dict[Platform, Support]] = {}
    for (engine, feature, platform), support in table.cells.items():
        grouped.setdefault((engine, feature), {})[platform] = support
    for (engine, feature), cells in grouped.items():
        yield engine, feature, cells
