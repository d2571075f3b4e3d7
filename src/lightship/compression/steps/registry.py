"""Every step there is, found by kind and format."""

from __future__ import annotations

from typing import Any

from lightship.compression.steps.adopt import AdoptCheckpoint, AdoptNetwork
from lightship.compression.steps.base import Step
from lightship.compression.steps.convert import ConvertCheckpoint
from lightship.compression.steps.distill import DistillCheckpoint
from lightship.compression.steps.draft import AddDraft
from lightship.compression.steps.moe import MakeMixture
from lightship.compression.steps.prune import PruneCheckpoint
from lightship.compression.steps.quantize_checkpoint import QuantizeCheckpoint
from lightship.compression.steps.quantize_gguf import QuantizeGguf
from lightship.compression.steps.quantize_openvino import QuantizeNetwork
from lightship.compression.steps.sparsify import SparsifyCheckpoint
from lightship.compression.steps.student import TakeStudent
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat

STEPS: tuple[Step[Any], ...] = (
    AddDraft(),
    AdoptCheckpoint(),
    AdoptNetwork(),
    ConvertCheckpoint(),
    DistillCheckpoint(),
    MakeMixture(),
    PruneCheckpoint(),
    QuantizeCheckpoint(),
    QuantizeGguf(),
    QuantizeNetwork(),
    SparsifyCheckpoint(),
    TakeStudent(),
)
_BY_KEY = {(step.kind, step.parent_format): step for step in STEPS}


def find_step(kind: str, parent_format: WeightFormat) -> Step[Any]:
    """The step of this kind on this format.

    Raises: SpecError: there is no such kind, or it does not exist for this format.
    """
    if (found := _BY_KEY.get((kind, parent_format))) is not None:
        return found
    kinds = sorted({known for known, _ in _BY_KEY})
    if kind not in kinds:
        raise SpecError(f"there is no step {kind!r}", where="recipe", hint=f"Known: {', '.join(kinds)}.")
    here = sorted(known for known, form in _BY_KEY if form is parent_format)
    raise SpecError(
        f"step {kind!r} cannot be applied to {parent_format}",
        where="recipe",
        hint=f"What can: {', '.join(here)}. Another order of the steps may help.",
    )


def formats_along(recipe: Recipe, source: WeightFormat) -> tuple[WeightFormat, ...]:
    """Format before the first step and after each one; all options are checked on the way.

    Raises: SpecError: a step or an option that does not exist here, or one after a draft, which a change of the model
        would no longer fit.
    """
    formats = [source]
    for count, one in enumerate(recipe.steps, start=1):
        if one.kind == "draft" and count < len(recipe.steps):
            raise SpecError(
                f"step 'draft' is followed by {recipe.steps[count].kind!r}, which would leave it behind",
                where="recipe",
                hint="Put `draft` last.",
            )
        step = find_step(one.kind, formats[-1])
        formats.append(step.result_format(step.options(one)))
    return tuple(formats)


def tool_versions(steps: tuple[RecipeStep, ...], source: WeightFormat) -> dict[str, str]:
    """Versions of the tools these steps run with."""
    versions: dict[str, str] = {}
    for one, form in zip(steps, formats_along(Recipe("", steps), source)[:-1], strict=True):
        step = find_step(one.kind, form)
        versions |= step.tool_versions(step.options(one))
    return versions
