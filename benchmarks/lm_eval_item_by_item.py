"""lm-evaluation-harness on its own torch backend and through our adapter, item by item; exit 1 where they differ.

    python benchmarks/lm_eval_item_by_item.py [--data FOLDER] [--items 200] [--json FILE]

A checkpoint made elsewhere is converted and served by a worker in f32; the same checkpoint is loaded by
the harness's `hf` backend in float32. Both run the same tasks from local files: two multiple-choice sets (acc,
acc_norm), the last word of a passage and a fixed phrase (loglikelihood), whole documents (rolling
log-likelihood) and short greedy continuations. The checkpoint's tokenizer joins words into one token, so nearly every
choice is split differently with and without its context: a hard case for the rule that says which tokens are the
choice's.

`--data` (or LIGHTSHIP_TEST_DATA) holds `models/tinystories-656k`, `eval/` and `text/`. The harness and torch live in an
environment of their own, made on first use (`--environment`; or give one with `--python`).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_environment import DEFAULT_FOLDER, ROOT, ensure_environment

REQUIREMENTS = ("transformers==5.5.4", "accelerate>=1,<2", "lm-eval==0.4.13", "aiohttp>=3.12,<4", "msgspec>=0.19,<1")
MODEL = "stories"
# Nats between the two sides' log-likelihoods of one item: both sum float32 logits, in another order.
TOLERANCE_NATS = 2e-3
CONTEXT_LENGTH = 512
NUM_PASSAGES = 20

CHOICES_YAML = """
output_type: multiple_choice
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TASKS = {
    "arc_easy_local": 'doc_to_text: "Question: {{question}}\\nAnswer:"' + CHOICES_YAML,
    "hellaswag_local": 'doc_to_text: "{{question}}"' + CHOICES_YAML,
    "lambada_local": """
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{target}}"
target_delimiter: "\\n"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "fixed_phrase_local": """
output_type: loglikelihood
doc_to_text: "{{beginning}}"
doc_to_target: "e, there was a "
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "passages_local": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte}
""",
    "continuation_local": """
output_type: generate_until
doc_to_text: "{{opening}}"
doc_to_target: "{{opening}}"
# this model spells its end-of-text token out, and the harness's own backend stops at that text without being asked
generation_kwargs: {until: [".", "<|end_story|>"], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


@dataclass(frozen=True)
class Agreement:
    """One task on both sides. `max_difference` is in nats; None where the answers are texts."""

    task: str
    num_items: int
    num_equal: dict[str, int]
    max_difference: float | None
    figures: dict[str, tuple[float, float]]

    @property
    def is_good(self) -> bool:
        """Every prediction equal and every log-likelihood within the tolerance."""
        is_close = self.max_difference is None or self.max_difference <= TOLERANCE_NATS
        return is_close and all(count == self.num_items for count in self.num_equal.values())

    def line(self) -> str:
        """The agreement for people."""
        counts = [f"{name} {count}/{self.num_items} equal" for name, count in self.num_equal.items()]
        equal = ", ".join(counts or [f"{self.num_items} items"])
        both = ", ".join(f"{name} {hf:.6g} | {ours:.6g}" for name, (hf, ours) in self.figures.items())
        distance = "" if self.max_difference is None else f"; max |delta ll| {self.max_difference:.1e} nats"
        return f"{'ok  ' if self.is_good else 'MISS'} {self.task}: {equal}{distance}; hf | adapter: {both}"


def jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a file, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def write_tasks(data: Path, folder: Path, *, num_items: int) -> None:
    """The tasks' definitions and items."""
    sample = gzip.decompress((data / "text" / "tinystories_sample.txt.gz").read_bytes()).decode("utf-8", "ignore")
    stories = [story.strip() for story in sample.split("<|endoftext|>")[1:] if story.strip()]
    # the longest ones, and two of them in a row, so that most need more than one window
    passages = [f"{first}\n\n{second}" for first, second in zip(stories[::2], stories[1::2], strict=False)]
    items = {
        "arc_easy_local": jsonl(data / "eval" / "arc_easy_test.jsonl.gz")[:num_items],
        "hellaswag_local": jsonl(data / "eval" / "hellaswag_sample1000.jsonl.gz")[:num_items],
        "lambada_local": jsonl(data / "eval" / "lambada.jsonl.gz")[:num_items],
        # likely enough that it is the model's first choice for about half of them
        "fixed_phrase_local": [
            {"beginning": f"{story.split('.')[0]}.\nOnce upon a tim"} for story in stories[:num_items]
        ],
        "passages_local": [{"text": text} for text in sorted(passages, key=len)[-NUM_PASSAGES:]],
        "continuation_local": [{"opening": " ".join(story.split()[:8])} for story in stories[:num_items]],
    }
    for name, definition in TASKS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items[name]), encoding="utf-8")
        head = f"task: {name}\ndataset_path: json\ntest_split: test\nmetadata: {{version: 1.0}}\n"
        files = f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(path))}}}}}\n"
        (folder / f"{name}.yaml").write_text(head + files + definition, encoding="utf-8")


async def run_sides(python: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What both sides return, one after the other."""
    from served_worker import served_worker  # not at the top: the harness's environment has no engine

    spec = {
        "model": {"name": MODEL, "source": str(checkpoint)},
        "variants": ["fp32"],
        "engines": {"openvino": {"precision": "f32", "kv_cache_precision": "f32"}},
    }
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"), "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    sides: dict[str, Any] = {}
    async with served_worker(spec) as base_url:
        for side in ("hf", "adapter"):
            output = folder / f"{side}.json"
            command = [python, __file__, "--side", side, str(checkpoint), base_url, str(folder), str(output)]
            await asyncio.to_thread(subprocess.run, command, check=True, env=environment, stdout=sys.stderr)
            sides[side] = json.loads(output.read_text("utf-8"))
    return sides


def run_harness(side: str, checkpoint: str, base_url: str, tasks: str, output: str) -> None:
    """One side, in the harness's environment: writes what the harness returns."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    if side == "hf":
        from lm_eval.models.huggingface import HFLM

        model: Any = HFLM(
            pretrained=checkpoint, dtype="float32", device="cpu", batch_size=8, add_bos_token=True,
            max_length=CONTEXT_LENGTH - 1,  # it counts inputs, of which the last scored token is none
        )  # fmt: skip
    else:
        from lightship.evaluation.harness.adapter import lightship_lm

        model = lightship_lm(base_url, model=MODEL, truncate_context=True)
    results = lm_eval.simple_evaluate(
        model=model, tasks=list(TASKS), task_manager=TaskManager(include_path=tasks, include_defaults=False),
        log_samples=True, bootstrap_iters=0,
    )  # fmt: skip
    kept = {name: results[name] for name in ("results", "samples")}
    Path(output).write_text(json.dumps(kept, default=str), encoding="utf-8")


def compare(task: str, hf: dict[str, Any], ours: dict[str, Any]) -> Agreement:
    """Both sides of a task, item by item."""
    pairs = list(zip(hf["samples"][task], ours["samples"][task], strict=True))
    for one, other in pairs:
        if any(one[key] != other[key] for key in ("doc_hash", "prompt_hash", "target_hash")):
            raise AssertionError(f"{task}: the two sides were asked different things")
    metrics = pairs[0][0]["metrics"]
    is_text = isinstance(pairs[0][0]["filtered_resps"][0], str)
    names = [] if task.startswith("passages") else metrics
    num_equal = {name: sum(one[name] == other[name] for one, other in pairs) for name in names}
    if is_text:
        texts = [(one["filtered_resps"][0].strip(), other["filtered_resps"][0].strip()) for one, other in pairs]
        num_equal["text"] = sum(one == other for one, other in texts)
        for one, other in texts:
            if one != other:
                print(f"     {task} differs: hf {one!r} | adapter {other!r}")
    elif not task.startswith("passages"):
        num_equal["is_greedy"] = sum(
            all(a[1] == b[1] for a, b in zip(one["filtered_resps"], other["filtered_resps"], strict=True))
            for one, other in pairs
        )
    difference = None if is_text else max(map(_largest_difference, pairs))
    figures = {name: (hf["results"][task][f"{name},none"], ours["results"][task][f"{name},none"]) for name in metrics}
    return Agreement(task, len(pairs), num_equal, difference, figures)


def _largest_difference(pair: tuple[dict[str, Any], dict[str, Any]]) -> float:
    one, other = ([r[0] if isinstance(r, list) else r for r in side["filtered_resps"]] for side in pair)
    differences = [abs(float(a) - float(b)) for a, b in zip(one, other, strict=True)]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def main() -> int:
    """Prints one line per task; 1 if the sides differ anywhere."""
    parser = argparse.ArgumentParser(description="The harness's own backend and our adapter, item by item.")
    default = os.environ.get("LIGHTSHIP_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--items", type=int, default=200, help="items per task")
    parser.add_argument("--environment", type=Path, default=DEFAULT_FOLDER / "lm-eval")
    parser.add_argument("--python", help="interpreter that has the harness and torch; nothing is installed then")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_harness(*args.side)
        return 0
    checkpoint = args.data / "models" / "tinystories-656k"
    if not checkpoint.is_dir():
        print(f"NOT TRIED: {checkpoint} is not there")
        return 0
    python = args.python or str(ensure_environment(args.environment, REQUIREMENTS))
    with tempfile.TemporaryDirectory() as temporary:
        write_tasks(args.data, Path(temporary), num_items=args.items)
        sides = asyncio.run(run_sides(python, checkpoint, Path(temporary)))
    agreements = [compare(task, sides["hf"], sides["adapter"]) for task in TASKS]
    for agreement in agreements:
        print(agreement.line())
    if args.json:
        args.json.write_text(json.dumps([vars(agreement) for agreement in agreements], indent=2) + "\n", "utf-8")
    return 0 if all(agreement.is_good for agreement in agreements) else 1


if __name__ == "__main__":
    sys.exit(main())
