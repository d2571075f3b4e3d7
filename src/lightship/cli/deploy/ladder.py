"""Which rungs are deployed: the measured ladder, or what the spec says alone. Nothing is built, fetched or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.digest import DigestCache
from lightship.artifacts.home import digest_cache_path, hub_cache, measurement_path
from lightship.artifacts.machine import this_machine
from lightship.artifacts.sources.builtin import builtin_checkpoint, builtin_students
from lightship.cli.prepare import BuiltVariants, ResolvedModel, Surroundings, build_context
from lightship.compression.build import find_variant
from lightship.compression.feasibility.support_table import ENGINE_OF_FORMAT
from lightship.compression.recipes import choose_recipes, reference_recipe, with_own_recipes
from lightship.compression.steps.registry import formats_along
from lightship.errors import EngineError, SpecError
from lightship.gateway.dispatch.config import RungFacts
from lightship.ports.measurements import Measurement, Metric
from lightship.ports.variants import Recipe, Variant, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.source import BuiltinSource, FolderSource, HubSource


@dataclass(frozen=True)
class ChosenRung:
    """One rung: its recipe, its files where they were made, and what was measured of it (nothing, if need be)."""

    recipe: Recipe
    weight_format: WeightFormat
    engine: str
    variant: Variant | None
    facts: RungFacts
    figures: tuple[Measurement, ...] = ()
    is_unchanged: bool = False

    def figure(self, metric: Metric) -> Measurement | None:
        """The newest measurement of it that no load plays a part in."""
        found = [one for one in self.figures if one.metric is metric]
        return max(found, key=lambda one: one.measured_unix_s, default=None)


@dataclass(frozen=True)
class ChosenLadder:
    """Rungs from the top down, the checkpoint they come from where it is here, and what to know about the choice."""

    rungs: tuple[ChosenRung, ...]
    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


@dataclass
class _Found:
    """What is here of a spec's variants."""

    model: ResolvedModel | None
    recipes: tuple[Recipe, ...]
    formats: dict[str, WeightFormat]
    variants: dict[str, Variant] = field(default_factory=dict)


def choose_rungs(spec: Spec, around: Surroundings) -> ChosenLadder:
    """The rungs to deploy.

    Raises: SpecError: recipes that are not known, or for engines that the spec leaves out. CheckpointError: the
        checkpoint is damaged.
    Effects: writes the calibration texts that identify variants below the data directory.
    """
    found = _look(spec, around)
    checkpoint = found.model.checkpoint if found.model else None
    measured = _measured(spec, found, around)
    if not isinstance(measured, str):
        return ChosenLadder(tuple(measured), checkpoint)
    recipes = _recipes_of_spec(spec, found.recipes)
    rungs = [_unmeasured(recipe, found, position) for position, recipe in enumerate(recipes)]
    for rung in rungs:
        if rung.engine not in spec.engines.enabled:
            what = f"{rung.recipe.name!r} is served by {rung.engine}, which is not among the engines"
            raise SpecError(what, where="ladder", hint=f"Add `{rung.engine}: {{}}` to `engines`.")
    note = f"Nothing was measured ({measured}): rungs and sizes come from the spec alone."
    if spec.ladder == "auto" and len(found.recipes) > 1:
        top = rungs[0].recipe.name
        note += f" Of the ladder only its top, {top}, is rendered; `lightship up --no-serve` finds the rest."
    return ChosenLadder(tuple(rungs), checkpoint, (note,))


def _look(spec: Spec, around: Surroundings) -> _Found:
    model = local_model(spec, around)
    source_format = model.checkpoint.weight_format if model else WeightFormat.SAFETENSORS
    is_network = source_format is WeightFormat.OPENVINO_IR
    recipes = choose_recipes(
        spec.variants,
        has_student=bool(model.students) if model else False,
        network_types=model.checkpoint.dtypes if model and is_network else None,
        known=with_own_recipes(spec.recipes),
    )
    formats = {one.name: formats_along(one, source_format)[-1] for one in recipes}
    found = _Found(model, recipes, formats)
    if model is not None:
        context = build_context(spec, model, around)
        for recipe in recipes:
            variant = find_variant(recipe, model.checkpoint, context)
            if variant is not None:
                found.variants[recipe.name] = variant
    return found


def local_model(spec: Spec, around: Surroundings) -> ResolvedModel | None:
    """The checkpoint of the spec's source if it is on this machine; a hub is not asked.

    Raises: CheckpointError: it is here and damaged.
    """
    folder: Path | None
    students: dict[str, Path] = {}
    match spec.model.source:
        case BuiltinSource(name):
            folder, students = builtin_checkpoint(name), builtin_students(name)
        case FolderSource(path):
            folder = path.expanduser().absolute()
        case HubSource() as source:
            folder = _fetched(source, hub_cache(around.home))
    if folder is None or not folder.is_dir():
        return None
    return ResolvedModel(inspect_checkpoint(folder, cache=DigestCache(digest_cache_path(around.home))), students)


def _fetched(source: HubSource, cache: Path) -> Path | None:
    repository = cache / source.repository.replace("/", "--")
    if source.is_pinned:
        return repository / source.revision
    reference = repository / "refs" / quote(source.revision, safe="")
    return repository / reference.read_text("utf-8").strip() if reference.is_file() else None


def _recipes_of_spec(spec: Spec, recipes: Sequence[Recipe]) -> list[Recipe]:
    if spec.ladder == "auto":
        return [reference_recipe(tuple(recipes))]
    by_name = {one.name: one for one in recipes}
    missing = [rung.variant for rung in spec.ladder if rung.variant not in by_name]
    if missing:
        hint = f"Known here: {', '.join(by_name)}; list others under `variants`."
        raise SpecError(f"{missing[0]!r} is not among the variants", where="ladder", hint=hint)
    return [by_name[rung.variant] for rung in spec.ladder]


def _unmeasured(recipe: Recipe, found: _Found, position: int) -> ChosenRung:
    weight_format = found.formats[recipe.name]
    variant = found.variants.get(recipe.name)
    return ChosenRung(
        recipe=recipe,
        weight_format=weight_format,
        engine=ENGINE_OF_FORMAT[weight_format],
        variant=variant,
        facts=RungFacts(
            variant_name=recipe.name,
            variant_digest=variant.manifest.digest if variant else "",
            quality_loss=None if position else 0.0,
        ),
        is_unchanged=_is_unchanged(recipe, weight_format),
    )


def _is_unchanged(recipe: Recipe, weight_format: WeightFormat) -> bool:
    return weight_format is WeightFormat.SAFETENSORS and {step.kind for step in recipe.steps} <= {"adopt"}


def _measured(spec: Spec, found: _Found, around: Surroundings) -> list[ChosenRung] | str:
    """The measured ladder, or why there is none."""
    missing = [one.name for one in found.recipes if one.name not in found.variants]
    if missing:
        return f"not built: {', '.join(missing)}"
    if not measurement_path(around.home).is_file():
        return "there is no measurement on this machine"
    absent = [name for name in ("numpy", "openvino", "openvino_genai") if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} is not installed here, which says on what figures were taken"
    try:
        return _ladder_of_measurements(spec, found, around)
    except EngineError as error:
        return str(error)


def _ladder_of_measurements(spec: Spec, found: _Found, around: Surroundings) -> list[ChosenRung] | str:
    from lightship.artifacts.measurements import MeasurementStore
    from lightship.cli.assess import assess
    from lightship.cli.gateway_config import measured_rungs
    from lightship.cli.measure import Measurer

    by_name = found.variants
    reference = spec.quality.reference
    name = reference_recipe(found.recipes).name if reference == "source" else reference
    if name not in by_name:
        return f"the reference {name} is not among the variants"
    built = BuiltVariants(tuple({one.manifest.digest: one for one in by_name.values()}.values()), by_name[name])
    machine, store = this_machine(), MeasurementStore(measurement_path(around.home))
    measurer = Measurer(spec, built, store, machine, around)
    waiting = [one.manifest.name for one in built.variants if not measurer.is_measured(one)]
    if waiting:
        return f"no figures under this spec of {', '.join(waiting)}"
    ladder = assess(spec, built, measurer, machine, around).ladder
    by_digest = {one.manifest.digest: one for one in built.variants}
    facts = measured_rungs(ladder, concurrency=spec.measurement.target_concurrency)
    recipes = {one.manifest.digest: one.manifest.recipe for one in built.variants}
    return [
        ChosenRung(
            recipe=recipes[one.variant_digest],
            weight_format=by_digest[one.variant_digest].manifest.weight_format,
            engine=ENGINE_OF_FORMAT[by_digest[one.variant_digest].manifest.weight_format],
            variant=by_digest[one.variant_digest],
            facts=one,
            figures=tuple(measurer.known(by_digest[one.variant_digest])),
            is_unchanged=_is_unchanged(
                recipes[one.variant_digest], by_digest[one.variant_digest].manifest.weight_format
            ),
        )
        for one in facts
    ]
