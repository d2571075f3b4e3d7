"""The built-in model carved into experts: what is lost with fewer active channels, and what training returns.

    python benchmarks/carved_experts.py [--data FOLDER] [--num-tokens N]

Bits/byte on the built-in held-out tales, on OpenVINO, for 75, 50 and 25 % of the channels active; as carved, and after
a short distillation on the public-domain corpus in FOLDER (`corpus/fairytales-train.jsonl.gz`), none of which is
evaluated. Prints one line of JSON for each size. A quarter of an hour on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evidence import DEFAULT_DATA
from lightship.cli.prepare import surroundings
from lightship.ports.measurements import Metric
from lightship.ports.variants import Recipe, RecipeStep
from measured_variants import REFERENCE, MeasuredModel

# Shared and chosen parts of eight.
SIZES = ((3, 3), (2, 2), (1, 1))
NUM_EXPERTS = 8
# As in the preset `carve-moe`.
LEARNING_RATE = 5e-4
CONVERT = RecipeStep("convert", {"weight_format": "fp16"})


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="What carving loses and training returns.")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--num-tokens", type=int, default=200_000)
    args = parser.parse_args()
    corpus = args.data / "corpus" / "fairytales-train.jsonl.gz"
    if not corpus.exists():
        print(f"NOT TRIED: {corpus} is not there", file=sys.stderr)
        return 1
    model = MeasuredModel([f"compression.training_text={corpus}"], surroundings())

    def bits_per_byte(recipe: Recipe) -> float:
        return float(model.figures(recipe, with_speed=False)[Metric.BITS_PER_BYTE, 0].value)

    dense = bits_per_byte(REFERENCE)
    distill = RecipeStep("distill", {"num_tokens": args.num_tokens, "learning_rate": LEARNING_RATE})
    for num_shared, top_k in SIZES:
        sizes = {"num_experts": NUM_EXPERTS, "num_shared": num_shared, "top_k": top_k}
        carve = RecipeStep("moe", {"method": "carve", **sizes})
        name = f"S{num_shared}A{top_k}E{NUM_EXPERTS}"
        carved = bits_per_byte(Recipe(name, (carve, CONVERT)))
        trained = bits_per_byte(Recipe(f"{name}-distilled", (carve, distill, CONVERT)))
        line = {
            "sizes": name,
            "active_channels": (num_shared + top_k) / NUM_EXPERTS,
            "bits_per_byte": {"dense": dense, "carved": carved, "distilled": trained},
            "num_tokens": args.num_tokens,
            "recovered": (carved - trained) / (carved - dense),
        }
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
