"""Machines and a checkpoint that feasibility is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.machine import Machine
from lightship.ports.variants import WeightFormat

AVX2 = Machine("old", "x86_64", ("avx2",), 8, 32)
AVX512 = Machine("newer", "x86_64", ("avx2", "avx512f", "avx512_vnni"), 8, 32)
AMX = Machine("newest", "x86_64", ("avx2", "avx512f", "avx512_bf16", "amx_int8", "amx_bf16"), 8, 32)
CHECKPOINT = Checkpoint(
    folder=Path("/models/some"),
    digest="sha256:0",
    architecture="LlamaForCausalLM",
    model_type="llama",
    num_parameters=1000,
    weight_bytes=2000,
    dtypes=("BF16",),
    context_length=2048,
    vocab_size=4096,
    num_layers=8,
    hidden_size=256,
    num_kv_heads=2,
    head_dim=64,
    has_chat_template=False,
    weight_format=WeightFormat.SAFETENSORS,
    files=(),
)
CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_hidden_layers": 8,
    "vocab_size": 4096,
    "hidden_act": "silu",
}
