"""Makes variants from a checkpoint by recipes, reusing every step that was made before.

A recipe of n steps is built as the variant of its first n-1 steps plus one more step, so `int8` (convert, quantize)
finds the conversion of `fp16` in the store instead of making it again. A step's identity (its *build key*) is the
source's digest, the steps so far, the digests of all else that went in (students, calibration texts) and the versions
of the tools that run them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.finite_weights import check_finite
from lightship.artifacts.store import ArtifactStore, VariantDescription
from lightship.compression.recipes import PRESETS
from lightship.compression.resources import check_memory
from lightship.compression.steps.base import CopyPlan, JobPlan, StepContext, StepPlan, TextFile
from lightship.compression.steps.registry import find_step, formats_along, tool_versions
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.errors import UsageError
from lightship.ports.progress import Progress
from lightship.ports.variants import BuildCost, Recipe, RecipeStep, Variant

_JOB_TIMEOUT_S = 12 * 3600.0


@dataclass(frozen=True)
class BuildContext:
    """What building needs around it.

    Args:
        store: Where variants go.
        toolchains: Isolated environments, made on demand.
        logs: Folder for the logs of jobs.
        work: Folder where long jobs keep what they need to continue.
        students: Checkpoint folders of distilled students that ship with the model, by name.
        calibration: Texts that activations are watched on.
        training: Texts to train on, or None.
        progress: Where progress is shown.
    """

    store: ArtifactStore
    toolchains: ToolchainFolder
    logs: Path
    work: Path
    students: dict[str, Path]
    calibration: TextFile
    progress: Progress
    training: TextFile | None = None

    def for_steps(self, source: Checkpoint) -> StepContext:
        """What the steps of a recipe may use that begins with `source`."""
        return StepContext(source, self.students, self.calibration, self.training)


def build_variant(recipe: Recipe, checkpoint: Checkpoint, context: BuildContext, *, model_name: str) -> Variant:
    """The recipe's variant: found in the store, or made.

    Raises: SpecError: a step that this model cannot take. ToolchainError, ArtifactError, CheckpointError: with what
        failed and where its log is, or which weights are not finite.
    Effects: may install a toolchain and run jobs for hours; intermediate steps stay in the store.
    """
    formats = formats_along(recipe, checkpoint.weight_format)  # before any work: a later step may be misspelt
    step_context = context.for_steps(checkpoint)
    parent: Checkpoint = checkpoint
    variant: Variant | None = None
    for count, one in enumerate(recipe.steps, start=1):
        so_far = Recipe(recipe.name, recipe.steps[:count])
        inputs = _inputs(so_far, checkpoint, step_context)
        key = build_key(checkpoint, so_far.steps, inputs=inputs)
        if (found := context.store.find(key)) is None:
            check_finite(checkpoint)
            step = find_step(one.kind, formats[count - 1])
            plan = step.plan(step.options(one), parent, step_context)
            is_last = count == len(recipe.steps)
            named = so_far if is_last else _named_after_steps(so_far)
            found = _build_step(_Build(plan, named, checkpoint, key, model_name, inputs), context)
        variant = found
        parent = inspect_checkpoint(variant.folder)
    if variant is None:
        raise UsageError(f"recipe {recipe.name!r} has no steps", where="variants")
    return variant


def find_variant(recipe: Recipe, checkpoint: Checkpoint, context: BuildContext) -> Variant | None:
    """The recipe's variant if it was made before; nothing is made.

    Raises: SpecError: a step that this model cannot take.
    """
    formats_along(recipe, checkpoint.weight_format)
    inputs = _inputs(recipe, checkpoint, context.for_steps(checkpoint))
    return context.store.find(build_key(checkpoint, recipe.steps, inputs=inputs))


def build_costs(recipe: Recipe, checkpoint: Checkpoint, context: BuildContext) -> list[BuildCost]:
    """What the steps of a variant took that were made here, in order; steps that only copied are left out."""
    costs = []
    for count in range(1, len(recipe.steps) + 1):
        so_far = Recipe(recipe.name, recipe.steps[:count])
        inputs = _inputs(so_far, checkpoint, context.for_steps(checkpoint))
        made = context.store.find(build_key(checkpoint, so_far.steps, inputs=inputs))
        if made is not None and made.manifest.cost is not None:
            costs.append(made.manifest.cost)
    return costs


def build_key(source: Checkpoint, steps: tuple[RecipeStep, ...], *, inputs: Mapping[str, str] | None = None) -> str:
    """SHA-256 over source, steps, what else goes in, and tool versions, in hex."""
    content: dict[str, Any] = {
        "parent": source.digest,
        "steps": [{"kind": step.kind, "options": step.options} for step in steps],
        "tools": tool_versions(steps, source.weight_format),
    }
    if inputs:
        content["inputs"] = dict(inputs)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass
class _Build:
    """One step under way; `cost` is known once its job has ended."""

    plan: StepPlan
    recipe: Recipe
    source: Checkpoint
    key: str
    model_name: str
    inputs: Mapping[str, str]
    cost: BuildCost | None = field(default=None)

    def describe(self, folder: Path) -> VariantDescription:
        """What the finished folder holds."""
        made = inspect_checkpoint(folder)
        return VariantDescription(
            name=self.recipe.name,
            model_name=self.model_name,
            weight_format=made.weight_format,
            parent_digest=self.source.digest,
            recipe=self.recipe,
            build_key=self.key,
            tool_versions=tool_versions(self.recipe.steps, self.source.weight_format),
            weight_bytes=made.weight_bytes,
            num_parameters=made.num_parameters,
            context_length=made.context_length,
            source=self.source.folder.name,
            inputs=dict(self.inputs),
            cost=self.cost,
        )


def _inputs(recipe: Recipe, source: Checkpoint, context: StepContext) -> dict[str, str]:
    digests: dict[str, str] = {}
    for one, form in zip(recipe.steps, formats_along(recipe, source.weight_format), strict=False):
        step = find_step(one.kind, form)
        digests |= step.inputs(step.options(one), context)
    return digests


def _build_step(build: _Build, context: BuildContext) -> Variant:
    plan = build.plan
    if isinstance(plan, CopyPlan):
        return context.store.build(build.key, build.describe, plan.write)
    return context.store.build(
        build.key, build.describe, _job_builder(build, plan, context), estimated_bytes=plan.estimate.disk_bytes
    )


def _job_builder(build: _Build, plan: JobPlan, context: BuildContext) -> Callable[[Path], None]:
    def run(output: Path) -> None:
        check_memory(plan.estimate.memory_bytes, title=plan.title)
        # Without a toolchain the same interpreter, but a process of its own: its memory goes when it ends, and it can
        # be cancelled.
        python = Path(sys.executable)
        if plan.toolchain is not None:
            python = context.toolchains.ensure(plan.toolchain, context.progress).python
        job: dict[str, Any] = {**plan.job, "output": str(output)}
        work_folder = context.work / build.key[:24]
        if plan.has_work_folder:
            work_folder.mkdir(parents=True, exist_ok=True)
            job["work_folder"] = str(work_folder)
        log_path = context.logs / f"{plan.kind}-{build.key[:12]}.log"
        settings = JobSettings(python, plan.kind, log_path, _JOB_TIMEOUT_S)
        took = run_job(settings, job, title=plan.title, progress=context.progress)
        build.cost = BuildCost(
            duration_s=took.duration_s,
            peak_rss_bytes=took.peak_rss_bytes,
            estimated_duration_s=plan.estimate.duration_s,
            estimated_memory_bytes=plan.estimate.memory_bytes,
        )
        shutil.rmtree(work_folder, ignore_errors=True)

    return run


def _named_after_steps(recipe: Recipe) -> Recipe:
    """An intermediate result is named by what it is, not by the recipe that happened to need it first."""
    for preset in PRESETS.values():
        if preset.steps == recipe.steps:
            return preset
    words = [str(value) for step in recipe.steps for value in (step.options.values() or (step.kind,))]
    return Recipe("-".join(words), recipe.steps)
