"""Every technique on two small models, each made for real and measured on the engine that serves it; one table.

    python benchmarks/compression_techniques.py [--only PRESET,...] [--model NAME] [--without-speed] [--again] [--write]

`builtin:fairytales` is scored on the built-in held-out tales, `tinystories-656k` (`--data`, or LIGHTSHIP_TEST_DATA) on
a part of the TinyStories sample that it is not calibrated on. Quality is relative to `fp16` on OpenVINO. Toolchains are
installed on first use; everything takes about an hour and a half on two cores. `--write` replaces
docs/compression-techniques.md and .json. Variants that are there already are not made again, nor are figures unless
`--again` says so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from evidence import DEFAULT_DATA, ROOT
from lightship.artifacts.machine import this_machine
from lightship.cli.prepare import Surroundings, surroundings
from lightship.compression.recipes import PRESETS, SUMMARIES, read_recipe
from lightship.errors import LightshipError
from lightship.ports.measurements import Metric
from measured_variants import MeasuredModel

# Settings of an engine that change speed and quality without another variant: (preset, name, overrides).
RUNTIME = (
    ("fp16", "fp16, KV u8", ("engines.openvino.kv_cache_precision=u8",)),
    ("int8", "int8, dynamic activations off", ("engines.openvino.dynamic_quantization_group_size=0",)),
    ("int4", "int4, dynamic activations off", ("engines.openvino.dynamic_quantization_group_size=0",)),
    ("bf16", "bf16, KV fp8", ("engines.vllm.kv_cache_precision=fp8",)),
)
# Techniques without a preset, as a user's own recipes.
OWN = {
    "int4-asym": [{"convert": {"weight_format": "fp16"}}, {"quantize": {"scheme": "int4", "mode": "asym"}}],
    "int4-scale-estimation": [
        {"convert": {"weight_format": "fp16"}},
        {"quantize": {"scheme": "int4", "scale_estimation": True}},
    ],
    "one-kv-group": [
        {"prune": {"kv_groups": 1}},
        {"distill": {"num_tokens": 200_000}},
        {"convert": {"weight_format": "fp16"}},
    ],
    "sparse-unstructured": [{"sparsify": {"pattern": "unstructured", "algorithm": "wanda"}}],
    "upcycle-half-experts": [
        {"moe": {"method": "upcycle", "num_experts": 8, "top_k": 2, "expert_noise": 0.3}},
        {"moe": {"method": "prune-experts", "keep_fraction": 0.5}},
    ],
}
RECIPES = PRESETS | {name: read_recipe(name, steps) for name, steps in OWN.items()}
NOT_HERE = {"as-is", "half-experts"}  # for ready-made networks, and for mixtures of experts
ONLY_BUILTIN = {"quarter-depth", "quarter-depth-int8", "student-draft"}  # need the student that ships with it


@dataclass(frozen=True)
class Row:
    """One line of the table. Figures are None where `refused` says why there are none."""

    model: str
    name: str
    engine: str = ""
    summary: str = ""
    size_bytes: int | None = None
    bits_per_byte: float | None = None
    recovery: float | None = None
    kl_nats: float | None = None
    top1_agreement: float | None = None
    tokens_per_s: dict[str, float] = field(default_factory=dict)
    goodput_at_32: float | None = None
    build_minutes: float | None = None
    build_peak_bytes: int | None = None
    serving_peak_bytes: float | None = None
    draft_speedup_at_32: float | None = None
    draft_agreement: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Subject:
    """A model with the spec it is measured under."""

    name: str
    overrides: tuple[str, ...]


def story_files(data: Path, work: Path) -> tuple[Path, Path]:
    """Stories to score and stories to calibrate on, from the two halves of the sample; no story is in both."""
    with gzip.open(data / "text" / "tinystories_sample.txt.gz", "rt", encoding="utf-8", errors="ignore") as file:
        stories = [story.strip() for story in file.read().split("<|endoftext|>")[1:-1]]
    stories = list(dict.fromkeys(story for story in stories if 300 < len(story) < 1200))
    work.mkdir(parents=True, exist_ok=True)
    paths = work / "stories-scored.jsonl", work / "stories-calibration.jsonl"
    for path, chosen in zip(paths, (stories[:32], stories[400:900]), strict=True):
        path.write_text("".join(json.dumps({"text": story}) + "\n" for story in chosen), encoding="utf-8")
    return paths


def subjects(data: Path, work: Path) -> list[Subject]:
    """The two models; the second only where its files are."""
    corpus = data / "corpus" / "fairytales-train.jsonl.gz"
    trained = (f"compression.training_text={corpus}",) if corpus.exists() else ()
    found = [Subject("fairytales", ("model.source=builtin:fairytales", *trained))]
    folder = data / "models" / "tinystories-656k"
    if folder.is_dir():
        scored, calibration = story_files(data, work)
        texts = (f"quality.text={scored}", f"compression.calibration_text={calibration}")
        found.append(Subject("tinystories", (f"model.source={folder}", "model.name=tinystories", *texts)))
    else:
        print(f"NOT TRIED: tinystories-656k is not in {folder}", file=sys.stderr)
    return found


class Bench:
    """Makes and measures the variants of one model."""

    def __init__(self, subject: Subject, around: Surroundings, *, with_speed: bool, is_forced: bool) -> None:
        self._name = subject.name
        self._with_speed = with_speed
        self._is_forced = is_forced
        # vLLM compiles for minutes otherwise, for each variant
        fixed = (
            "measurement.protocol=screening",
            "measurement.target_concurrency=32",
            "slo.ttft_ms=500",
            "slo.tpot_ms=50",
            "engines.vllm.eager=true",
        )
        self._model = MeasuredModel([*subject.overrides, *fixed], around)

    def row(self, preset: str, name: str, more: tuple[str, ...] = ()) -> Row:
        """The preset made and measured; a refusal or a failure is a line, too."""
        blank = Row(self._name, name, summary=SUMMARIES.get(name, ""))
        recipe = RECIPES[preset]
        try:
            figures = self._model.figures(recipe, more=more, with_speed=self._with_speed, is_forced=self._is_forced)
            variant, costs = self._model.variant(recipe), self._model.costs(recipe)
        except LightshipError as error:
            print(f"{self._name} {name}: {error}", file=sys.stderr)
            return replace(blank, refused=error.what.splitlines()[0])

        def value(metric: Metric, users: int = 0) -> float | None:
            found = figures.get((metric, users))
            return None if found is None else found.value

        return replace(
            blank,
            engine=self._model.target(recipe, more).engine,
            size_bytes=variant.manifest.num_bytes,
            bits_per_byte=value(Metric.BITS_PER_BYTE),
            recovery=value(Metric.QUALITY_RECOVERY),
            kl_nats=value(Metric.KL_NATS),
            top1_agreement=value(Metric.TOP1_AGREEMENT),
            tokens_per_s={str(users): value(Metric.DECODE_TOKENS_PER_S, users) or 0.0 for users in (1, 8, 32)},
            goodput_at_32=value(Metric.GOODPUT_REQUESTS_PER_S, 32),
            build_minutes=sum(cost.duration_s for cost in costs) / 60,
            build_peak_bytes=max((cost.peak_rss_bytes for cost in costs), default=0),
            serving_peak_bytes=value(Metric.PEAK_RSS_BYTES),
            draft_speedup_at_32=value(Metric.DRAFT_SPEEDUP, 32),
            draft_agreement=value(Metric.GREEDY_AGREEMENT, 32),
        )


_INTRODUCTION = """\
# Every technique, measured

Made by `python benchmarks/compression_techniques.py --write` on {date}: {machine}.

Each variant was made by its preset (`lightship recipes show NAME`; some have recipes of the script instead) and
measured on the engine that serves it: bits/byte, KL divergence (nats per token, top 64 and tail) and agreement of the
likeliest token against `fp16` on OpenVINO over held-out texts; output tokens per second of 1, 8 and 32 concurrent
requests of 64 tokens in, 32 out (one run of three seconds each: differences below a tenth are noise; vLLM without
compilation); minutes and peak memory of the jobs that made it; peak memory of the worker that served it. The models
are tiny, so libraries are most of it, and speeds say little of large models: see the 0.5B-shaped model in
[evidence](evidence.md).
"""


def markdown(rows: list[Row]) -> str:
    """The page: a table for each model, then what was refused."""
    date, machine = f"{datetime.now(UTC):%Y-%m-%d}", this_machine().description
    lines = [_INTRODUCTION.format(date=date, machine=machine)]
    for model in dict.fromkeys(row.model for row in rows):
        lines += [f"## {model}", "", _HEADER, _RULE]
        lines += [_line(row) for row in rows if row.model == model and not row.refused]
        of_model = [row for row in rows if row.model == model]
        lines += ["", *map(_draft_line, (row for row in of_model if row.draft_speedup_at_32 is not None))]
        lines += [*_refusals(row for row in of_model if row.refused), ""]
    return "\n".join(lines).rstrip() + "\n"


def _draft_line(row: Row) -> str:
    return (
        f"- `{row.name}`: {row.draft_speedup_at_32:.2f} times the speed without its draft at 32 requests at once; "
        f"{row.draft_agreement:.0%} of greedy completions are the same (computed in 16 bits)."
    )


def _refusals(rows: Iterable[Row]) -> list[str]:
    """A line for each reason, with all that it refuses."""
    named: dict[str, list[str]] = {}
    for row in rows:
        named.setdefault(row.refused.partition(" cannot be served here: ")[2] or row.refused, []).append(row.name)
    return [f"- {', '.join(f'`{name}`' for name in names)}: {reason}." for reason, names in named.items()]


_HEADER = "| variant | engine | MB | bits/byte | KL | top-1 | tokens/s 1 | 8 | 32 | minutes | job GB | worker GB |"
_RULE = "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"


def _line(row: Row) -> str:
    speeds = [_number(row.tokens_per_s[users] or None, ",.0f") for users in ("1", "8", "32")]  # 0: not measured
    cells = [
        row.name,
        row.engine,
        f"{(row.size_bytes or 0) / 1e6:.2f}",
        _number(row.bits_per_byte, ".4f"),
        _number(row.kl_nats, ".4f"),
        _number(row.top1_agreement, ".3f"),
        *speeds,
        _number(row.build_minutes, ".1f"),
        _number((row.build_peak_bytes or 0) / 1e9, ".2f"),
        _number((row.serving_peak_bytes or 0) / 1e9, ".2f"),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def merged(old: Mapping[tuple[str, str], Row], new: Iterable[Row], order: list[str]) -> list[Row]:
    """Old lines with the new ones in their place, in the order of the presets."""
    rows = {**old, **{(row.model, row.name): row for row in new}}
    position = {name: index for index, name in enumerate(order)}
    models = list(dict.fromkeys(model for model, _ in rows))
    return sorted(rows.values(), key=lambda row: (models.index(row.model), position.get(row.name, len(order))))


def main() -> int:
    """Prints the table as it grows; 0."""
    parser = argparse.ArgumentParser(description="Measure every compression technique.")
    parser.add_argument("--only", default="", help="presets, comma-separated")
    parser.add_argument("--model", choices=["fairytales", "tinystories"])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument(
        "--without-speed", action="store_true", help="only quality, which a busy machine does not change"
    )
    parser.add_argument("--again", action="store_true", help="measure also what has figures")
    parser.add_argument("--write", action="store_true", help="replace docs/compression-techniques.md and .json")
    args = parser.parse_args()
    around = surroundings()
    wanted = [name for name in args.only.split(",") if name]
    order = [*RECIPES, *(name for _, name, _ in RUNTIME)]
    path = ROOT / "docs" / "compression-techniques.json"
    old = {(row["model"], row["name"]): Row(**row) for row in json.loads(path.read_text())} if path.exists() else {}
    new: list[Row] = []
    print(_HEADER, _RULE, sep="\n")
    for subject in subjects(args.data, around.home / "work" / "techniques"):
        if args.model not in {None, subject.name}:
            continue
        bench = Bench(subject, around, with_speed=not args.without_speed, is_forced=args.again)
        jobs = [(name, name, ()) for name in RECIPES] + list(RUNTIME)
        for preset, name, overrides in jobs:
            skipped = preset in NOT_HERE or (subject.name != "fairytales" and preset in ONLY_BUILTIN)
            if skipped or (wanted and name not in wanted and preset not in wanted):
                continue
            row = bench.row(preset, name, tuple(overrides))
            print(_line(row) if not row.refused else f"| {name} | refused: {row.refused} |", flush=True)
            new.append(row)
            if args.write:
                rows = merged(old, new, order)
                path.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n", encoding="utf-8")
                path.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
