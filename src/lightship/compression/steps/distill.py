"""Step `distill` on a checkpoint: what an earlier step made of the source learns to predict as the source does.

The teacher is the checkpoint that the recipe began with. Text comes from the user's file, or the teacher writes it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lightship.artifacts.checkpoint import CONFIG_NAME, TOKENIZER_NAME, Checkpoint
from lightship.artifacts.model_config import read_json_object
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import TRAIN
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat

# The rate that the built-in model (hidden size 256) is trained with; wider matrices want a rate smaller in proportion.
# Source: arXiv:2203.03466, table 8 (hidden weights).
_BASE_RATE, _BASE_WIDTH = 3e-3, 256
# AdamW on the student's own samples: TRL's default is a tenth of it, meant for models of billions of parameters.
_ON_POLICY_RATE = 1e-5
# Settings by which families change logits after the output embedding, which the loss does not see.
_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
_NUM_EVALUATIONS = 25
_HELD_OUT_TOKENS = 8192

Weight = Annotated[float, msgspec.Meta(ge=0, le=1)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]


class DistillOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`num_tokens` to train on, and how; what is None is chosen by the model's width or the kind of text.

    `kl_weight`: share of the divergence, the rest being cross-entropy with the text (default: 0.6 with a file, 1 with
    what the teacher writes). `beta`: the teacher's share in Jensen-Shannon's mixture. `hidden_weight`: weight of the
    distance between hidden states. `early_stop_patience`: evaluations without a better held-out loss (0: never).
    `sample_tokens`: how much the teacher writes where there is no file (default: a quarter of `num_tokens`).
    `on_policy`: the student writes, by TRL; needs an accelerator or `allow_cpu`. `completion_tokens`: at most so many
    for each prompt.
    """

    num_tokens: Annotated[int, msgspec.Meta(ge=1000)] = 2_000_000
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    beta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    temperature: AboveZero = 1.0
    kl_weight: Weight | None = None
    hidden_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    learning_rate: AboveZero | None = None
    context_tokens: Annotated[int, msgspec.Meta(ge=16)] = 256
    tokens_per_step: Annotated[int, msgspec.Meta(ge=16)] = 2048
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    early_stop_patience: Annotated[int, msgspec.Meta(ge=0)] = 0
    sample_tokens: Annotated[int, msgspec.Meta(ge=1000)] | None = None
    on_policy: bool = False
    allow_cpu: bool = False
    completion_tokens: Annotated[int, msgspec.Meta(ge=1)] = 128


class DistillCheckpoint(Step[DistillOptions]):
    """Training towards the teacher's distributions."""

    kind = "distill"
    parent_format = WeightFormat.SAFETENSORS
    options_type = DistillOptions

    def tool_versions(self, options: DistillOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        names = ("torch", "transformers", "trl") if options.on_policy else ("torch", "transformers")
        return {name: TRAIN.version_of(name) for name in names}

    def inputs(self, options: DistillOptions, context: StepContext) -> dict[str, str]:
        """The training texts, or those whose first words the teacher goes on from."""
        del options
        if context.training is not None:
            return {"training": context.training.digest}
        return {"calibration": context.calibration.digest}

    def plan(self, options: DistillOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        teacher = context.source
        _check_pair(teacher, parent)
        _check_options(options, teacher, has_text=context.training is not None)
        learning_rate = options.learning_rate
        if learning_rate is None:
            learning_rate = _BASE_RATE * min(1.0, _BASE_WIDTH / parent.hidden_size)
            learning_rate = _ON_POLICY_RATE if options.on_policy else learning_rate
        kl_weight = options.kl_weight
        if kl_weight is None:
            kl_weight = 0.6 if context.training is not None and not options.on_policy else 1.0
        num_steps = math.ceil(options.num_tokens / options.tokens_per_step)
        texts = context.training or context.calibration
        job: dict[str, Any] = {
            **msgspec.structs.asdict(options),
            "teacher": str(teacher.folder),
            "student": str(parent.folder),
            "files": [entry.path for entry in parent.files],
            "texts": str(texts.path),
            "texts_digest": texts.digest,
            "is_training_text": context.training is not None,
            "vocab_size": shared_vocabulary(teacher, parent),
            "learning_rate": learning_rate,
            "kl_weight": kl_weight,
            "context_tokens": min(options.context_tokens, parent.context_length, teacher.context_length),
            "num_steps": num_steps,
            "evaluate_every_steps": max(1, num_steps // _NUM_EVALUATIONS),
            "held_out_tokens": _HELD_OUT_TOKENS,
            "sample_tokens": options.sample_tokens or max(1000, options.num_tokens // 4),
            "num_threads": None,  # all that the job may use
        }
        source = "texts" if context.training is not None else "what the teacher writes"
        return JobPlan(
            kind="distill",
            toolchain=TRAIN,
            job=job,
            title=f"distilling from {source}",
            estimate=_estimate(options, teacher, parent, is_sampled=context.training is None),
            has_work_folder=True,
        )


def shared_vocabulary(teacher: Checkpoint, student: Checkpoint) -> int:
    """Number of ids that both models mean the same by; columns of their logits beyond it are padding.

    Raises: SpecError: the tokenizers differ.
    """
    theirs, mine = _vocabulary(teacher.folder), _vocabulary(student.folder)
    if theirs != mine:
        raise SpecError(
            f"the teacher's vocabulary has {len(theirs):,} entries (vocab_size {teacher.vocab_size:,}), the student's "
            f"{len(mine):,} (vocab_size {student.vocab_size:,}), and they are not the same tokens: their distributions "
            "cannot be compared",
            where="recipe",
            hint="Begin with a student made from the teacher (a `prune` step), or train this one elsewhere with a "
            "method across tokenizers (TRL's GOLD) and give the result as the source.",
        )
    return min(max(mine.values()) + 1, teacher.vocab_size, student.vocab_size)


def _vocabulary(folder: Path) -> dict[str, int]:
    """Ids by token, those that were added later included."""
    content = read_json_object(folder / TOKENIZER_NAME)
    entries = content.get("model", {}).get("vocab", {})
    if isinstance(entries, list):  # Unigram: pairs of token and score, the id being the place
        entries = {entry[0]: place for place, entry in enumerate(entries)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    vocabulary: dict[str, int] = {**entries, **added}
    if not vocabulary:
        raise SpecError("the tokenizer has no vocabulary", where=str(folder / TOKENIZER_NAME))
    return vocabulary


def _check_pair(teacher: Checkpoint, parent: Checkpoint) -> None:
    if teacher.weight_format is not WeightFormat.SAFETENSORS:
        raise SpecError(
            f"a teacher must be a checkpoint, and the source is {teacher.weight_format}",
            where="recipe",
            hint="Begin with the checkpoint that it was converted from.",
        )
    if teacher.digest == parent.digest:
        raise SpecError(
            "the student is the teacher itself, so there is nothing to learn",
            where="recipe",
            hint="Put a step before `distill` that makes the model smaller, such as `prune`.",
        )
    for checkpoint in (teacher, parent):
        config = read_json_object(checkpoint.folder / CONFIG_NAME)
        if config.get("quantization_config"):
            raise SpecError(
                "distillation trains weights, and these are quantized",
                where=str(checkpoint.folder),
                hint="Put `distill` before `quantize`, and begin with the unquantized checkpoint.",
            )
        for name in _LOGIT_CHANGES:
            if config.get(name) not in (None, 1, 1.0):
                raise SpecError(
                    f"models that change their logits afterwards (`{name}`) cannot be distilled here",
                    where=str(checkpoint.folder),
                    hint="Quantize this model instead.",
                )


def _check_options(options: DistillOptions, teacher: Checkpoint, *, has_text: bool) -> None:
    if options.beta != 0.5 and options.divergence != "jensen_shannon":
        raise SpecError(
            f"beta counts for jensen_shannon, and divergence is {options.divergence}",
            where="recipe",
            hint="Leave it out.",
        )
    if options.sample_tokens is not None and (has_text or options.on_policy):
        raise SpecError(
            "sample_tokens is how much the teacher writes, and here it writes nothing",
            where="recipe",
            hint="Leave it out, or leave out `compression.training_text`.",
        )
    if options.tokens_per_step < min(options.context_tokens, teacher.context_length):
        raise SpecError(
            f"tokens_per_step is {options.tokens_per_step}, less than one window of {options.context_tokens} tokens",
            where="recipe",
            hint="Give a larger tokens_per_step or a smaller context_tokens.",
        )
    if not options.on_policy:
        if options.allow_cpu:
            raise SpecError("allow_cpu counts for on_policy alone", where="recipe", hint="Leave it out.")
        return
    unused = [name for name in ("hidden_weight", "early_stop_patience") if getattr(options, name)]
    if options.kl_weight not in (None, 1.0):
        unused.append("kl_weight")
    if unused:
        raise SpecError(
            f"{' and '.join(unused)} cannot be had with on_policy", where="recipe", hint="Leave out one or the other."
        )


def _estimate(options: DistillOptions, teacher: Checkpoint, student: Checkpoint, *, is_sampled: bool) -> JobEstimate:
    # Operations a token: 6 for each weight that is trained (forward, two products backward), 2 for each of a teacher's.
    # 150 GFLOP/s is what two cores with bf16 instructions did on the built-in model, losses and optimisers included.
    operations = options.num_tokens * (6 * student.num_parameters + 2 * teacher.num_parameters)
    # A token that is sampled costs some four times one that is read: each step moves all keys and values again.
    sampled = (options.sample_tokens or options.num_tokens // 4) if is_sampled else 0
    operations += sampled * 8 * teacher.num_parameters
    activations = options.tokens_per_step * student.hidden_size * student.num_layers * 80
    return JobEstimate(
        # Weights, gradients, two moments and the copy for a checkpoint under way in float32; the teacher in float32
        # while it is read.
        memory_bytes=900_000_000 + 20 * student.num_parameters + 4 * teacher.num_parameters + min(activations, 2**33),
        duration_s=20 + operations / 1.5e11,
        disk_bytes=student.weight_bytes + 16 * student.num_parameters,
    )
