"""Configs of mixtures, made of a dense model's: every value that the architectures default differently is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from lightship.compression.moe.layouts import MIXTRAL, QWEN3_MOE, Carving, MoeLayout

_SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "attention_dropout",
    "rope_parameters",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)


def read_config(folder: Path) -> Any:
    """The dense checkpoint's config, defaults filled in by transformers."""
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def upcycled_config(dense: Any, layout: MoeLayout, *, num_experts: int, top_k: int) -> Any:
    """Config of the mixture of whole copies."""
    fields = {name: getattr(dense, name) for name in _SHARED_FIELDS}
    fields |= {"num_experts_per_tok": top_k, "head_dim": dense.head_dim, "architectures": [layout.architecture]}
    if layout == MIXTRAL:
        window = getattr(dense, "sliding_window", None)
        return MixtralConfig(
            **fields, num_local_experts=num_experts, intermediate_size=dense.intermediate_size, sliding_window=window
        )
    if layout == QWEN3_MOE:
        return Qwen3MoeConfig(
            **fields,
            num_experts=num_experts,
            intermediate_size=dense.intermediate_size,
            moe_intermediate_size=dense.intermediate_size,
            norm_topk_prob=True,
            use_sliding_window=dense.use_sliding_window,
            sliding_window=dense.sliding_window,
            max_window_layers=dense.max_window_layers,
        )
    raise ValueError(f"no config for {layout.architecture}")


def carved_config(dense: Any, layout: MoeLayout, carving: Carving) -> Any:
    """Config of the mixture of parts: weights of the chosen experts add to one, a shared expert beside them."""
    width = dense.intermediate_size // carving.num_experts
    return Qwen2MoeConfig(
        **{name: getattr(dense, name) for name in _SHARED_FIELDS},
        architectures=[layout.architecture],
        intermediate_size=dense.intermediate_size,
        num_experts=carving.num_routed,
        num_experts_per_tok=carving.top_k,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=width * carving.num_shared,
        norm_topk_prob=True,
        qkv_bias=True,
        use_sliding_window=False,
    )
