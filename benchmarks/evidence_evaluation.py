"""Re-runs every claim of the topic "evaluation" in docs/evidence.md: figures beside targets; exit 1 if one falls short.

    python benchmarks/evidence_evaluation.py [--only 1,4] [--data FOLDER]

Lines 1, 4 and 5 need a checkpoint, texts and traces made elsewhere (`--data`, or LIGHTSHIP_TEST_DATA) and say so when
they are not there. Lines 1 and 3 install peers into environments of their own (build/peers, minutes on first use). Run
it on an idle machine: lines 3, 5 and 6 measure speed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from damaged_checkpoint import damage
from evidence import DEFAULT_DATA, ROOT, Line, pytest, run_topic
from lightship.artifacts.home import data_home
from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.cli.progress import progress_for_stderr
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.compression.toolchains.environment import ToolchainFolder
from story_cloze import make_items, write_items, write_task

BENCHMARKS = Path(__file__).resolve().parent
NUM_STORIES = 20
NUM_CHOICE_ITEMS = 300
# For a margin of two points at 5 % disagreement, 5 % one-sided and 80 % power: 773.
NUM_GATE_ITEMS = 800
TOO_FEW_ITEMS = 30
GATES = """\
version: 1
tasks: [next-sentence.yaml]
gates:
  - {task: next-sentence, metric: acc_norm, margin: 0.02, expected_disagreement: 0.05}
  - {figure: quality_recovery, at_least: 0.97}
  - {figure: kl_nats_per_token, at_most: 0.05}
"""


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`lightship evaluate` in `folder`; exit codes 0, 1 and 2 are answers, every other one ends the script."""
    command = [sys.executable, "-m", "lightship", "evaluate", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode not in {0, 1, 2} or "error " in result.stderr:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    return result


def record_of(path: Path) -> Any:
    """The record in a file."""
    return json.loads(path.read_text())["record"]


def value_of(record: Any, metric: str) -> float:
    """One figure of a record."""
    return float(next(one["value"] for one in record["measurements"] if one["metric"] == metric))


def same_as_transformers(data: Path) -> Iterator[Line]:
    """Perplexity, choices and divergence of a checkpoint made elsewhere, served, against plain transformers."""
    checkpoint, sample = data / "models" / "tinystories-656k", data / "text" / "tinystories_sample.txt.gz"
    if not checkpoint.is_dir() or not sample.is_file():
        yield Line("1a", "quality against plain transformers", f"NOT TRIED: {data} has no such files", "1e-3", None)
        return
    parts = gzip.decompress(sample.read_bytes()).decode("utf-8", errors="ignore").split("<|endoftext|>")
    stories = [story.strip() for story in parts[1:] if story.strip()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rounded = damage(checkpoint, folder / "rounded", "round=5")
        texts, others = stories[:NUM_STORIES], stories[NUM_STORIES:]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        items = make_items([(str(n), text) for n, text in enumerate(others)], num_items=NUM_CHOICE_ITEMS, seed=0)
        write_items(items, folder)
        for name, source in (("a", checkpoint), ("b", rounded)):
            spec = {
                "model": {"name": "stories", "source": str(source)},
                "engines": {"openvino": {"precision": "f32", "kv_cache_precision": "f32"}},
                "quality": {"text": "texts.jsonl"},
            }
            (folder / f"{name}.yaml").write_text(json.dumps(spec))
        common = ("--text", "--task", "next-sentence.yaml")
        evaluate(folder, "fp32", "-f", "a.yaml", "-o", "a.json", *common)
        evaluate(folder, "fp32", "-f", "b.yaml", "-o", "b.json", "--baseline", "a.json", *common)
        ours, rounded_ours = record_of(folder / "a.json"), record_of(folder / "b.json")
        oracle = transformers_figures(checkpoint, None, folder, texts, items)
        rounded_oracle = transformers_figures(checkpoint, rounded, folder, texts, items)
    total, rounded_total = oracle["texts"]["total"], rounded_oracle["texts"]["total"]
    yield relative("1a", "perplexity through the endpoint", value_of(ours, "perplexity"), total["perplexity"])
    theirs = rounded_total["kl_top_k_nats"]
    whole = f"; whole vocabulary {rounded_total['kl_nats']:.6f}"
    yield relative(
        "1b", "KL of a rounded copy, top 64 and tail", value_of(rounded_ours, "kl_nats_per_token"), theirs, whole
    )
    for number, record, figures in (("1c", ours, oracle), ("1d", rounded_ours, rounded_oracle)):
        yield choices_line(number, record, figures, items)


def relative(number: str, claim: str, ours: float, theirs: float, more: str = "") -> Line:
    """Two figures that must agree to a thousandth."""
    difference = abs(ours - theirs) / abs(theirs)
    figure = f"{ours:.6f} against {theirs:.6f}: {difference:.1e} relative{more}"
    return Line(number, f"{claim}, against plain transformers", figure, "<= 1e-3", difference <= 1e-3)


def choices_line(number: str, record: Any, oracle: Any, items: list[dict[str, Any]]) -> Line:
    """The same items right, for both metrics."""
    run = record["tasks"][0]
    differing, accuracies = 0, []
    for metric in ("acc", "acc_norm"):
        ours = [item["scores"][metric] for item in run["items"]]
        predicted = [choice[f"{metric}_index_whole"] for choice in oracle["choices"]]
        theirs = [float(found == item["answer"]) for found, item in zip(predicted, items, strict=True)]
        differing += sum(one != other for one, other in zip(ours, theirs, strict=True))
        accuracies.append(f"{metric} {sum(ours) / len(ours):.4f} against {sum(theirs) / len(theirs):.4f}")
    name = "the rounded copy" if number == "1d" else "the checkpoint"
    figure = f"{', '.join(accuracies)}; {differing} of {2 * len(items)} item scores differ"
    return Line(number, f"choices by {name}, against plain transformers", figure, "0 differ", differing == 0)


def transformers_figures(
    reference: Path, candidate: Path | None, folder: Path, texts: list[str], items: list[dict[str, Any]]
) -> Any:
    """The figures by plain transformers in float32, in the toolchain that has it."""
    toolchains = ToolchainFolder(data_home(os.environ) / "toolchains")
    python = toolchains.ensure(OPENVINO_CONVERT, progress_for_stderr()).python
    (folder / "texts.json").write_text(json.dumps(texts))
    choices = [{"prompt": one["passage"], "choices": one["endings"], "answer": one["answer"]} for one in items]
    (folder / "choices.json").write_text(json.dumps(choices))
    checkpoints = [str(reference)] if candidate is None else [str(reference), str(candidate)]
    command = [str(python), "-I", "-W", "ignore", str(BENCHMARKS / "reference_quality.py"), *checkpoints]
    command += ["--texts", str(folder / "texts.json"), "--choices", str(folder / "choices.json")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def same_as_lm_eval(data: Path) -> Iterator[Line]:
    """The adapter against lm-eval's own torch backend."""
    yield from from_script(
        "1e", "lm-eval through our adapter, item by item", "all equal", "lm_eval_item_by_item.py", "--data", data
    )


def from_script(number: str, claim: str, target: str, script: str, *options: object) -> Iterator[Line]:
    """A line of a benchmark that prints its own figures and ends with 1 where it falls short."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.strip().splitlines() if line.strip()]
    figure = " | ".join(lines[-6:]) if lines else result.stderr[-300:]
    yield Line(number, claim, figure, target, result.returncode == 0)


def statistics() -> Iterator[Line]:
    """Every interval and test against scipy, statsmodels and published figures; coverage by simulation."""
    result = pytest("tests/unit/evaluation/statistics")
    summary = result.stdout.strip().splitlines()[-1]
    yield Line("2a", "statistics against scipy, statsmodels, tables", summary, "pass", result.returncode == 0)
    command = [sys.executable, str(BENCHMARKS / "interval_coverage.py"), "--json"]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    coverages = json.loads(output.stdout)["coverages"]
    lowest: dict[str, float] = {}
    for one in coverages:
        lowest[one["kind"]] = min(lowest.get(one["kind"], 1.0), one["covered"])
    figure = ", ".join(f"{kind} {covered:.1%}" for kind, covered in lowest.items())
    claim = "lowest coverage of each interval of level 90 %, 4,000 studies a scenario"
    yield Line("2b", claim, figure, "none short", output.returncode == 0)


def beside_guidellm() -> Iterator[Line]:
    """Our load client's medians beside GuideLLM's, where only the clients differ and on a real engine."""
    claim, script = "TTFT and TPOT medians beside GuideLLM", "guidellm_side_by_side.py"
    yield from from_script("3a", f"{claim}, simulated server", "within 5 %", script)
    yield from from_script("3b", f"{claim}, built-in model", "within 5 %", script, "--server", "builtin")


def gates(data: Path) -> Iterator[Line]:
    """A damaged variant fails, a harmless one passes, a set that is too small decides nothing."""
    tales = data / "corpus" / "fairytales-test.jsonl.gz"
    if not tales.is_file():
        yield Line("4", "gates", f"NOT TRIED: {tales} is not there", "0, 1, 1, 2", None)
        return
    source = builtin_checkpoint("fairytales")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_task(tales, folder, num_items=NUM_GATE_ITEMS, seed=0)
        (folder / "gates.yaml").write_text(GATES)
        specs = {"zero": "zero-layer=3", "int2": "round=2"}
        for name, kind in specs.items():
            damaged = damage(source, folder / name, kind)
            (folder / f"{name}.yaml").write_text(json.dumps({"model": {"name": name, "source": str(damaged)}}))
        evaluate(folder, "fp16", "--text", "--task", "next-sentence.yaml", "-o", "fp16.json")
        against = ("--baseline", "fp16.json", "--gate", "gates.yaml")
        cases = (
            ("4a", "int8, harmless", 0, ("int8",)),
            ("4b", "one layer zeroed", 1, ("fp16", "-f", "zero.yaml")),
            ("4c", "rounded to 2 bits", 1, ("fp16", "-f", "int2.yaml")),
        )
        for number, claim, code, arguments in cases:
            yield gate_line(number, claim, code, evaluate(folder, *arguments, *against, "--json"))
        # the baseline again, so that both sides have the same few items
        few = ("--limit", str(TOO_FEW_ITEMS))
        result = evaluate(folder, "int8", "--baseline", "fp16", "--gate", "gates.yaml", *few, "--json")
        yield gate_line("4d", f"int8 on {TOO_FEW_ITEMS} items, too few", 2, result)


def gate_line(number: str, claim: str, code: int, result: subprocess.CompletedProcess[str]) -> Line:
    """The verdict of one candidate, with what its task gate found."""
    report = json.loads(result.stdout)["gates"]
    found = "; ".join(f"{one['name']} {one['verdict']}" for one in report["gates"])
    sentence = report["gates"][0]["sentence"]
    verdicts = {0: "pass", 1: "fail", 2: "undecided"}
    figure = f"{report['verdict']} ({found}) - {sentence}"
    return Line(number, f"gate: {claim}", figure, verdicts[code], result.returncode == code)


def main() -> int:
    """Runs the chosen lines; 1 if one falls short."""
    parser = argparse.ArgumentParser(description="Evidence: numbers a release can be gated on.")
    parser.add_argument("--only", default="1,1e,2,3,4,5,6", help="numbers of the lines to run")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    data: Path = args.data.resolve()
    steps = {
        "1": lambda: same_as_transformers(data),
        "1e": lambda: same_as_lm_eval(data),
        "2": statistics,
        "3": beside_guidellm,
        "4": lambda: gates(data),
        "5": lambda: from_script(
            "5", "goodput that the fitted simulation predicts", "within 15 %", "simulated_prediction.py", "--data", data
        ),
        "6": lambda: from_script(
            "6", "2,000 streams from one core", "client not the bottleneck", "load_client_capacity.py"
        ),
    }
    return run_topic(steps, args.only)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
