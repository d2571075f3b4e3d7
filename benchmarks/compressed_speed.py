"""Is a lower rung worth stepping down to? Speed of a 0.5B-shaped model, quality of the built-in one, 32 requests.

    python benchmarks/compressed_speed.py [--recipes A,B,...] [--rounds quick|thorough] [--work FOLDER]

The 0.5B-shaped model has random weights (benchmarks/random_model.py): its speed is real and its text is not, so
training and calibration are left out of recipes for it and only shapes and formats are kept. The same recipes, whole,
are made of the built-in model for their quality. Speeds are measured in rounds over all variants of an engine. Prints
one line of JSON; 1 when no rung reaches 1.4 times its engine's uncompressed goodput with 97 % recovery.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evidence import ROOT
from lightship.cli.prepare import surroundings
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.errors import LightshipError
from lightship.ports.measurements import Metric
from lightship.ports.variants import Recipe, RecipeStep
from measured_variants import MeasuredModel
from random_model import SHAPE

SPEEDUP, RECOVERY, USERS = 1.4, 0.97, 32
NUM_LAYERS: int = SHAPE["num_hidden_layers"]
UNCOMPRESSED = {"openvino": "fp16", "vllm": "bf16"}
DEFAULT_RECIPES = "int8-activations,w8a8"
# Loose enough for the uncompressed model: what is compared is how much more the other one carries.
PROMISE = ("slo.ttft_ms=8000", "slo.tpot_ms=600")


def random_model(work: Path) -> Path:
    """The 0.5B-shaped checkpoint, written once."""
    folder = work / "random-0.5b"
    if not (folder / "tokenizer_config.json").exists():
        around = surroundings()
        python = around.toolchains.ensure(OPENVINO_CONVERT, around.progress).python
        subprocess.run([str(python), str(ROOT / "benchmarks" / "random_model.py"), str(folder)], check=True)
    return folder


def shape_of(recipe: Recipe) -> Recipe:
    """The recipe without what random weights cannot be used for: training, and all but a little calibration."""
    steps: list[RecipeStep] = []
    for step in recipe.steps:
        options = {name: value for name, value in step.options.items() if name not in {"algorithm", "observer"}}
        if step.kind == "distill":
            continue
        if "depth_fraction" in options:  # which blocks go plays no part for speed, and scoring them takes long
            num_kept = round(NUM_LAYERS * float(options.pop("depth_fraction")))
            options["drop"] = ",".join(str(block) for block in range(num_kept, NUM_LAYERS))
        if options.get("scheme") == "int8-activations":
            options |= {"num_samples": 4, "sequence_tokens": 64}
        steps.append(replace(step, options=options))
    return Recipe(f"{recipe.name}-shape", tuple(steps))


def speeds(recipes: Sequence[Recipe], folder: Path, rounds: str) -> dict[str, tuple[float, float]]:
    """Goodput and tokens/s at 32 requests by recipe name, in rounds over each engine's variants."""
    overrides = [f"model.source={folder}", "model.name=random", f"measurement.protocol={rounds}", *PROMISE]
    model = MeasuredModel([*overrides, f"measurement.concurrencies=[{USERS}]"], surroundings())
    found = {}
    by_engine: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_engine.setdefault(model.target(recipe).engine, []).append(recipe)
    for engine, members in by_engine.items():
        everyone = [PRESETS[UNCOMPRESSED[engine]], *members]
        for recipe, figures in zip(everyone, model.speed_in_turn(everyone), strict=True):
            goodput, tokens = figures[Metric.GOODPUT_REQUESTS_PER_S, USERS], figures[Metric.DECODE_TOKENS_PER_S, USERS]
            found[recipe.name] = (goodput.value, tokens.value)
            span = f" ({goodput.interval.low:.2f}-{goodput.interval.high:.2f})" if goodput.interval else ""
            print(f"{recipe.name}@{engine}: {goodput.value:.2f}/s{span}, {tokens.value:.0f} tokens/s", file=sys.stderr)
    return found


def main() -> int:
    """Prints a line for each recipe and the verdict."""
    parser = argparse.ArgumentParser(description="Speed of compressed variants on a 0.5B-shaped model.")
    parser.add_argument("--recipes", default=DEFAULT_RECIPES)
    parser.add_argument("--rounds", default="thorough", choices=["screening", "quick", "thorough"])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compressed-speed")
    args = parser.parse_args()
    whole = [PRESETS[name] for name in args.recipes.split(",")]
    shapes = {recipe.name: shape_of(recipe) for recipe in whole}
    builtin = MeasuredModel([], surroundings())
    measured = speeds(list(shapes.values()), random_model(args.work), args.rounds)
    best: tuple[float, str] | None = None
    for recipe in whole:
        try:
            engine = builtin.target(recipe).engine
            recovery = builtin.figures(recipe, with_speed=False)[Metric.QUALITY_RECOVERY, 0]
        except LightshipError as error:
            print(f"{recipe.name}: {error}", file=sys.stderr)
            continue
        goodput, tokens = measured[shapes[recipe.name].name]
        base_goodput, base_tokens = measured[UNCOMPRESSED[engine]]
        low = recovery.interval.low if recovery.interval else recovery.value
        words = (
            f"{recipe.name}@{engine}: {goodput / base_goodput:.2f} times the goodput ({tokens / base_tokens:.2f} the "
            f"tokens/s) of {UNCOMPRESSED[engine]}, recovery {recovery.value:.1%} (at least {low:.1%})"
        )
        print(words, file=sys.stderr)
        if low >= RECOVERY and (best is None or goodput / base_goodput > best[0]):
            best = goodput / base_goodput, words
    is_met = best is not None and best[0] >= SPEEDUP
    line = {
        "number": "4",
        "claim": "a rung below the reference, 32 requests at once, 0.5B shape for speed, built-in model for quality",
        "figure": best[1] if best else "none keeps 97 %",
        "target": f"{SPEEDUP} times the goodput, {RECOVERY:.0%} recovery",
        "is_met": is_met,
    }
    print(json.dumps(line))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
