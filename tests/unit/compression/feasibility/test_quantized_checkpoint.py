"""Checkpoints that others quantized, judged by their config.json."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.compression.feasibility.subjects import AMX, AVX2, AVX512, CONFIG

from lightship.compression.feasibility.quantized_checkpoint import check_quantized_checkpoint
from lightship.errors import UsageError

INT = {"type": "int", "symmetric": True, "strategy": "group", "group_size": 64}


def compressed(
    bits: int, *, activations: int | None = None, form: str = "pack-quantized", **weights: Any
) -> dict[str, Any]:
    """A `quantization_config` as llm-compressor writes it."""
    group = {
        "targets": ["Linear"],
        "weights": {**INT, "num_bits": bits, **weights},
        "input_activations": {"num_bits": activations, "type": "int", "dynamic": True} if activations else None,
    }
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


def gptq(**values: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True, **values}


W8A8 = compressed(8, activations=8, form="int-quantized", group_size=None, actorder="static")
REFUSED: list[tuple[str, Any, Any, str, str]] = [
    ("w4a16-avx2", compressed(4), AVX2, "cpu_gemm_wna16", "W8A8"),
    ("gptq-avx2", gptq(), AVX2, "quant_method 'gptq' with 4 bits", "W8A8"),
    ("w8a16", compressed(8), AMX, "takes 4-bit weights only", "W8A8"),
    ("gptq-8-bit", gptq(bits=8), AMX, "takes 4-bit weights only", "W8A8"),
    ("gptq-3-bit", gptq(bits=3), AMX, "takes 4-bit weights only", "llama.cpp"),
    ("desc-act", gptq(desc_act=True), AMX, "`desc_act` of the checkpoint", "W4A16"),
    ("group-actorder", compressed(4, actorder="group"), AMX, "`actorder` of group 'group_0'", "W4A16"),
    ("fp8-cache", {**W8A8, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, AVX2, "AVX-512 or AMX", "OpenVINO"),
    ("sparse", {**W8A8, "sparsity_config": {"format": "sparse-24-bitmask"}}, AMX, "were removed", "unquantized"),
    ("marlin-24", compressed(4, form="marlin-24"), AMX, "were removed", "unquantized"),
    ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}, AMX, "bitsandbytes", "W4A16"),
    ("gguf", {"quant_method": "gguf"}, AMX, "GGUF left vLLM's core", "llama.cpp"),
    ("unknown", {"quant_method": "aqlm"}, AMX, "quant_method 'aqlm'", "unquantized"),
    ("unnamed", {"bits": 4}, AMX, "names no `quant_method`", "unquantized"),
    ("no-bits", {"quant_method": "awq"}, AMX, "`bits` of quant_method 'awq' is None", "unquantized"),
    ("group-without-bits", {"quant_method": "compressed-tensors", "config_groups": {"g": {}}}, AMX, "'g'", "unquant"),
    ("groups-no-object", {"quant_method": "compressed-tensors", "config_groups": [1]}, AMX, "no object", "unquantized"),
    ("fp4", compressed(4, type="float"), AMX, "4-bit floats", "unquantized"),
    ("ragged", gptq(group_size=96), AMX, "groups of 96 do not divide", "`group_size: 128`"),
]


@pytest.mark.parametrize(
    ("quantization", "machine", "reason", "nearest"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_quantized_checkpoint_refused_by_vllm_says_why_and_what_instead(
    quantization: dict[str, Any], machine: Any, reason: str, nearest: str
) -> None:
    found = check_quantized_checkpoint({**CONFIG, "quantization_config": quantization}, "vllm", machine)
    assert not found.is_feasible
    assert reason in found.reason
    assert found.nearest is not None
    assert nearest in found.nearest


@pytest.mark.parametrize(
    ("quantization", "machine"),
    [
        (W8A8, AVX2),
        (compressed(4, actorder="static"), AVX512),
        (gptq(), AMX),
        (gptq(desc_act=True, group_size=-1), AMX),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, AMX),
        ({"quant_method": "fp8"}, AVX512),
        ({**W8A8, "sparsity_config": {"format": "dense"}}, AMX),
        ({**W8A8, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, AVX512),
        ({}, AVX2),
    ],
)
def test_quantized_checkpoint_that_vllm_executes_passes(quantization: dict[str, Any], machine: Any) -> None:
    found = check_quantized_checkpoint({**CONFIG, "quantization_config": quantization}, "vllm", machine)
    assert found.is_feasible, found.reason


def test_quantized_mixture_of_experts_needs_amx() -> None:
    config = {**CONFIG, "num_local_experts": 8, "num_experts_per_tok": 2, "quantization_config": gptq()}
    assert check_quantized_checkpoint(config, "vllm", AMX).is_feasible
    assert "need AMX tiles" in check_quantized_checkpoint(config, "vllm", AVX512).reason


@pytest.mark.parametrize("engine", ["openvino", "llamacpp"])
def test_quantized_checkpoint_on_an_engine_that_converts_is_refused(engine: str) -> None:
    found = check_quantized_checkpoint({**CONFIG, "quantization_config": gptq()}, engine, AMX)
    assert "conversions of unquantized checkpoints" in found.reason
    assert found.nearest is not None
    assert "vLLM" in found.nearest


def test_unquantized_checkpoint_passes_on_every_engine() -> None:
    for engine in ("openvino", "vllm", "llamacpp"):
        assert check_quantized_checkpoint(CONFIG, engine, AVX2).is_feasible


def test_quantized_checkpoint_of_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="engine 'tgi' is not known"):
        check_quantized_checkpoint(CONFIG, "tgi", AVX2)
