"""A decoder's shape as far as bytes, work and kernels depend on it. Pure: `config.json` goes in as an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightship.errors import CheckpointError

_COMPLETE = "Complete config.json from the model's origin."


@dataclass(frozen=True)
class ModelShape:
    """Widths and counts of a decoder-only transformer whose layers are alike.

    Args:
        intermediate_size: Width of the feed-forward layer; of one expert in a mixture.
        num_heads: Query heads.
        num_kv_heads: Heads that the cache holds.
        is_tied: Whether embedding and output head are one matrix.
        num_ffn_matrices: 3 with a gate (Llama), 2 without (GPT-2).
        num_experts: Routed experts of a layer; 1 for a dense model.
        experts_per_token: Routed experts that one token uses.
        shared_intermediate_size: Width of what every token uses besides routed experts.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    is_tied: bool = False
    num_ffn_matrices: int = 3
    num_experts: int = 1
    experts_per_token: int = 1
    shared_intermediate_size: int = 0

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed to experts."""
        return self.num_experts > 1

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's four projections; biases and norms are left out, here and below."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return self.hidden_size * (2 * queries + 2 * keys)

    @property
    def expert_weights(self) -> int:
        """Weights of one routed expert, or of a dense model's feed-forward layer."""
        return self.num_ffn_matrices * self.hidden_size * self.intermediate_size

    @property
    def shared_weights(self) -> int:
        """Weights of one layer's part that every token uses besides experts: the shared expert and the router."""
        router = self.hidden_size * self.num_experts if self.is_moe else 0
        return self.num_ffn_matrices * self.hidden_size * self.shared_intermediate_size + router

    @property
    def block_weights(self) -> int:
        """Weights of all decoder blocks."""
        layer = self.attention_weights + self.num_experts * self.expert_weights + self.shared_weights
        return self.num_layers * layer

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding; the output head has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def num_weights(self) -> int:
        """All matrices."""
        return self.block_weights + self.embedding_weights * (1 if self.is_tied else 2)

    @property
    def matrix_inputs(self) -> frozenset[int]:
        """Columns (inputs, K) of the blocks' matrices."""
        inputs = {self.hidden_size, self.num_heads * self.head_dim, self.intermediate_size}
        return frozenset(inputs | ({self.shared_intermediate_size} - {0}))

    @property
    def matrix_outputs(self) -> frozenset[int]:
        """Rows (outputs, N) of the blocks' matrices."""
        return self.matrix_inputs | {self.num_kv_heads * self.head_dim}


def read_model_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape that the object in `config.json` states, whichever names its family uses.

    Raises: CheckpointError: a width or count is missing or no positive whole number.
    """
    hidden_size = _required(config, "hidden_size", "n_embd", "d_model")
    num_heads = _required(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    num_experts = _optional(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts") or 1
    is_moe = num_experts > 1
    expert_size = _optional(config, "moe_intermediate_size", "expert_dim") if is_moe else None
    intermediate = expert_size or _optional(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    shared = _optional(config, "shared_expert_intermediate_size", "shared_intermediate_size") if is_moe else None
    num_shared = _optional(config, "n_shared_experts", "num_shared_experts") if is_moe else None
    has_gate = str(config.get("hidden_act", config.get("hidden_activation", ""))).lower() in {"silu", "swiglu", "swish"}
    default_kv_heads = 1 if config.get("multi_query") is True else num_heads
    intermediate_size = intermediate or 4 * hidden_size
    return ModelShape(
        num_layers=_required(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=_optional(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or default_kv_heads,
        head_dim=_optional(config, "head_dim") or hidden_size // num_heads,
        vocab_size=_required(config, "vocab_size"),
        # transformers ties by default, and leaves the key out of configurations of families that do.
        is_tied=config.get("tie_word_embeddings", True) is True,
        num_ffn_matrices=3 if has_gate or str(config.get("model_type", "")).startswith("gemma") else 2,
        num_experts=num_experts,
        experts_per_token=_optional(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk") or 1,
        shared_intermediate_size=shared or (num_shared or 0) * intermediate_size,
    )


def _required(config: Mapping[str, Any], *names: str) -> int:
    value = _optional(config, *names)
    if value is None:
        raise CheckpointError(f"`{names[0]}` is missing", where="config.json", hint=_COMPLETE)
    return value


def _optional(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` with a value; zero shared experts is a value like none."""
    for name in names:
        value = config.get(name)
        if value is None or (value == 0 and type(value) is int):
            continue
        if type(value) is not int or value < 0:
            raise CheckpointError(f"`{name}` is {value!r}", where="config.json", hint=_COMPLETE)
        return value
    return None
