"""Stock layouts a mixture of experts is written in, and which dense checkpoints fit them. Decides, reads no weights.

A layout is one that transformers and vLLM load without code from the checkpoint. The rest of the model must mean the
same in it as in the dense one, so whatever the layout cannot say (a bias, a window, a head size) is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightship.errors import SpecError

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Of these the experts are stored one by one beside a router without biases. REAP was seen to work on Mixtral and
# Qwen2Moe; Qwen3Moe has the same layout and was not run.
PRUNABLE = ("MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")
_EXPERT_COUNT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K_KEYS = ("num_experts_per_tok", "moe_top_k", "top_k")


@dataclass(frozen=True)
class MoeLayout:
    """How one architecture names the tensors of a layer's experts.

    Args:
        architecture: Class in transformers and vLLM.
        block: What stands between `model.layers.N.` and the experts.
        projections: The layout's name of each of `PROJECTIONS`.
    """

    architecture: str
    block: str
    projections: Mapping[str, str]

    def router(self, layer: int) -> str:
        """Name of the router's matrix, of shape (experts, hidden)."""
        return f"model.layers.{layer}.{self.block}.gate.weight"

    def expert(self, layer: int, expert: int, projection: str) -> str:
        """Name of one matrix of one expert."""
        return f"model.layers.{layer}.{self.block}.experts.{expert}.{self.projections[projection]}.weight"


_SAME_NAMES = {name: name for name in PROJECTIONS}
MIXTRAL = MoeLayout("MixtralForCausalLM", "block_sparse_moe", {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"})
QWEN2_MOE = MoeLayout("Qwen2MoeForCausalLM", "mlp", _SAME_NAMES)
QWEN3_MOE = MoeLayout("Qwen3MoeForCausalLM", "mlp", _SAME_NAMES)

# Mixtral is Mistral with experts, and Llama's attention is Mistral's; Qwen3Moe is Qwen3 with experts.
_UPCYCLED = {"LlamaForCausalLM": MIXTRAL, "MistralForCausalLM": MIXTRAL, "Qwen3ForCausalLM": QWEN3_MOE}
# The layout with a shared expert beside the routed ones whose attention is Llama's, but for biases that can be zero.
_CARVED = {"LlamaForCausalLM": QWEN2_MOE, "MistralForCausalLM": QWEN2_MOE, "Qwen2ForCausalLM": QWEN2_MOE}


def dense_projection(layer: int, projection: str) -> str:
    """Name of a matrix of a dense layer's feed-forward network."""
    return f"model.layers.{layer}.mlp.{projection}.weight"


def upcycle_layout(config: Mapping[str, Any]) -> MoeLayout:
    """The layout that this dense checkpoint is upcycled to.

    Raises: SpecError: it is none that can be, and why.
    """
    layout = _layout(config, _UPCYCLED, what="upcycled")
    _check_dense_parts(config, what="upcycled")
    return layout


def carve_layout(config: Mapping[str, Any]) -> MoeLayout:
    """The layout that this dense checkpoint's feed-forward networks are carved into.

    Raises: SpecError: it is none that can be, and why.
    """
    layout = _layout(config, _CARVED, what="carved")
    _check_dense_parts(config, what="carved")
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    if int(config.get("head_dim") or hidden // heads) * heads != hidden:
        raise _refused("carved", f"{layout.architecture} derives the head size, {hidden} / {heads}; this one differs")
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    is_used = config.get("use_sliding_window", True)
    if window is not None and context is not None and is_used and int(window) < int(context):
        raise _refused("carved", f"its attention window of {window} tokens cannot be said in {layout.architecture}")
    return layout


@dataclass(frozen=True)
class Carving:
    """Into what a feed-forward network is cut: equal parts, some always active, `top_k` of the rest for each token.

    In the notation of arXiv:2502.04416 this is S`num_shared`A`top_k`E`num_experts`.
    """

    num_experts: int
    num_shared: int
    top_k: int

    @property
    def num_routed(self) -> int:
        """Parts the router chooses among."""
        return self.num_experts - self.num_shared

    @property
    def active_fraction(self) -> float:
        """Share of the channels that a token uses."""
        return (self.num_shared + self.top_k) / self.num_experts


def check_carving(carving: Carving, *, intermediate_size: int) -> None:
    """Returns when the network can be cut so.

    Raises: SpecError: it cannot, and the nearest sizes that can.
    """
    if carving.num_shared >= carving.num_experts:
        raise SpecError(
            f"num_shared is {carving.num_shared} of num_experts {carving.num_experts}: none is left to choose among",
            where="recipe",
            hint=f"num_shared can be 1 to {carving.num_experts - 1}.",
        )
    if carving.top_k > carving.num_routed:
        raise SpecError(
            f"top_k is {carving.top_k}, and only {carving.num_routed} experts are routed "
            f"({carving.num_experts} without {carving.num_shared} shared ones)",
            where="recipe",
            hint=f"top_k can be 1 to {carving.num_routed}.",
        )
    if intermediate_size % carving.num_experts:
        raise SpecError(
            f"{intermediate_size} channels cannot be cut into {carving.num_experts} equal experts",
            where="recipe",
            hint=f"Nearest num_experts that divide them: {_listed(nearest_divisors(intermediate_size, carving))}.",
        )


def nearest_divisors(intermediate_size: int, carving: Carving) -> tuple[int, ...]:
    """The next smaller and the next larger number of equal parts, where there are such with room for a router.

    >>> nearest_divisors(384, Carving(num_experts=7, num_shared=2, top_k=2))
    (6, 8)
    """
    wanted, least = carving.num_experts, carving.num_shared + carving.top_k
    divisors = [n for n in range(max(2, least), intermediate_size + 1) if intermediate_size % n == 0]
    below, above = [n for n in divisors if n < wanted], [n for n in divisors if n > wanted]
    return (*below[-1:], *above[:1])


def check_upcycling(*, num_experts: int, top_k: int) -> None:
    """Returns when so many of so many can be chosen. Raises: SpecError: they cannot."""
    if top_k > num_experts:
        raise SpecError(
            f"top_k is {top_k}, and there are {num_experts} experts",
            where="recipe",
            hint=f"top_k can be 1 to {num_experts}.",
        )


def num_experts_to_keep(config: Mapping[str, Any], *, num_experts: int | None, keep_fraction: float | None) -> int:
    """How many of a mixture's experts remain in each layer.

    Raises: SpecError: the checkpoint is dense, nothing would be removed, or fewer remain than a token uses.
    """
    present, top_k = _first(config, _EXPERT_COUNT_KEYS), _first(config, _TOP_K_KEYS)
    if present is None or present < 2 or top_k is None:
        raise SpecError(
            f"{_architecture(config)} is dense: it has no experts to prune",
            where="recipe",
            hint="Prune its layers or channels (step `prune`), or make experts of it (step `moe`, method `carve`).",
        )
    if _architecture(config) not in PRUNABLE:
        raise SpecError(
            f"the experts of {_architecture(config)} cannot be pruned here",
            where="recipe",
            hint=f"What can: {', '.join(PRUNABLE)}.",
        )
    kept = num_experts if num_experts is not None else round(present * (keep_fraction or 0.0))
    if not top_k <= kept < present:
        raise SpecError(
            f"{kept} of {present} experts would be kept, and each token uses {top_k}",
            where="recipe",
            hint=f"Keep {top_k} to {present - 1} (num_experts), or a keep_fraction of {top_k / present:g} or more, "
            "below 1.",
        )
    return kept


def active_experts(config: Mapping[str, Any]) -> tuple[int, int]:
    """Routed experts of a layer, and how many of them a token uses. Raises: KeyError: the model is dense."""
    present, top_k = _first(config, _EXPERT_COUNT_KEYS), _first(config, _TOP_K_KEYS)
    if present is None or top_k is None:
        raise KeyError("the config names no experts")
    return present, top_k


def _layout(config: Mapping[str, Any], layouts: Mapping[str, MoeLayout], *, what: str) -> MoeLayout:
    architecture = _architecture(config)
    if _first(config, _EXPERT_COUNT_KEYS) is not None:
        raise SpecError(
            f"{architecture} is a mixture of experts already",
            where="recipe",
            hint="Only dense checkpoints are upcycled or carved; method `prune-experts` removes experts of this one.",
        )
    if architecture not in layouts:
        raise SpecError(
            f"{architecture} cannot be {what}: there is no stock layout with experts for it",
            where="recipe",
            hint=f"What can: {', '.join(layouts)}.",
        )
    return layouts[architecture]


def _check_dense_parts(config: Mapping[str, Any], *, what: str) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise _refused(what, f"its {name.removesuffix('_bias')} has biases, which the layout has no place for")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise _refused(what, f"its activation is {activation!r}, and the layout's is silu")
    if config.get("quantization_config"):
        raise _refused(what, "it is quantized already; quantize afterwards")


def _refused(what: str, why: str) -> SpecError:
    return SpecError(f"the model cannot be {what}: {why}", where="recipe", hint="Use another technique for it.")


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or ["the model"])[0])


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(config[name]) for name in names if config.get(name)), None)


def _listed(numbers: tuple[int, ...]) -> str:
    return " and ".join(map(str, numbers)) if numbers else "none"
