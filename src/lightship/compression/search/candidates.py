"""The candidates of a search: recipes times engines times settings, each with what is known of it beforehand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.machine import Machine
from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.artifacts.roofline import Load, MachineSpeed, Roofline, estimate_speed
from lightship.compression.feasibility.servable import check_servable
from lightship.compression.feasibility.support_table import ENGINE_OF_FORMAT
from lightship.compression.feasibility.verdicts import Feasibility, refusal_of, refused
from lightship.compression.machine_speed import arithmetic_ratio
from lightship.compression.recipes import SOURCES
from lightship.compression.search.precision import (
    expected_shape,
    family_of,
    nominal_bits,
    scheme_of,
    stored_bits,
    tier_of,
)
from lightship.compression.search.records import Candidate, CostEstimates, Proposal, SettingValue, Tier
from lightship.compression.steps.registry import formats_along
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat

Settings = Mapping[str, SettingValue]

# Settings that change speed, memory or quality enough to be candidates of their own, by engine, as the spec names them.
# Each is tried for what did well without it. An 8-bit KV cache halves what long contexts read; larger groups of inputs
# that are rounded to 8 bits (64 divides the groups of int4, too) cost fewer scales than OpenVINO's choice, which counts
# in a crowd; flash attention cost llama.cpp's Q8_0 nearly half its speed at 32 requests on AMX and won with Q4_0 alone.
VARIATIONS: Mapping[str, tuple[Settings, ...]] = {
    "openvino": ({"kv_cache_precision": "u8"}, {"dynamic_quantization_group_size": 64}),
    "vllm": ({"kv_cache_precision": "fp8"},),
    "llamacpp": ({"flash_attention": True},),
}
_EIGHT_BIT_CACHE = frozenset({"u8", "fp8", "q8_0"})


@dataclass(frozen=True)
class EngineOffer:
    """An engine that may serve.

    Args:
        settings: What it runs with unless a candidate says otherwise.
        variations: Changes of them that are tried, one at a time.
    """

    settings: Settings = field(default_factory=dict)
    variations: tuple[Settings, ...] = ()


@dataclass(frozen=True)
class Premises:
    """What candidates are made for.

    Args:
        checkpoint: The source.
        config: The object in its config.json.
        machine: Whose instruction sets count.
        engines: By name; an engine that is not here is not used.
        estimate_costs: What finding out about a candidate is expected to take.
        students: Names of students that ship with the model.
        speed: What the machine does in float32; None leaves the roofline out.
        load: Under which the roofline is drawn.
        allow_research: Whether recipes that only research wants are candidates.
    """

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    machine: Machine
    engines: Mapping[str, EngineOffer]
    estimate_costs: Callable[[Candidate], CostEstimates]
    students: frozenset[str] = frozenset()
    speed: MachineSpeed | None = None
    load: Load = field(default_factory=lambda: Load(concurrency=32, prompt_tokens=128, output_tokens=64))
    allow_research: bool = False


def propose_candidates(recipes: Iterable[Recipe], premises: Premises) -> tuple[Proposal, ...]:
    """Every recipe on the engine of its format, then the same with each variation of that engine's settings.

    Recipes for another format of source are left out without a word, as no one asked for them; everything else is
    proposed, with the reason where it cannot be done. The cheapest come first, equals in the order of the recipes.
    """
    source = premises.checkpoint.weight_format
    plain: list[tuple[Recipe, str]] = []
    for recipe in _suited_to(recipes, source):
        plain.append((recipe, _engine_of(recipe, source)))
    relatives = _cheaper_relatives(plain)
    candidates = [
        _candidate(recipe, engine, premises, grows_from=relatives.get(recipe.name, ())) for recipe, engine in plain
    ]
    varied = [
        _candidate(recipe, engine, premises, change=change)
        for recipe, engine in plain
        if engine in premises.engines
        for change in premises.engines[engine].variations
        if _has_effect(change, recipe)
    ]
    proposals = [_proposal(one, premises) for one in (*candidates, *varied)]
    return tuple(sorted(proposals, key=lambda one: (one.candidate.tier, sum(one.costs.steps_s))))


def _has_effect(change: Settings, recipe: Recipe) -> bool:
    """Inputs are rounded only where the weights that they meet are compressed."""
    return "dynamic_quantization_group_size" not in change or scheme_of(recipe) is not None


def _suited_to(recipes: Iterable[Recipe], source: WeightFormat) -> list[Recipe]:
    """Recipes for a checkpoint as they are; for a ready-made network, without the conversion that it has behind it."""
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        steps = recipe.steps
        if source is not WeightFormat.SAFETENSORS:
            steps = tuple(step for step in steps if step.kind != "convert")
        elif SOURCES.get(recipe.name, source) is not source:
            continue
        if steps:
            found.setdefault(_identity(steps), Recipe(recipe.name, steps))
    return [recipe for recipe in found.values() if _begins_in(recipe, source)]


def _identity(steps: tuple[RecipeStep, ...]) -> str:
    return str([(step.kind, sorted(step.options.items())) for step in steps])


def _begins_in(recipe: Recipe, source: WeightFormat) -> bool:
    """Whether the recipe's first step exists for this format; a later one that does not is a refusal with a reason."""
    try:
        formats_along(Recipe(recipe.name, recipe.steps[:1]), source)
    except SpecError:
        return source is WeightFormat.SAFETENSORS
    return True


def _engine_of(recipe: Recipe, source: WeightFormat) -> str:
    form = source
    for count in range(1, len(recipe.steps) + 1):
        try:
            form = formats_along(Recipe(recipe.name, recipe.steps[:count]), source)[-1]
        except SpecError:
            break
    return ENGINE_OF_FORMAT[form]


def _cheaper_relatives(plain: Sequence[tuple[Recipe, str]]) -> dict[str, tuple[str, ...]]:
    """By recipe: names of candidates that reach the same precision and shape in a cheaper way."""
    tiers = {recipe.name: tier_of(recipe) for recipe, _ in plain}
    families: dict[str, list[tuple[str, str]]] = {}
    for recipe, engine in plain:
        families.setdefault(family_of(recipe, engine), []).append((recipe.name, engine))
    found = {}
    for members in families.values():
        for name, _ in members:
            cheaper = [f"{other}@{engine}" for other, engine in members if tiers[other] < tiers[name]]
            found[name] = tuple(cheaper)
    return found


def _candidate(
    recipe: Recipe,
    engine: str,
    premises: Premises,
    *,
    change: Settings | None = None,
    grows_from: tuple[str, ...] = (),
) -> Candidate:
    base = premises.engines[engine].settings if engine in premises.engines else {}
    name, tier = f"{recipe.name}@{engine}", tier_of(recipe)
    if change is not None:
        words = ", ".join(f"{key}={value}" for key, value in sorted(change.items()))
        return Candidate(
            name=f"{name} ({words})",
            recipe=recipe,
            engine=engine,
            settings={**base, **change},
            tier=Tier.SETTINGS if tier is Tier.DATA_FREE else Tier.LATE_SETTINGS,
            grows_from=(name,),
        )
    return Candidate(name=name, recipe=recipe, engine=engine, settings=dict(base), tier=tier, grows_from=grows_from)


def _proposal(candidate: Candidate, premises: Premises) -> Proposal:
    shape = expected_shape(candidate.recipe, read_model_shape(premises.config))
    return Proposal(
        candidate=candidate,
        feasibility=_feasibility(candidate, premises),
        costs=premises.estimate_costs(candidate),
        roofline=_roofline(candidate, premises, shape, premises.load),
        alone=_roofline(candidate, premises, shape, Load(1, premises.load.prompt_tokens, premises.load.output_tokens)),
        nominal_bits=nominal_bits(candidate.recipe),
    )


def _feasibility(candidate: Candidate, premises: Premises) -> Feasibility:
    if candidate.engine not in premises.engines:
        return refused(
            f"{candidate.engine} serves what this recipe makes, and it is not among the engines of this deployment",
            nearest=f"Add `{candidate.engine}: {{}}` to `engines`, or take a recipe for another engine.",
            engine=candidate.engine,
        )
    for step in candidate.recipe.steps:
        if step.options.get("method") == "upcycle" and not premises.allow_research:
            return refused(
                "copies of experts add bytes and work, and buy nothing before a long training",
                nearest="Carve experts out of the feed-forward layers (`method: carve`), or ask for research.",
                engine=candidate.engine,
            )
        wanted = {"student": step.options.get("name"), "draft": step.options.get("student")}.get(step.kind)
        if wanted and wanted not in premises.students:
            return refused(
                "it needs a student that ships with the model, and this model comes without",
                nearest="Distil one: a recipe with the steps `prune` and `distill`.",
                engine=candidate.engine,
            )
    try:
        return check_servable(
            candidate.recipe,
            premises.checkpoint,
            premises.machine,
            candidate.settings,
            config=premises.config,
            engine=candidate.engine,
            allow_research=premises.allow_research,
        )
    except SpecError as error:
        return refusal_of(error, engine=candidate.engine)


def _roofline(candidate: Candidate, premises: Premises, shape: ModelShape | None, load: Load) -> Roofline | None:
    bits = stored_bits(candidate.recipe, candidate.engine)
    if premises.speed is None or bits is None or shape is None:
        return None
    # Quantized weights may be multiplied as 8-bit integers in every engine; a bound takes the best of it.
    is_quantized = scheme_of(candidate.recipe) is not None
    ratio = arithmetic_ratio(premises.machine.instruction_sets, is_int8=is_quantized)
    speed = MachineSpeed(premises.speed.bandwidth_bytes_per_s, ratio * premises.speed.flops_per_s)
    has_small_cache = any(str(value) in _EIGHT_BIT_CACHE for value in candidate.settings.values())
    return estimate_speed(shape, bits, speed, load, kv_element_bytes=1.0 if has_small_cache else 2.0)
