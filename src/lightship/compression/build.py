"""Makes variants from a checkpoint by recipes, reusing every step that was made before.

A recipe of n steps is built as the variant of its first n-1 steps plus one more step, so `int8` (convert, quantize)
finds the conversion of `fp16` in the store instead of making it again. A step's identity (its *build key*) is the
parent's digest, the steps so far, the digests of students they copy and the versions of the tools that run them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.store import ArtifactStore, VariantDescription
from lightship.compression import ir_template
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.errors import ToolchainError, UsageError
from lightship.ports.progress import Progress
from lightship.ports.variants import Recipe, RecipeStep, Variant

_JOB_TIMEOUT_S = 4 * 3600.0


@dataclass(frozen=True)
class BuildContext:
    """What building needs around it.

    Args:
        store: Where variants go.
        toolchains: Isolated environments, made on demand.
        logs: Folder for the logs of jobs.
        students: Checkpoint folders of distilled students that ship with the model, by name.
        progress: Where progress is shown.
    """

    store: ArtifactStore
    toolchains: ToolchainFolder
    logs: Path
    students: dict[str, Path]
    progress: Progress


def build_variant(recipe: Recipe, checkpoint: Checkpoint, context: BuildContext, *, model_name: str) -> Variant:
    """The recipe's variant: found in the store, or made.

    Raises: ToolchainError, ArtifactError, CheckpointError: with what failed and where its log is.
    Effects: may install a toolchain and run jobs for minutes; intermediate steps stay in the store.
    """
    parent: Checkpoint = checkpoint
    variant: Variant | None = None
    for count, step in enumerate(recipe.steps, start=1):
        so_far = Recipe(recipe.name, recipe.steps[:count])
        key = build_key(checkpoint.digest, so_far.steps, student_digests=_student_digests(so_far.steps, context))
        is_last = count == len(recipe.steps)
        describe = _describer(so_far if is_last else _named_after_steps(so_far), checkpoint, key, model_name)
        variant = context.store.build(key, describe, _builder(step, parent, key, context))
        parent = inspect_checkpoint(variant.folder)
    if variant is None:
        raise UsageError(f"recipe {recipe.name!r} has no steps", where="variants")
    return variant


def build_key(
    parent_digest: str, steps: tuple[RecipeStep, ...], *, student_digests: Mapping[str, str] | None = None
) -> str:
    """SHA-256 over parent, steps, students that are copied, and tool versions, in hex."""
    content: dict[str, Any] = {
        "parent": parent_digest,
        "steps": [{"kind": step.kind, "options": step.options} for step in steps],
        "tools": tool_versions(steps),
    }
    if student_digests:
        content["students"] = dict(student_digests)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _student_digests(steps: tuple[RecipeStep, ...], context: BuildContext) -> dict[str, str]:
    """A newer release may bring another student under the same name, which must not be taken for the old one."""
    names = {str(step.options["student"]) for step in steps if step.kind == "distill"}
    return {name: inspect_checkpoint(context.students[name]).digest for name in names if name in context.students}


def tool_versions(steps: tuple[RecipeStep, ...]) -> dict[str, str]:
    """Versions of the tools these steps run with; they are part of a variant's identity."""
    versions: dict[str, str] = {}
    for step in steps:
        if step.kind == "convert":
            versions |= {name: OPENVINO_CONVERT.version_of(name) for name in ("optimum-intel", "openvino")}
        elif step.kind == "quantize":
            versions |= {"nncf": metadata.version("nncf"), "openvino": metadata.version("openvino")}
    return versions


def _named_after_steps(recipe: Recipe) -> Recipe:
    """An intermediate result is named by what it is, not by the recipe that happened to need it first."""
    for preset in PRESETS.values():
        if preset.steps == recipe.steps:
            return preset
    options = [str(value) for step in recipe.steps for value in step.options.values()]
    return Recipe("-".join(options), recipe.steps)


def _describer(recipe: Recipe, source: Checkpoint, key: str, model_name: str) -> Callable[[Path], VariantDescription]:
    def describe(folder: Path) -> VariantDescription:
        made = inspect_checkpoint(folder)
        return VariantDescription(
            name=recipe.name,
            model_name=model_name,
            weight_format=made.weight_format,
            parent_digest=source.digest,
            recipe=recipe,
            build_key=key,
            tool_versions=tool_versions(recipe.steps),
            weight_bytes=made.weight_bytes,
            num_parameters=made.num_parameters,
            context_length=made.context_length,
            source=source.folder.name,
        )

    return describe


def _builder(step: RecipeStep, parent: Checkpoint, key: str, context: BuildContext) -> Callable[[Path], None]:
    match step.kind:
        case "adopt":
            return lambda output: _copy_files(parent, output)
        case "distill":
            return lambda output: _copy_student(str(step.options["student"]), output, context)
        case "convert":
            return lambda output: _convert(step, parent.folder, output, key, context)
        case "quantize":
            return lambda output: _quantize(step, parent, output, key, context)
    raise UsageError(f"step kind {step.kind!r} is not supported yet", where="recipe")


def _copy_student(name: str, output: Path, context: BuildContext) -> None:
    if name not in context.students:
        raise UsageError(f"there is no student {name!r}", where="recipe", hint=f"Known: {', '.join(context.students)}.")
    shutil.copytree(context.students[name], output, dirs_exist_ok=True)


def _convert(step: RecipeStep, folder: Path, output: Path, key: str, context: BuildContext) -> None:
    weight_format = str(step.options["weight_format"])
    if ir_template.has_template(folder, weight_format=weight_format):
        ir_template.assemble(folder, output)
        return
    installed = context.toolchains.ensure(OPENVINO_CONVERT, context.progress)
    job = {"checkpoint": str(folder), "output": str(output), "weight_format": weight_format}
    settings = JobSettings(
        installed.python, "convert_openvino", context.logs / f"convert-{key[:12]}.log", _JOB_TIMEOUT_S
    )
    run_job(settings, job, title=f"converting to OpenVINO {weight_format}", progress=context.progress)


def _quantize(step: RecipeStep, parent: Checkpoint, output: Path, key: str, context: BuildContext) -> None:
    try:
        metadata.version("nncf")
    except metadata.PackageNotFoundError as error:
        raise ToolchainError(
            "weights are compressed by NNCF, which is not installed",
            where="quantize",
            hint="Install it with `pip install 'lightship[local]'`.",
        ) from error
    files = [entry.path for entry in parent.files]
    job: dict[str, Any] = {"source": str(parent.folder), "files": files, "output": str(output), **step.options}
    log_path = context.logs / f"quantize-{key[:12]}.log"
    # The same interpreter, but a process of its own: its memory goes when it ends, and it can be cancelled.
    settings = JobSettings(Path(sys.executable), "quantize_openvino", log_path, _JOB_TIMEOUT_S)
    run_job(settings, job, title=f"compressing weights to {step.options['scheme']}", progress=context.progress)


def _copy_files(source: Checkpoint, output: Path) -> None:
    """Copies what makes the model, and nothing else that lies in the folder."""
    for entry in source.files:
        (output / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / entry.path, output / entry.path)
