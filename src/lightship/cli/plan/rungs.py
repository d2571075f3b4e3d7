"""The rungs that are planned: variants of the store with what was measured of them, or shapes with so many bits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightship.artifacts.home import measurement_path
from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.artifacts.roofline import WeightBits, weight_bytes
from lightship.artifacts.sources.builtin import builtin_checkpoint, builtin_students
from lightship.cli.optimize.costs import USUAL_STARTUP_S
from lightship.cli.plan.servable import servable
from lightship.cli.plan.settings import ENGINES, engine_settings
from lightship.cli.prepare import Surroundings
from lightship.cli.variant_worker import STARTUP_WARMUP_S
from lightship.cli.worker_setup import worker_setup
from lightship.compression.feasibility.support_table import ENGINE_OF_FORMAT
from lightship.compression.recipes import choose_recipes, with_own_recipes
from lightship.compression.search.precision import expected_shape, stored_bits
from lightship.compression.steps.registry import formats_along
from lightship.errors import CheckpointError, EngineError, UsageError
from lightship.evaluation.performance.protocol import PROTOCOLS
from lightship.evaluation.performance.records import Slo
from lightship.planning.latency import MeasuredLoad, Promise, Tokens
from lightship.planning.records import RungToPlan
from lightship.ports.deployment import Figure, FigureSource
from lightship.ports.measurements import Measurement, Metric
from lightship.ports.variants import Recipe, Variant, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.source import BuiltinSource, FolderSource
from lightship.units import format_bytes

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_DEFAULT_BITS = "16"


def rungs_of(
    args: argparse.Namespace, spec: Spec, promise: Promise, machine: Machine, around: Surroundings
) -> tuple[tuple[RungToPlan, ...], list[str]]:
    """The rungs, top first, and notes on what was left out.

    Raises: UsageError, CheckpointError: options or files that make no rung.
    Effects: reads the store, the measurements and the model's `config.json`.
    """
    if args.engine is not None and args.engine not in ENGINES:
        raise UsageError(f"there is no engine {args.engine!r}", where="--engine", hint=f"Known: {', '.join(ENGINES)}.")
    if args.model_shape is not None or args.gpu is not None or args.engine is not None or args.bits is not None:
        return _by_bits(args, spec, _read_config(args.model_shape or _config_of(spec)), machine), []
    return _by_recipe(spec, promise, machine, around)


def _by_bits(args: argparse.Namespace, spec: Spec, config: dict[str, Any], machine: Machine) -> tuple[RungToPlan, ...]:
    shape, context = _shape(config), _context_length(config)
    engine = args.engine or ("vllm" if args.gpu is not None else "openvino")
    on_gpu = args.gpu is not None
    if not on_gpu or engine == "vllm":  # others are refused there by the planner itself
        found = servable(engine, shape, spec=spec, machine=machine, on_gpu=on_gpu, config=config)
        if not found.is_feasible:
            raise UsageError(f"{engine} cannot run it: {found.reason}", where="--engine", hint=found.nearest)
    settings = engine_settings(
        spec, engine, context_length=context, instruction_set=machine.instruction_set, on_gpu=on_gpu
    )
    rungs = []
    for bits in _bits(args.bits or _DEFAULT_BITS):
        num_bytes = weight_bytes(shape, WeightBits(bits, bits, bits))
        how = f"{shape.num_weights} weights of the shape x {bits:g} bits, scales not counted"
        weights = Figure(num_bytes, "B", FigureSource.ROOFLINE, how)
        rungs.append(_rung(f"{bits:g}-bit", shape, weights, settings=settings))
    return tuple(rungs)


def _by_recipe(
    spec: Spec, promise: Promise, machine: Machine, around: Surroundings
) -> tuple[tuple[RungToPlan, ...], list[str]]:
    config = _read_config(_config_of(spec))
    has_student = isinstance(spec.model.source, BuiltinSource) and bool(builtin_students(spec.model.source.name))
    recipes = choose_recipes(spec.variants, has_student=has_student, known=with_own_recipes(spec.recipes))
    built = {v.manifest.name: v for v in around.store.ls() if v.manifest.model_name == spec.model.name}
    rungs: list[RungToPlan] = []
    notes: list[str] = []
    for recipe in recipes:
        refusal = _refusal(recipe, spec, config, machine)
        if refusal:
            notes.append(f"{recipe.name} cannot be served here: {refusal}.")
            continue
        variant = built.get(recipe.name)
        rung = (
            _expected(recipe, spec, config, machine)
            if variant is None
            else stored_rung(variant, spec, promise, machine, around)
        )
        if rung is None:
            notes.append(f"{recipe.name} is not built, and its bytes cannot be told before.")
        elif rungs and rung.quality_loss_high is not None and rung.quality_loss_high > 1 - spec.quality.floor:
            kept = 1 - rung.quality_loss_high
            notes.append(f"{recipe.name} keeps {kept:.1%} of the quality; the floor is {spec.quality.floor:.1%}.")
        else:
            rungs.append(rung)
    return tuple(rungs), notes


def _refusal(recipe: Recipe, spec: Spec, config: dict[str, Any], machine: Machine) -> str:
    """Why the engine of the recipe's format cannot execute it; "" where it can."""
    engine = ENGINE_OF_FORMAT[formats_along(recipe, WeightFormat.SAFETENSORS)[-1]]
    return servable(engine, _shape(config), spec=spec, machine=machine, on_gpu=False, recipe=recipe).reason


def _expected(recipe: Recipe, spec: Spec, config: dict[str, Any], machine: Machine) -> RungToPlan | None:
    """A variant that is not there yet, by the bytes its recipe stores; None where they cannot be told."""
    engine = ENGINE_OF_FORMAT[formats_along(recipe, WeightFormat.SAFETENSORS)[-1]]
    bits, shape = stored_bits(recipe, engine), expected_shape(recipe, _shape(config))
    if bits is None or shape is None:
        return None
    how = f"not built: {shape.num_weights} weights at {bits.blocks:.3g} bits"
    weights = Figure(weight_bytes(shape, bits), "B", FigureSource.ROOFLINE, how)
    settings = engine_settings(
        spec, engine, context_length=_context_length(config), instruction_set=machine.instruction_set
    )
    return _rung(recipe.name, shape, weights, settings=settings)


def stored_rung(variant: Variant, spec: Spec, promise: Promise, machine: Machine, around: Surroundings) -> RungToPlan:
    """A variant of the store under the spec's settings, with what was measured of it on such a machine.

    Effects: reads its `config.json` and the measurements.
    """
    manifest = variant.manifest
    engine = ENGINE_OF_FORMAT[manifest.weight_format]
    settings = engine_settings(
        spec, engine, context_length=manifest.context_length, instruction_set=machine.instruction_set
    )
    try:
        target = worker_setup(spec, variant, around).target
    except EngineError:  # it is not installed here, so nothing was measured with it as it would be
        figures = []
    else:
        store = MeasurementStore(measurement_path(around.home))
        figures = store.find(variant_digest=manifest.digest, target=target, machine=machine.fingerprint)
    how = f"{format_bytes(manifest.weight_bytes)} in the manifest of {manifest.short_digest}"
    return _rung(
        manifest.name,
        _shape(_read_config(variant.folder / "config.json")),
        Figure(manifest.weight_bytes, "B", FigureSource.MANIFEST, how),
        settings=settings,
        figures=figures,
        loads=measured_loads(figures, promise),
    )


def _rung(
    name: str,
    shape: ModelShape,
    weights: Figure,
    *,
    settings: Any,
    figures: Sequence[Measurement] = (),
    loads: tuple[MeasuredLoad, ...] = (),
) -> RungToPlan:
    engine = settings.engine
    startup = _latest(figures, Metric.STARTUP_S)
    peak = _latest(figures, Metric.PEAK_RSS_BYTES)
    recovery = _latest(figures, Metric.QUALITY_RECOVERY)
    usual = Figure(
        USUAL_STARTUP_S[engine],
        "s",
        FigureSource.ASSUMED,
        f"{engine} with small models, measured elsewhere; reading large weights comes on top",
    )
    return RungToPlan(
        name=name,
        shape=shape,
        weight_bytes=weights,
        settings=settings,
        startup_s=usual if startup is None else _measured(startup, "s"),
        warmup_s=Figure(STARTUP_WARMUP_S[engine], "s", FigureSource.ASSUMED, f"longest warm-up of {engine}"),
        loads=loads,
        measured_peak=None if peak is None else _measured(peak, "B"),
        quality_loss_high=None if recovery is None or recovery.interval is None else 1 - recovery.interval.low,
    )


def measured_loads(figures: Sequence[Measurement], promise: Promise) -> tuple[MeasuredLoad, ...]:
    """Closed loads that were judged by this promise, the latest of each concurrency."""
    slo = Slo(ttft_ms=promise.ttft_ms, tpot_ms=promise.tpot_ms)
    names = tuple(protocol.goodput_name(slo) for protocol in PROTOCOLS.values())
    by_load: dict[int, dict[Metric, Measurement]] = {}
    for one in sorted(figures, key=lambda figure: figure.measured_unix_s):
        is_judged = one.metric in {Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT}
        if one.concurrency and (not is_judged or one.protocol.startswith(names)):
            by_load.setdefault(one.concurrency, {})[one.metric] = one
    needed = (Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT, Metric.TTFT_MS, Metric.TPOT_MS)
    return tuple(
        MeasuredLoad(
            concurrency=concurrency,
            ttft_ms=found[Metric.TTFT_MS].value,
            tpot_ms=found[Metric.TPOT_MS].value,
            goodput_requests_per_s=found[Metric.GOODPUT_REQUESTS_PER_S].value,
            attainment=found[Metric.SLO_ATTAINMENT].value,
            tokens=_tokens(found[Metric.GOODPUT_REQUESTS_PER_S]),
        )
        for concurrency, found in sorted(by_load.items())
        if all(metric in found for metric in needed)
    )


def _tokens(figure: Measurement) -> Tokens:
    return Tokens(figure.details.get("mean_prompt_tokens", 0.0), figure.details.get("mean_output_tokens", 0.0))


def _latest(figures: Sequence[Measurement], metric: Metric) -> Measurement | None:
    found = [one for one in figures if one.metric is metric]
    return max(found, key=lambda one: one.measured_unix_s, default=None)


def _measured(figure: Measurement, unit: str) -> Figure:
    return Figure(figure.value, unit, FigureSource.MEASURED, f"{figure.protocol}, {figure.num_items} here")


def _config_of(spec: Spec) -> Path:
    """The model's `config.json`, without downloading anything.

    Raises: UsageError: the model is on a hub. CheckpointError: there is no such folder.
    """
    match spec.model.source:
        case BuiltinSource(name):
            return builtin_checkpoint(name) / "config.json"
        case FolderSource(path):
            return path.expanduser().absolute() / "config.json"
    raise UsageError(
        "the model is on a hub, and planning downloads nothing",
        where=str(spec.model.source),
        hint="Download its config.json alone and name it with --model-shape.",
    )


def _read_config(path: Path) -> dict[str, Any]:
    """The text model's part of a `config.json`; `path` may be the folder with it.

    Raises: CheckpointError: it cannot be read.
    """
    if path.is_dir():
        path = path / "config.json"
    try:
        config = read_json_object(path)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(path)) from error
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _shape(config: dict[str, Any]) -> ModelShape:
    """The shape. Raises: CheckpointError: it states none, or one without a width."""
    shape = read_model_shape(config)
    if shape.head_dim < 1:
        what = f"{shape.num_heads} attention heads do not fit a hidden size of {shape.hidden_size}"
        raise CheckpointError(what, where="config.json", hint="Complete config.json from the model's origin.")
    return shape


def _context_length(config: dict[str, Any]) -> int:
    for name in _CONTEXT_NAMES:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    raise CheckpointError(
        f"`{_CONTEXT_NAMES[0]}` is missing", where="config.json", hint="Add the model's context length."
    )


def _bits(text: str) -> tuple[float, ...]:
    try:
        bits = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of bits", where="--bits", hint="Write it like 16,8,4.") from error
    if not all(1 <= one <= 32 for one in bits):
        raise UsageError(f"{text!r}: weights have 1 to 32 bits", where="--bits", hint="Write it like 16,8,4.")
    return bits
