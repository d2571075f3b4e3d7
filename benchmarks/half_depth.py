"""Half of the built-in model's blocks removed, then distilled: how much of what pruning lost comes back?

    python benchmarks/half_depth.py [--data FOLDER] [--num-tokens N]

Measured as bits/byte on the built-in held-out tales, on the engine that serves (OpenVINO). The training text is the
public-domain corpus in FOLDER (`corpus/fairytales-train.jsonl.gz`), none of which is evaluated. Prints the training
curve, then one line of JSON. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from evidence import DEFAULT_DATA
from lightship.cli.prepare import surroundings
from lightship.compression.recipes import PRESETS
from lightship.ports.measurements import Metric
from lightship.ports.variants import Recipe, RecipeStep
from measured_variants import REFERENCE, MeasuredModel

TARGET = 0.90


def with_tokens(step: RecipeStep, num_tokens: int | None) -> RecipeStep:
    """The step, trained for longer or shorter."""
    if step.kind != "distill" or num_tokens is None:
        return step
    return replace(step, options={**step.options, "num_tokens": num_tokens})


def main() -> int:
    """Prints the curve and the verdict; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="How much a distillation brings back.")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--num-tokens", type=int)
    args = parser.parse_args()
    corpus = args.data / "corpus" / "fairytales-train.jsonl.gz"
    if not corpus.exists():
        print(f"NOT TRIED: {corpus} is not there", file=sys.stderr)
        return 1
    model = MeasuredModel([f"compression.training_text={corpus}"], surroundings())
    steps = tuple(with_tokens(step, args.num_tokens) for step in PRESETS["half-depth"].steps)
    recipes = {
        "source": REFERENCE,
        "pruned": Recipe("half-depth-pruned", tuple(step for step in steps if step.kind != "distill")),
        "distilled": Recipe("half-depth", steps),
    }
    bits = {
        name: model.figures(recipe, with_speed=False)[Metric.BITS_PER_BYTE, 0].value for name, recipe in recipes.items()
    }
    trained = model.variant(Recipe("half-depth-trained", steps[:-1]))
    print((trained.folder / "training_curve.jsonl").read_text("utf-8"), end="", file=sys.stderr)
    recovered = (bits["pruned"] - bits["distilled"]) / (bits["pruned"] - bits["source"])
    minutes = sum(cost.duration_s for cost in model.costs(recipes["distilled"])) / 60
    shown = ", ".join(f"{name} {value:.4f}" for name, value in bits.items())
    line = {
        "number": "3",
        "claim": "half the blocks removed and distilled: share of the lost bits/byte that comes back",
        "figure": f"{recovered:.1%} ({shown} bits/byte, {minutes:.0f} minutes of jobs)",
        "target": f"at least {TARGET:.0%}",
        "is_met": recovered >= TARGET,
    }
    print(json.dumps(line))
    return 0 if recovered >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
