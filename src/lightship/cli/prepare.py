"""From a spec to the variants it names: resolves the model, then builds what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.digest import DigestCache
from lightship.artifacts.home import artifact_root, data_home, digest_cache_path, hub_cache
from lightship.artifacts.machine import this_machine
from lightship.artifacts.sources.builtin import builtin_checkpoint, builtin_students
from lightship.artifacts.sources.hub import fetch_hub
from lightship.artifacts.store import ArtifactStore
from lightship.cli.compression_texts import calibration_file, training_file
from lightship.cli.feasible import check_recipes
from lightship.cli.progress import progress_for_stderr
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.recipes import choose_recipes, reference_recipe, with_own_recipes
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.errors import SpecError
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.progress import Progress
from lightship.ports.variants import Recipe, Variant, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.source import BuiltinSource, FolderSource, HubSource

_CONSOLE_STDERR = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Surroundings:
    """What commands work with: the data directory, time and progress, made once per process."""

    home: Path
    clock: Clock
    progress: Progress

    @property
    def store(self) -> ArtifactStore:
        """The store of variants."""
        return ArtifactStore(artifact_root(self.home), self.clock)

    @property
    def toolchains(self) -> ToolchainFolder:
        """The toolchains of this data directory."""
        return ToolchainFolder(self.home / "toolchains")

    @property
    def logs(self) -> Path:
        """Folder of the logs of jobs and workers."""
        return self.home / "logs"


def surroundings() -> Surroundings:
    """This process's data directory, clock and progress."""
    return Surroundings(home=data_home(os.environ), clock=SystemClock(), progress=progress_for_stderr())


@dataclass(frozen=True)
class ResolvedModel:
    """The checkpoint a spec names, checked, and the students that ship with it."""

    checkpoint: Checkpoint
    students: dict[str, Path]


@dataclass(frozen=True)
class BuiltVariants:
    """Variants in the spec's order, and the one the others are compared with."""

    variants: tuple[Variant, ...]
    reference: Variant


def resolve_model(spec: Spec, around: Surroundings) -> ResolvedModel:
    """The checkpoint of the spec's source, fetched if it is a hub id, and inspected.

    Raises: CheckpointError, NetworkError.
    Effects: may download.
    """
    students: dict[str, Path] = {}
    match spec.model.source:
        case BuiltinSource(name):
            folder = builtin_checkpoint(name)
            students = builtin_students(name)
        case FolderSource(path):
            folder = path.expanduser().absolute()
        case HubSource() as source:
            folder = fetch_hub(source, cache=hub_cache(around.home), progress=around.progress, clock=around.clock)
    checkpoint = inspect_checkpoint(folder, cache=DigestCache(digest_cache_path(around.home)))
    return ResolvedModel(checkpoint, students)


def build_variants(spec: Spec, model: ResolvedModel, around: Surroundings) -> BuiltVariants:
    """Every variant the spec asks for, built or found.

    Raises: SpecError: an unknown recipe, one that cannot be served here, or a reference that is not among the variants.
        ToolchainError, ArtifactError.
    Effects: may install a toolchain and run jobs for minutes.
    """
    is_network = model.checkpoint.weight_format is WeightFormat.OPENVINO_IR
    network_types = model.checkpoint.dtypes if is_network else None
    recipes = choose_recipes(
        spec.variants,
        has_student=bool(model.students),
        network_types=network_types,
        known=with_own_recipes(spec.recipes),
    )
    for note in check_recipes(spec, recipes, model.checkpoint, this_machine()):
        _CONSOLE_STDERR.print(note, style="dim", markup=False)
    reference = _reference(spec, recipes)
    context = build_context(spec, model, around)
    built = {r.name: build_variant(r, model.checkpoint, context, model_name=spec.model.name) for r in recipes}
    unique = {variant.manifest.digest: variant for variant in built.values()}
    return BuiltVariants(tuple(unique.values()), built[reference.name])


def build_context(spec: Spec, model: ResolvedModel, around: Surroundings) -> BuildContext:
    """What building this spec's variants needs around it.

    Raises: MeasurementError: texts that cannot be read. SpecError: texts that are evaluated, too.
    Effects: writes the texts for jobs below the data directory.
    """
    return BuildContext(
        store=around.store,
        toolchains=around.toolchains,
        logs=around.logs,
        work=around.home / "work",
        students=model.students,
        calibration=calibration_file(spec, around.home),
        training=training_file(spec, around.home),
        progress=around.progress,
    )


def _reference(spec: Spec, recipes: tuple[Recipe, ...]) -> Recipe:
    if spec.quality.reference == "source":
        return reference_recipe(recipes)
    for recipe in recipes:
        if recipe.name == spec.quality.reference:
            return recipe
    raise SpecError(
        f"the reference {spec.quality.reference!r} is not among the variants",
        where="quality.reference",
        hint=f"Choose `source` or one of {', '.join(recipe.name for recipe in recipes)}.",
    )
