"""Re-runs every claim of the topic "compression" in docs/evidence.md: figures beside targets; 1 if one falls short.

    python benchmarks/evidence_compression.py [--only 3,4] [--data FOLDER]

Line 1 makes and measures every technique (an hour or two); lines 1b to 2 are read from what it wrote. Line 3 distils
for half an hour. Toolchains are installed on first use (ten gigabytes, and llama.cpp is compiled). Wants an idle
machine of two cores or more. Lines that need data made elsewhere (`--data`, or LIGHTSHIP_TEST_DATA) say so when it is
not there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evidence import DEFAULT_DATA, ROOT, Line, run_topic

BENCHMARKS = Path(__file__).resolve().parent
TABLE = ROOT / "docs" / "compression-techniques.json"
# (calibrated, round to nearest) of the same size on the same engine
FOUR_BITS = (("int4-calibrated", "int4"), ("w4a16", "w4a16-rtn"), ("q4_k_m-imatrix", "q4_k_m"))
# what must answer on each engine
SERVED = {
    "vllm": ("w8a8", "w4a16", "half-depth-checkpoint", "carve-moe"),
    "openvino": ("int8", "int4-calibrated", "int8-activations", "half-depth"),
    "llamacpp": ("q8_0", "q4_k_m-imatrix"),
}


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A benchmark of this folder, its progress on our standard error."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options], stdout=subprocess.PIPE, text=True, check=False
    )


def rows() -> dict[tuple[str, str], dict[str, Any]]:
    """Lines of the table by model and variant."""
    if not TABLE.exists():
        return {}
    return {(row["model"], row["name"]): row for row in json.loads(TABLE.read_text("utf-8"))}


def table(data: Path) -> Iterator[Line]:
    """1: the table, made anew; then what it must show."""
    result = run("compression_techniques.py", "--write", "--data", str(data))
    found = rows()
    failed = [f"{model} {name}" for (model, name), row in found.items() if row["refused"]]
    figure = f"{len(found) - len(failed)} of {len(found)} lines measured; refused: {', '.join(failed) or 'none'}"
    is_made = result.returncode == 0 and len(found) > len(failed)
    yield Line("1a", "every technique on both models", figure, "a table", is_made)
    yield from table_lines(found)


def table_lines(found: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Line]:
    """What the table says of rounding to 8 and 4 bits."""
    for model in dict.fromkeys(model for model, _ in found):
        bits = {name: row["bits_per_byte"] for (of, name), row in found.items() if of == model and not row["refused"]}
        if {"int8", "fp16"} <= bits.keys():
            lost = bits["int8"] - bits["fp16"]
            yield Line("1b", f"{model}: int8, bits/byte over fp16", f"{lost:+.5f}", "at most 0.002", lost <= 0.002)
        for calibrated, plain in FOUR_BITS:
            if {calibrated, plain} <= bits.keys():
                figure = f"{bits[calibrated]:.4f} against {bits[plain]:.4f}"
                is_met = bits[calibrated] < bits[plain]
                yield Line("1c", f"{model}: {calibrated} against {plain}, bits/byte", figure, "lower", is_met)


def served(data: Path) -> Iterator[Line]:
    """2: what loaded and answered, with its quality from there."""
    del data
    found = rows()
    for engine, names in SERVED.items():
        for name in names:
            row = found.get(("fairytales", name))
            is_met = row is not None and not row["refused"] and row["engine"] == engine and row["bits_per_byte"] > 0
            figure = (
                f"{row['bits_per_byte']:.4f} bits/byte, {row['tokens_per_s']['32']:,.0f} tokens/s"
                if is_met and row
                else "no"
            )
            yield Line("2", f"{name} on {engine}", figure, "answers", is_met)


def from_json(script: str, *options: str) -> Iterator[Line]:
    """Lines of a benchmark that prints them as JSON."""
    result = run(script, *options)
    printed = [line for line in result.stdout.splitlines() if line.startswith("{")]
    for line in printed:
        one = json.loads(line)
        yield Line(one["number"], one["claim"], one["figure"], one["target"], one["is_met"])
    if not printed:
        yield Line("?", script, f"ended with {result.returncode} and printed nothing", "figures", False)


def main() -> int:
    """Runs the chosen lines."""
    parser = argparse.ArgumentParser(description="Re-run the claims about compression.")
    parser.add_argument("--only", default="1,2,3,4,5,6", help="lines, comma-separated")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    steps = {
        "1": lambda: table(args.data),
        "2": lambda: served(args.data),
        "3": lambda: from_json("half_depth.py", "--data", str(args.data)),
        "4": lambda: from_json("compressed_speed.py"),
        "5": lambda: from_json("search_volume.py"),
        "6": lambda: from_json("conflicting_toolchains.py"),
    }
    return run_topic(steps, args.only)


if __name__ == "__main__":
    sys.exit(main())
