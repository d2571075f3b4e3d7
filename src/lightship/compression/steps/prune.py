"""Step `prune` on a checkpoint: fewer blocks (depth), fewer FFN channels or KV groups (width).

Every option says what stays, `drop` alone what goes. Shapes stay the same in all blocks, so engines load the result as
an ordinary model of its family.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lightship.artifacts.checkpoint import CONFIG_NAME, Checkpoint
from lightship.artifacts.model_config import read_json_object
from lightship.compression.pruning.depth import blocks_to_keep, choose_explicit, parse_blocks
from lightship.compression.pruning.width import CHANNEL_MULTIPLE, channels_to_keep
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import TRAIN
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat

# Families whose blocks are laid out as Llama's: self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj, one residual stream.
LLAMA_LAYOUT = ("llama", "mistral", "qwen2", "qwen3")
# vLLM 0.32 computes this family's head size as hidden size / heads, with no say for the config (models/qwen2.py).
_FIXED_HEAD_SIZE = ("qwen2",)
_LEAST_SHARE = 0.25
_SHARE_THAT_NEEDS_TRAINING = 1 / 3
# Models above this many parameters are watched in bf16 where that is how they are stored, to halve the memory.
_BF16_PARAMETERS = 500_000_000

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class PruneOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stays. Of `depth_fraction`, `num_layers` and `drop` at most one.

    `depth_fraction`: share of the blocks; `num_layers`: their number; `drop`: numbers of blocks that go, "3,4,5".
    `method`: `contiguous` removes one run of neighbours, `greedy` one block after the other, measuring anew each time.
    `ffn_fraction`: share of the FFN channels; `kv_groups`: number of key-value heads; `importance`: their score.
    """

    depth_fraction: Share | None = None
    num_layers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    drop: str | None = None
    method: Literal["contiguous", "greedy"] = "contiguous"
    ffn_fraction: Share | None = None
    kv_groups: Annotated[int, msgspec.Meta(ge=1)] | None = None
    importance: Literal["mean_abs", "l2"] = "l2"
    calibration_tokens: Annotated[int, msgspec.Meta(ge=64)] = 16384
    window_tokens: Annotated[int, msgspec.Meta(ge=16)] = 256


class PruneCheckpoint(Step[PruneOptions]):
    """Removal of what calibration text shows to matter least."""

    kind = "prune"
    parent_format = WeightFormat.SAFETENSORS
    options_type = PruneOptions

    def tool_versions(self, options: PruneOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        del options
        return {name: TRAIN.version_of(name) for name in ("torch", "transformers")}

    def inputs(self, options: PruneOptions, context: StepContext) -> dict[str, str]:
        """The calibration texts."""
        del options
        return {"calibration": context.calibration.digest}

    def plan(self, options: PruneOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        config = read_json_object(parent.folder / CONFIG_NAME)
        check_layout(parent, config, step=self.kind)
        num_layers, blocks = _depth(options, parent)
        num_channels = _channels(options, config)
        num_groups = _kv_groups(options, parent)
        if num_layers is None and not blocks and num_channels is None and num_groups is None:
            raise SpecError(
                "nothing to prune: no option says what stays",
                where="recipe",
                hint="Give depth_fraction, num_layers, drop, ffn_fraction or kv_groups.",
            )
        layers_left = parent.num_layers - len(blocks) if num_layers is None else num_layers
        note = _training_note(parent, layers_left, config, num_channels)
        is_bf16 = parent.num_parameters > _BF16_PARAMETERS and parent.dtypes == ("BF16",)
        job = {
            "checkpoint": str(parent.folder),
            "files": [entry.path for entry in parent.files],
            "calibration": str(context.calibration.path),
            "calibration_digest": context.calibration.digest,
            "calibration_tokens": options.calibration_tokens,
            "window_tokens": min(options.window_tokens, parent.context_length),
            "num_threads": None,  # all that the job may use
            "dtype": "bfloat16" if is_bf16 else "float32",
            "method": options.method,
            "importance": options.importance,
            "num_layers": num_layers,
            "blocks": list(blocks),
            "num_channels": num_channels,
            "num_kv_groups": num_groups,
            "notes": [note] if note else [],
        }
        return JobPlan(
            kind="prune",
            toolchain=TRAIN,
            job=job,
            title=f"pruning ({note})" if note else "pruning",
            estimate=_estimate(options, parent, passes=1 + parent.num_layers - layers_left),
        )


def check_layout(parent: Checkpoint, config: dict[str, Any], *, step: str) -> None:
    """Returns when the checkpoint is one whose blocks can be taken apart.

    Raises: SpecError: another family, or weights that are quantized already.
    """
    if parent.model_type not in LLAMA_LAYOUT:
        raise SpecError(
            f"step {step!r} knows blocks of the Llama layout, and this model's family is {parent.model_type!r}",
            where="recipe",
            hint=f"Families that it knows: {', '.join(LLAMA_LAYOUT)}. Quantization works for others, too.",
        )
    if config.get("quantization_config"):
        raise SpecError(
            f"step {step!r} changes weights, and those of this checkpoint are quantized already",
            where="recipe",
            hint=f"Put {step!r} before `quantize`, or begin with the unquantized checkpoint.",
        )


def _depth(options: PruneOptions, parent: Checkpoint) -> tuple[int | None, tuple[int, ...]]:
    """Number of blocks that stay, or the blocks that go by name."""
    given = [name for name in ("depth_fraction", "num_layers", "drop") if getattr(options, name) is not None]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} say the same in two ways", where="recipe", hint="Give one of them.")
    if options.drop is not None:
        try:
            choice = choose_explicit(parse_blocks(options.drop), num_layers=parent.num_layers)
        except ValueError as error:
            raise SpecError(f"drop: {error}", where="recipe") from error
        _check_share(len(choice.kept), parent.num_layers, "blocks")
        return None, choice.removed
    if options.depth_fraction is not None:
        kept = blocks_to_keep(parent.num_layers, options.depth_fraction)
    elif options.num_layers is not None:
        kept = options.num_layers
    else:
        return None, ()
    if kept >= parent.num_layers:
        raise SpecError(
            f"{kept} of {parent.num_layers} blocks would stay, so none goes",
            where="recipe",
            hint="Give a smaller depth_fraction or num_layers.",
        )
    _check_share(kept, parent.num_layers, "blocks")
    return kept, ()


def _channels(options: PruneOptions, config: dict[str, Any]) -> int | None:
    if options.ffn_fraction is None:
        return None
    before = config.get("intermediate_size")
    if not isinstance(before, int):
        raise SpecError("`intermediate_size` of config.json is not a number", where="ffn_fraction")
    try:
        kept = channels_to_keep(before, options.ffn_fraction)
    except ValueError as error:
        raise SpecError(f"ffn_fraction: {error}", where="recipe", hint="Leave the option out.") from error
    if kept >= before:
        raise SpecError(
            f"of {before} FFN channels all would stay, since only multiples of {CHANNEL_MULTIPLE} go",
            where="recipe",
            hint="Leave ffn_fraction out.",
        )
    _check_share(kept, before, "FFN channels")
    return kept


def _kv_groups(options: PruneOptions, parent: Checkpoint) -> int | None:
    if options.kv_groups is None:
        return None
    if parent.model_type in _FIXED_HEAD_SIZE:
        raise SpecError(
            f"kv_groups: vLLM computes the head size of {parent.model_type!r} from the number of heads, so none may go",
            where="recipe",
            hint="Prune depth or FFN channels of this model.",
        )
    if options.kv_groups >= parent.num_kv_heads:
        raise SpecError(
            f"kv_groups is {options.kv_groups}, and the model has {parent.num_kv_heads}, so none goes",
            where="recipe",
            hint="Give a smaller number, or leave the option out.",
        )
    _check_share(options.kv_groups, parent.num_kv_heads, "KV groups")
    return options.kv_groups


def _check_share(kept: int, before: int, what: str) -> None:
    if kept < _LEAST_SHARE * before:
        least = -(-before // 4)
        raise SpecError(
            f"{kept} of {before} {what} would stay; more than three quarters at once is refused, since nothing of the "
            "model's ability survives that",
            where="recipe",
            hint=f"Keep at least {least}, or prune in two steps with a `distill` between them.",
        )


def _training_note(parent: Checkpoint, layers_left: int, config: dict[str, Any], num_channels: int | None) -> str:
    """What the user is told when so much goes that the result is of no use before it is trained."""
    shares = [1 - layers_left / parent.num_layers]
    if num_channels is not None:
        shares.append(1 - num_channels / config["intermediate_size"])
    if max(shares) <= _SHARE_THAT_NEEDS_TRAINING:
        return ""
    return f"{max(shares):.0%} goes; above a third a model needs training afterwards: add a `distill` step"


def _estimate(options: PruneOptions, parent: Checkpoint, *, passes: int) -> JobEstimate:
    # Two float operations a parameter and token; two cores of a server do some 50 GFLOP/s on such short products.
    operations = 2 * parent.num_parameters * options.calibration_tokens * (passes if options.method == "greedy" else 2)
    return JobEstimate(
        memory_bytes=700_000_000 + 4 * parent.num_parameters,
        duration_s=8 + operations / 5e10,
        disk_bytes=parent.weight_bytes,
    )
