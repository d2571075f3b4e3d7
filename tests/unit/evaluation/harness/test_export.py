from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from lightship.evaluation.harness.export import SECTIONS, lm_eval_results
from lightship.evaluation.harness.results import read_harness_results
from lightship.evaluation.record import EvaluationRecord, Subject
from lightship.evaluation.tasks.results import ItemResult, TaskRun
from lightship.ports.measurements import Interval, Measurement, Metric, Target

TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)
SUBJECT = Subject(name="int8@openvino", model="fairytales", variant_digest="sha256:ab", target=TARGET)


def run(*scores: float, metric: str = "acc", task: str = "arc") -> TaskRun:
    items = tuple(
        ItemResult(str(i), "a", "b", "c", str(i), {metric: score}, "prompt", "target", "answer")
        for i, score in enumerate(scores)
    )
    protocol = "task-1/arc:1a2b3c4d/multiple_choice/items=4/shots=2/chat=no/seed=0"
    return TaskRun(task, "multiple_choice", protocol, (metric,), (metric,), 0, items)


def measurement(metric: Metric, value: float = 1.0) -> Measurement:
    interval = Interval(0.5, math.inf, 0.95)
    return Measurement(metric, value, "sha256:ab", TARGET, "p", 3, interval, 1.0, "box", concurrency=8)


def record(*runs: TaskRun, measurements: tuple[Measurement, ...] = ()) -> EvaluationRecord:
    return EvaluationRecord(SUBJECT, "box", 1700000000.0, runs, measurements)


def test_lm_eval_results_mean_and_standard_error_are_the_harness_own() -> None:
    # the harness printed 0.5 and 0.16666666666666666 for five right answers of ten
    exported = lm_eval_results(record(run(*[1.0] * 5, *[0.0] * 5)))
    assert exported["results"]["arc"] == {
        "alias": "arc",
        "sample_len": 10,
        "acc,none": 0.5,
        "acc_stderr,none": pytest.approx(0.16666666666666666),
    }
    assert exported["n-samples"]["arc"] == {"original": 10, "effective": 10}
    assert exported["higher_is_better"] == {"arc": {"acc": True}}
    assert (exported["versions"], exported["n-shot"]) == ({"arc": "1a2b3c4d"}, {"arc": 2})


def test_lm_eval_results_one_item_has_no_standard_error() -> None:
    assert lm_eval_results(record(run(1.0)))["results"]["arc"]["acc_stderr,none"] == "N/A"


def test_lm_eval_results_metric_with_a_filter_keeps_it() -> None:
    exported = lm_eval_results(record(run(1.0, 0.0, metric="exact_match,strict-match")))
    assert exported["results"]["arc"]["exact_match,strict-match"] == 0.5
    assert exported["higher_is_better"] == {"arc": {"exact_match": True}}


def test_lm_eval_results_keys_are_there_only_where_something_is_known() -> None:
    assert (
        not {"baseline", "paired", "quality", "perf", "memory", "cost", "gate"}
        & lm_eval_results(record(run(1.0))).keys()
    )
    measured = (measurement(Metric.TTFT_MS), measurement(Metric.PEAK_RSS_BYTES), measurement(Metric.KL_NATS))
    exported = lm_eval_results(record(run(1.0), measurements=measured), baseline=SUBJECT, gate={"verdict": "pass"})
    assert {"baseline", "quality", "perf", "memory", "gate"} <= exported.keys()
    assert "cost" not in exported
    assert (exported["perf"][0]["metric"], exported["perf"][0]["concurrency"]) == ("ttft_ms", 8)


def test_lm_eval_results_every_metric_has_exactly_one_section() -> None:
    counts = Counter(metric for metrics in SECTIONS.values() for metric in metrics)
    assert counts == dict.fromkeys(Metric, 1)


def test_lm_eval_results_infinite_bounds_become_null() -> None:
    exported = lm_eval_results(record(run(1.0), measurements=(measurement(Metric.TTFT_MS),)))
    assert exported["perf"][0]["interval"] == {"low": 0.5, "high": None, "level": 0.95}
    json.dumps(exported, allow_nan=False)


def test_lm_eval_results_written_file_reads_as_one_of_the_harness(tmp_path: Path) -> None:
    path = tmp_path / "results_mine.json"
    path.write_text(json.dumps(lm_eval_results(record(run(1.0, 0.0)))))
    found = read_harness_results(path)
    assert found.tasks["arc"].figures == {"acc,none": 0.5}
    assert (found.model, found.tasks["arc"].num_items) == ("int8@openvino", 2)
