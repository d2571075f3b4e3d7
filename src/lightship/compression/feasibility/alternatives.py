"""What comes nearest to something an engine refuses: other features and engines of the table, and presets for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightship.compression.feasibility.demands import recipe_demands
from lightship.compression.feasibility.support_table import (
    ENGINE_OF_FORMAT,
    TITLES,
    WEIGHT_FEATURES,
    Feature,
    Platform,
    SupportTable,
    Verdict,
)
from lightship.compression.recipes import SOURCES
from lightship.compression.steps.registry import formats_along
from lightship.errors import LightshipError
from lightship.ports.variants import Recipe, WeightFormat

# More than two suggestions are a list to read, not an answer.
_MOST_SUGGESTIONS = 2
# A preset that does more than set a precision is no near relative of one that only does that.
_PLAIN_KINDS = frozenset({"convert", "quantize", "adopt"})


@dataclass(frozen=True)
class Suggestion:
    """A sentence, and the first preset it names."""

    sentence: str
    preset: str | None


def suggest(
    feature: Feature,
    platform: Platform,
    table: SupportTable,
    *,
    presets: Mapping[str, Recipe],
    source: WeightFormat,
    excluded: frozenset[tuple[str, Feature]] = frozenset(),
) -> Suggestion | None:
    """What runs on this platform and comes nearest; None where the table names nothing that does.

    Args:
        feature: What was refused.
        presets: Recipes by name; those of the same engine and precision are suggested by name.
        source: Format of the checkpoint, which decides what presets can be applied.
        excluded: Engine and feature pairs that are known not to do, though the table allows them.
    """
    named = preset_features(presets, source)
    words: list[str] = []
    first_preset: str | None = None
    for engine, other in table.nearest.get(feature, ()):
        runs = table.find(engine, other, platform).verdict in {Verdict.RUNS, Verdict.NO_GAIN}
        is_reachable = source is WeightFormat.SAFETENSORS or ENGINE_OF_FORMAT[source] == engine
        if not runs or not is_reachable or (engine, other) in excluded or len(words) == _MOST_SUGGESTIONS:
            continue
        preset = next((name for name, about in named.items() if about == (engine, other)), None)
        title = f"{TITLES[other]} on {table.engines[engine][0]}"
        words.append(f"`{preset}` ({title})" if preset else title)
        first_preset = first_preset or preset
    return Suggestion(f"Nearest that works here: {' or '.join(words)}.", first_preset) if words else None


def preset_features(presets: Mapping[str, Recipe], source: WeightFormat) -> dict[str, tuple[str, Feature]]:
    """Engine and precision of each plain preset that can be applied to this format."""
    found = {}
    for name, recipe in presets.items():
        if not {step.kind for step in recipe.steps} <= _PLAIN_KINDS or SOURCES.get(name, source) is not source:
            continue
        try:
            engine = ENGINE_OF_FORMAT[formats_along(recipe, source)[-1]]
        except LightshipError:
            continue  # not for this format; that is no news here
        weights = {one.feature for one in recipe_demands(recipe.steps)} & WEIGHT_FEATURES
        if len(weights) == 1:
            found[name] = (engine, next(iter(weights)))
    return found
