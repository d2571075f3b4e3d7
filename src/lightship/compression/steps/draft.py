"""Step `draft`: a checkpoint with a way to propose tokens ahead of it. Its own files stay as they are.

    <the parent's files>   unchanged
    draft.json             the method and its numbers (`artifacts.draft_file`)
    draft/                 the small model, where the method is `model`

It comes last in a recipe: steps that make new weights would leave the draft behind, and a draft that was distilled from
a model also fits its quantized form.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lightship.artifacts.checkpoint import TOKENIZER_NAME, Checkpoint, inspect_checkpoint
from lightship.artifacts.draft_file import (
    DRAFT_FOLDER,
    DRAFT_NAME,
    Draft,
    DraftMethod,
    LookupTokens,
    SpeculativeTokens,
    encode_draft,
)
from lightship.artifacts.model_config import read_json_object
from lightship.compression.steps.adopt import copy_files
from lightship.compression.steps.base import CopyPlan, Step, StepContext, StepPlan
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat


class DraftOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are proposed; see `Draft`.

    Args:
        method: `ngram` (what stood in the text before) or `model`.
        num_speculative_tokens: Tokens proposed per step.
        prompt_lookup_min: Fewest last tokens that must be found again (`ngram`).
        prompt_lookup_max: Most last tokens that are looked for (`ngram`).
        student: Name of a student that ships with the model (`model`).
        folder: Checkpoint folder of a small model with the same vocabulary, in place of a student (`model`).
    """

    method: DraftMethod
    num_speculative_tokens: SpeculativeTokens = 3
    prompt_lookup_min: LookupTokens | None = None
    prompt_lookup_max: LookupTokens | None = None
    student: str = ""
    folder: str = ""


class AddDraft(Step[DraftOptions]):
    """Copies the checkpoint and puts a draft beside it."""

    kind = "draft"
    parent_format = WeightFormat.SAFETENSORS
    options_type = DraftOptions

    def plan(self, options: DraftOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`.

        Raises: SpecError: options of the other method, no such student, a model with another vocabulary, or one that
            is not smaller.
        """
        draft = _draft(options)
        model = _draft_model(options, context)
        if model is not None:
            _check_fits(model, parent)
        return CopyPlan(_writer(draft, parent, model))

    def inputs(self, options: DraftOptions, context: StepContext) -> dict[str, str]:
        """The draft model's digest."""
        _draft(options)
        model = _draft_model(options, context)
        return {} if model is None else {f"draft {options.student or 'model'}": model.digest}


def _draft(options: DraftOptions) -> Draft:
    lookup = {"prompt_lookup_min": options.prompt_lookup_min, "prompt_lookup_max": options.prompt_lookup_max}
    given = {name: value for name, value in lookup.items() if value is not None}
    if options.method == "model" and given:
        raise _wrong(f"{next(iter(given))} is of method ngram, and the method is model", "Leave it out.")
    if options.method == "ngram" and (options.student or options.folder):
        raise _wrong("a student or folder is of method model, and the method is ngram", "Leave it out.")
    try:
        return Draft(method=options.method, num_speculative_tokens=options.num_speculative_tokens, **given)
    except ValueError as error:
        raise _wrong(str(error), "Give a smaller one, or a larger prompt_lookup_max.") from error


def _draft_model(options: DraftOptions, context: StepContext) -> Checkpoint | None:
    if options.method == "ngram":
        return None
    if bool(options.student) == bool(options.folder):
        raise _wrong("a draft model is a student or a folder, exactly one of them", "Give `student` or `folder`.")
    if options.folder:
        return inspect_checkpoint(Path(options.folder).expanduser())
    if options.student not in context.students:
        known = f"Known: {', '.join(context.students)}." if context.students else "This model ships with none."
        raise _wrong(f"there is no student {options.student!r}", known)
    return inspect_checkpoint(context.students[options.student])


def _check_fits(model: Checkpoint, parent: Checkpoint) -> None:
    if model.weight_format is not WeightFormat.SAFETENSORS:
        raise _wrong(f"the draft model is {model.weight_format}, not a checkpoint", "Give the checkpoint it came from.")
    if model.vocab_size != parent.vocab_size:
        raise _wrong(
            f"the draft model has {model.vocab_size} entries in its vocabulary, the model {parent.vocab_size}",
            "Distil a draft from this very model; proposals are token ids.",
        )
    if vocabulary(model.folder) != vocabulary(parent.folder):
        raise _wrong(
            "the draft model's tokenizer gives other ids than the model's",
            "Distil a draft from this very model; proposals are token ids.",
        )
    if model.num_parameters >= parent.num_parameters:
        raise _wrong(
            f"the draft model has {model.num_parameters:,} parameters, the model {parent.num_parameters:,}",
            "A draft is worth its while when it is several times smaller.",
        )


def vocabulary(folder: Path) -> dict[str, int]:
    """Ids by token of the checkpoint's `tokenizer.json`, added tokens included."""
    content = read_json_object(folder / TOKENIZER_NAME)
    known: Any = content.get("model", {}).get("vocab", {})
    if isinstance(known, list):  # unigram models: pairs of token and score
        known = {str(entry[0]): index for index, entry in enumerate(known)}
    added = {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or []}
    return {**known, **added}


def _writer(draft: Draft, parent: Checkpoint, model: Checkpoint | None) -> Callable[[Path], None]:
    def write(output: Path) -> None:
        copy_files(parent, output)
        (output / DRAFT_NAME).write_bytes(encode_draft(draft))
        if model is None:
            return
        (output / DRAFT_FOLDER).mkdir()
        for entry in model.files:
            if "/" not in entry.path:  # what lies deeper is for other engines
                shutil.copyfile(model.folder / entry.path, output / DRAFT_FOLDER / entry.path)

    return write


def _wrong(what: str, hint: str) -> SpecError:
    return SpecError(f"step 'draft': {what}", where="recipe", hint=hint)
