"""What benchmarks of compression share: a model's variants, made by recipes and measured on their engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from lightship.artifacts.home import measurement_path
from lightship.artifacts.machine import this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.feasible import check_recipes
from lightship.cli.measure import Measurer
from lightship.cli.prepare import BuiltVariants, Surroundings, build_context, resolve_model
from lightship.cli.worker_setup import worker_setup
from lightship.compression.build import build_costs, build_variant
from lightship.compression.recipes import PRESETS
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import BuildCost, Recipe, Variant
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec

REFERENCE = PRESETS["fp16"]
Figures = dict[tuple[Metric, int], Measurement]


class MeasuredModel:
    """Variants of one model under one spec; what the store has is neither made nor measured again.

    Args:
        overrides: Settings of the spec, as `--set` takes them: source, texts, protocol, promise.
        around: Data directory, clock and progress.
    """

    def __init__(self, overrides: Sequence[str], around: Surroundings) -> None:
        self._overrides = ("engines.vllm={}", "engines.llamacpp={}", *overrides)
        self._around = around
        self._machine = this_machine()
        self._store = MeasurementStore(measurement_path(around.home))
        spec = self.spec()
        self._model = resolve_model(spec, around)
        self._context = build_context(spec, self._model, around)

    def spec(self, more: Iterable[str] = ()) -> Spec:
        """The spec, with more settings."""
        return parse_spec("", overrides=[*self._overrides, *more]).spec

    def variant(self, recipe: Recipe) -> Variant:
        """The recipe's variant: found or made."""
        return build_variant(recipe, self._model.checkpoint, self._context, model_name=self.spec().model.name)

    def costs(self, recipe: Recipe) -> list[BuildCost]:
        """What its steps took."""
        return build_costs(recipe, self._model.checkpoint, self._context)

    def target(self, recipe: Recipe, more: Iterable[str] = ()) -> Target:
        """Where it is served."""
        return worker_setup(self.spec(more), self.variant(recipe), self._around).target

    def figures(
        self,
        recipe: Recipe,
        *,
        more: Iterable[str] = (),
        with_quality: bool = True,
        with_speed: bool = True,
        is_forced: bool = False,
    ) -> Figures:
        """Everything that is known of the recipe's variant after what is missing (or all, if forced) was measured.

        Raises: SpecError: it cannot be served here. LightshipError: of whatever step failed.
        """
        check_recipes(self.spec(more), [recipe], self._model.checkpoint, self._machine)  # before anything is made
        reference, variant = self.variant(REFERENCE), self.variant(recipe)
        built = BuiltVariants(tuple({v.manifest.digest: v for v in (reference, variant)}.values()), reference)
        target = self.target(REFERENCE)
        measurer = Measurer(self.spec(more), built, self._store, self._machine, self._around, reference_target=target)
        is_reference = variant == reference and not tuple(more)
        if with_quality and not is_reference:  # its scores are what the others are compared with
            self.figures(REFERENCE, with_speed=False)
        asyncio.run(
            measurer.measure_missing(
                is_forced=is_forced, only=variant, with_quality=with_quality, with_speed=with_speed
            )
        )
        known = sorted(measurer.known(variant), key=lambda one: one.measured_unix_s)
        return {(one.metric, one.concurrency): one for one in known}

    def speed_in_turn(self, recipes: Sequence[Recipe]) -> list[Figures]:
        """Speed of all of them, measured in rounds over them, so that a slow spell falls on each."""
        variants = [self.variant(recipe) for recipe in recipes]
        built = BuiltVariants(tuple(variants), variants[0])
        measurer = Measurer(self.spec(), built, self._store, self._machine, self._around)
        asyncio.run(measurer.measure_missing(with_quality=False))
        return [{(one.metric, one.concurrency): one for one in measurer.known(variant)} for variant in variants]
