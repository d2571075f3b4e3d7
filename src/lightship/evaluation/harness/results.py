"""Reads what lm-evaluation-harness wrote, so that two of its runs can be compared item by item.

    results_<date>.json            figures, task configurations, versions
    samples_<task>_<date>.jsonl    one line per item and filter; only written with `--log_samples`

A run becomes a `TaskRun`: items carry the harness's own hashes of document, prompt and right answer, and every metric
that is a number from 0 to 1 per item. Metrics that are not (perplexities, corpus scores) have no per-item value to pair
and are left out; they stay readable in the file. A metric is named as in the harness, `exact_match,strict-match`, but
without the filter where it is `none`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.results import EXCERPT_CHARS, ItemResult, TaskRun

# A run over all of MMLU with few-shot prompts is about 200 MB of samples.
MAX_FILE_BYTES = 2 * 2**30
NO_FILTER = "none"
# Of the harness's record of a task, what cannot change a score: where the items lie, and arguments of the model.
_CONFIG_WITHOUT_EFFECT = frozenset({"metadata", "dataset_kwargs", "dataset_path", "dataset_name", "task_alias", "tag"})
_SHARED_WITH_EFFECT = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn")
# Metrics that are right or wrong per item; a graded one that happens to be 0 or 1 everywhere in one run stays graded.
_BINARY = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "pass@1"})
# Largest difference of a mean from the figure in the results file: the harness adds the same numbers in its own way.
_MEAN_TOLERANCE = 1e-9
_NO_SAMPLES_HINT = (
    "Only aggregate results are there, so a paired comparison is impossible: run the harness with --log_samples and "
    "--output_path (or log_samples=True)."
)


@dataclass(frozen=True)
class HarnessTask:
    """The aggregate figures of one task; `figures` maps `metric,filter` to values, standard errors left out."""

    task: str
    version: str
    num_items: int | None
    figures: dict[str, float]


@dataclass(frozen=True)
class HarnessResults:
    """One results file. `model` is the harness's name for what was evaluated."""

    path: Path
    model: str
    harness_version: str
    tasks: dict[str, HarnessTask]


def read_harness_results(path: Path) -> HarnessResults:
    """The aggregate figures of a results file, or of the only one in a folder.

    Raises: MeasurementError: it cannot be read, is something else, or has no figures.
    """
    file, content = _read_results(path)
    return HarnessResults(
        path=file,
        model=str(content.model_name or content.config.get("model", "")),
        harness_version=content.lm_eval_version,
        tasks={name: _task(name, content) for name in content.results},
    )


def read_harness_runs(path: Path, *, tasks: tuple[str, ...] = (), cluster_field: str = "") -> tuple[TaskRun, ...]:
    """The tasks of a run with their items, ready to be paired with another run's.

    Args:
        path: A results file, or the folder that holds one; the samples lie beside it, or inside it.
        tasks: Which tasks; all that were evaluated where empty.
        cluster_field: Field of the documents that names what belongs together (a passage, a conversation).

    Raises: MeasurementError: a file is missing, damaged or incomplete, or samples and figures do not belong together;
        names file and line.
    """
    file, content = _read_results(path)
    names = tasks or tuple(name for name in content.results if name in content.n_samples)
    for name in names:
        if name not in content.results:
            raise MeasurementError(
                f"there are no results of the task {name!r}", where=str(file), hint=f"There are: {_list(content)}."
            )
    return tuple(_run(name, file, content, cluster_field=cluster_field) for name in names)


class _SampleCount(msgspec.Struct):
    effective: int
    original: int | None = None


class _Results(msgspec.Struct):
    results: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    n_shot: dict[str, int] = msgspec.field(default={}, name="n-shot")
    n_samples: dict[str, _SampleCount] = msgspec.field(default={}, name="n-samples")
    samples: dict[str, list[Any]] | None = None
    config: dict[str, Any] = {}
    lm_eval_version: str = ""
    model_name: str | None = None
    system_instruction_sha: str | None = None
    chat_template_sha: str | None = None
    fewshot_as_multiturn: bool | None = None


class _Sample(msgspec.Struct):
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    metrics: list[str]
    target: Any = ""
    doc: Any = None
    arguments: Any = None
    filtered_resps: Any = None
    filter: str = NO_FILTER


@dataclass(frozen=True)
class _Row:
    """One line of samples and the numbers in it."""

    sample: _Sample
    values: dict[str, Any]
    where: str


def _read_results(path: Path) -> tuple[Path, _Results]:
    file = _results_file(path) if path.is_dir() else path
    try:
        results = msgspec.convert(_plain(_read(file)), _Results)
    except (ValueError, RecursionError) as error:
        raise MeasurementError(
            f"not a results file of lm-evaluation-harness: {error}",
            where=str(file),
            hint="Give the file results_<date>.json, or its folder.",
        ) from error
    if not results.results:
        raise MeasurementError("the file has no results", where=str(file))
    return file, results


def _results_file(folder: Path) -> Path:
    found = sorted(folder.glob("results_*.json")) or sorted(folder.glob("*/results_*.json"))
    if len(found) != 1:
        what = "no results_*.json" if not found else f"{len(found)} results files"
        raise MeasurementError(f"the folder has {what}", where=str(folder), hint="Name the file itself.")
    return found[0]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MeasurementError(f"the file is over {MAX_FILE_BYTES} bytes", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise MeasurementError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _list(content: _Results) -> str:
    return ", ".join(content.results)


def _task(name: str, content: _Results) -> HarnessTask:
    figures = {
        key: float(value)
        for key, value in content.results[name].items()
        if "," in key and "_stderr," not in key and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    count = content.n_samples.get(name)
    version = str(content.versions.get(name, ""))
    return HarnessTask(name, version, None if count is None else count.effective, figures)


def _run(name: str, file: Path, content: _Results, *, cluster_field: str) -> TaskRun:
    rows = list(_rows(name, file, content))
    place = f"{file}: task {name!r}"
    if not rows:
        raise MeasurementError("the samples of the task are empty", where=place, hint=_NO_SAMPLES_HINT)
    by_filter: dict[str, dict[int, _Row]] = {}
    for row in rows:
        seen = by_filter.setdefault(row.sample.filter, {})
        if row.sample.doc_id in seen:
            raise MeasurementError(f"the item {row.sample.doc_id} occurs twice", where=row.where)
        seen[row.sample.doc_id] = row
    _check_complete(by_filter, content.n_samples.get(name), where=place)
    metrics = _paired_metrics(by_filter, where=place)
    for metric in metrics:
        _check_mean(metric, by_filter, content.results[name], content.configs.get(name, {}), where=place)
    first = next(iter(by_filter.values()))
    items = tuple(_item(doc_id, by_filter, metrics, cluster_field=cluster_field) for doc_id in sorted(first))
    config = content.configs.get(name, {})
    return TaskRun(
        task=name,
        kind=str(config.get("output_type", "")),
        protocol=_protocol(name, content, len(items)),
        metrics=metrics,
        binary_metrics=tuple(
            metric
            for metric in metrics
            if metric.partition(",")[0] in _BINARY and all(item.scores[metric] in {0.0, 1.0} for item in items)
        ),
        seed=_seed(content.config),
        items=items,
    )


def _rows(name: str, file: Path, content: _Results) -> Iterator[_Row]:
    if content.samples is not None and name in content.samples:
        for number, raw in enumerate(content.samples[name], start=1):
            yield _row(raw, where=f"{file}: sample {number} of {name}")
        return
    date = re.search(r"_(\d{4}-\d{2}-\d{2}T[0-9.-]+)\.json$", file.name)
    samples = file.with_name(f"samples_{name}_{date[1]}.jsonl") if date else None
    if samples is None or not samples.is_file():
        looked = f"{samples.name} is not beside it" if samples else "its name has no date by which to find samples"
        raise MeasurementError(f"there are no samples of the task {name!r}: {looked}", where=str(file),
                               hint=_NO_SAMPLES_HINT)  # fmt: skip
    for number, line in enumerate(_read(samples).split(b"\n"), start=1):
        if line.strip():
            yield _row(line, where=f"{samples}:{number}")


def _plain(content: bytes) -> Any:
    # not msgspec: the harness writes NaN and infinities
    return json.loads(content)


def _row(raw: Any, *, where: str) -> _Row:
    try:
        fields = _plain(raw) if isinstance(raw, bytes) else raw
        sample = msgspec.convert(fields, _Sample)
    except (ValueError, RecursionError) as error:
        raise MeasurementError(f"not a sample of lm-evaluation-harness: {error}", where=where) from error
    for key in ("doc_hash", "prompt_hash", "target_hash"):
        if not re.fullmatch(r"[0-9a-f]{16,}", getattr(sample, key)):
            raise MeasurementError(f"{key} is not a hash", where=where)
    missing = [metric for metric in sample.metrics if metric not in fields]
    if missing:
        raise MeasurementError(f"the sample has no value of {', '.join(missing)}", where=where)
    return _Row(sample, {metric: fields[metric] for metric in sample.metrics}, where)


def _check_complete(by_filter: Mapping[str, Mapping[int, _Row]], count: _SampleCount | None, *, where: str) -> None:
    ids = [set(rows) for rows in by_filter.values()]
    if any(other != ids[0] for other in ids):
        raise MeasurementError("its filters were applied to different items", where=where)
    if count is not None and len(ids[0]) != count.effective:
        raise MeasurementError(
            f"there are samples of {len(ids[0])} items, but the results are over {count.effective}",
            where=where,
            hint="The file of samples is cut off, or of another run.",
        )
    for doc_id in ids[0]:
        rows = [rows[doc_id] for rows in by_filter.values()]
        if len({(row.sample.doc_hash, row.sample.prompt_hash, row.sample.target_hash) for row in rows}) != 1:
            raise MeasurementError(f"its filters disagree about the item {doc_id}", where=rows[-1].where)


def _paired_metrics(by_filter: Mapping[str, Mapping[int, _Row]], *, where: str) -> tuple[str, ...]:
    found: list[str] = []
    left_out: list[str] = []
    for filter_name, rows in by_filter.items():
        for metric in next(iter(rows.values())).values:
            values = [row.values.get(metric) for row in rows.values()]
            name = metric if filter_name == NO_FILTER else f"{metric},{filter_name}"
            (found if all(map(_is_score, values)) else left_out).append(name)
    if not found:
        raise MeasurementError(
            f"no metric of the task has a value from 0 to 1 per item ({', '.join(left_out)})",
            where=where,
            hint="Such metrics are figures of the whole set; a paired comparison by item is impossible.",
        )
    return tuple(found)


def _is_score(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and 0 <= value <= 1


def _check_mean(
    metric: str,
    by_filter: Mapping[str, Mapping[int, _Row]],
    figures: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    where: str,
) -> None:
    """Refuses samples whose mean is not the figure they are said to be behind."""
    name, _, filter_name = metric.partition(",")
    figure = figures.get(f"{name},{filter_name or NO_FILTER}")
    aggregations = [entry.get("aggregation") for entry in config.get("metric_list", []) if entry.get("metric") == name]
    if not isinstance(figure, (int, float)) or aggregations not in ([], [None], ["mean"]):
        return
    rows = by_filter[filter_name or NO_FILTER].values()
    mean = math.fsum(float(row.values[name]) for row in rows) / len(rows)
    if abs(mean - figure) > _MEAN_TOLERANCE:
        raise MeasurementError(
            f"the samples' mean {metric} is {mean:.6g}, but the results say {figure:.6g}",
            where=where,
            hint="The file of samples is of another run.",
        )


def _item(
    doc_id: int, by_filter: Mapping[str, Mapping[int, _Row]], metrics: tuple[str, ...], *, cluster_field: str
) -> ItemResult:
    scores: dict[str, float] = {}
    for metric in metrics:
        name, _, filter_name = metric.partition(",")
        scores[metric] = float(by_filter[filter_name or NO_FILTER][doc_id].values[name])
    row = next(iter(by_filter.values()))[doc_id]
    sample = row.sample
    calls = _calls(sample.arguments)
    cluster = str(doc_id)
    if cluster_field:
        if not isinstance(sample.doc, dict) or cluster_field not in sample.doc:
            raise MeasurementError(f"the document has no field {cluster_field!r}", where=row.where)
        cluster = str(sample.doc[cluster_field])
    return ItemResult(
        item_id=str(doc_id),
        item_hash=sample.doc_hash[:16],
        prompt_hash=sample.prompt_hash[:16],
        target_hash=sample.target_hash[:16],
        cluster=cluster,
        scores=scores,
        prompt=str(calls[0][0])[:EXCERPT_CHARS] if calls and calls[0] else "",
        target=str(sample.target)[:EXCERPT_CHARS],
        answer=_answer(calls, sample.filtered_resps)[:EXCERPT_CHARS],
    )


def _calls(arguments: Any) -> list[list[Any]]:
    """What was asked, call by call: a list of lists, or the harness's `{gen_args_0: {arg_0: ...}}` of its files."""
    if isinstance(arguments, dict):
        return [list(call.values()) if isinstance(call, dict) else [call] for call in arguments.values()]
    return [call if isinstance(call, list) else [call] for call in arguments or []]


def _answer(calls: list[list[Any]], responses: Any) -> str:
    """The generated text, or the likeliest of the choices; for people to look at."""
    if not isinstance(responses, list) or not responses:
        return ""
    if not all(isinstance(response, list) and len(response) == 2 for response in responses):
        return str(responses[0])
    likelihoods = [_number(response[0]) for response in responses]
    best = likelihoods.index(max(likelihoods))
    return str(calls[best][1]) if best < len(calls) and len(calls[best]) > 1 else ""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -math.inf


def _seed(config: Mapping[str, Any]) -> int:
    seed = config.get("fewshot_seed")
    return seed if isinstance(seed, int) else 0


def _protocol(name: str, content: _Results, num_items: int) -> str:
    """Task, version, count and a digest of everything in the record that changes a score.

    The model's arguments, and where the items lie, play no part: the items' hashes say what they were.
    """
    config = {k: v for k, v in content.configs.get(name, {}).items() if k not in _CONFIG_WITHOUT_EFFECT}
    shared = {key: getattr(content, key) for key in _SHARED_WITH_EFFECT}
    num_shots = content.n_shot.get(name, 0)
    seed = content.config.get("fewshot_seed") if num_shots else None
    everything = [config, shared, content.config.get("gen_kwargs"), seed]
    # a function is written as its source, but a partial one with its place in memory
    text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(everything, sort_keys=True))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    version = content.versions.get(name, "?")
    harness = content.lm_eval_version or "?"
    return f"lm-eval-{harness}/{name}/v{version}/shots={num_shots}/items={num_items}/config={digest}"
