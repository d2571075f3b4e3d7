from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.comparison import compare_task_runs
from lightship.evaluation.harness.results import read_harness_results, read_harness_runs

DATE = "2026-11-23T22-29-43.890306"
HASH = "ab" * 32


def sample(doc_id: int, acc: float, acc_norm: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A line as the harness writes it, with two choices."""
    calls = {f"gen_args_{i}": {"arg_0": f"Question {doc_id}?", "arg_1": f" choice {i}"} for i in range(2)}
    likelihoods = [["-3.5", "False"], ["-2.25", "False"]]
    return {
        "doc_id": doc_id, "doc": {"id": f"item-{doc_id}", "passage": f"p{doc_id // 2}"}, "target": "1",
        "arguments": calls, "resps": [[pair] for pair in likelihoods], "filtered_resps": likelihoods, "filter": "none",
        "metrics": ["acc", "acc_norm"], "doc_hash": f"{doc_id:02x}" * 32, "prompt_hash": HASH, "target_hash": HASH,
        "acc": acc, "acc_norm": acc_norm, **changes,
    }  # fmt: skip


SAMPLES = [sample(0, 1.0), sample(1, 0.0), sample(2, 1.0, 1.0), sample(3, 1.0)]


def results(**changes: Any) -> dict[str, Any]:
    figures = {"name": "arc", "alias": "arc", "sample_len": 4, "acc,none": 0.75, "acc_stderr,none": 0.25,
               "acc_norm,none": 0.25, "acc_norm_stderr,none": "N/A"}  # fmt: skip
    metric_list = [{"metric": "acc", "aggregation": "mean"}, {"metric": "acc_norm", "aggregation": "mean"}]
    return {
        "results": {"arc": figures},
        "configs": {"arc": {"task": "arc", "output_type": "multiple_choice", "metric_list": metric_list,
                            "metadata": {"version": 1.0, "pretrained": "/models/x"}}},
        "versions": {"arc": 1.0}, "n-shot": {"arc": 0}, "n-samples": {"arc": {"original": 4, "effective": 4}},
        "config": {"model": "hf", "model_args": {"pretrained": "/models/x"}, "fewshot_seed": 1234},
        "lm_eval_version": "0.4.13", "model_name": "/models/x", **changes,
    }  # fmt: skip


def write(folder: Path, content: dict[str, Any], samples: list[Any] | None, *, task: str = "arc") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"results_{DATE}.json"
    path.write_text(json.dumps(content))
    if samples is not None:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in samples]
        (folder / f"samples_{task}_{DATE}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_read_harness_results_gives_the_figures_without_errors_and_names(tmp_path: Path) -> None:
    found = read_harness_results(write(tmp_path, results(), None))
    assert (found.model, found.harness_version) == ("/models/x", "0.4.13")
    assert found.tasks["arc"].figures == {"acc,none": 0.75, "acc_norm,none": 0.25}
    assert (found.tasks["arc"].version, found.tasks["arc"].num_items) == ("1.0", 4)


def test_read_harness_runs_items_carry_scores_hashes_and_answers(tmp_path: Path) -> None:
    write(tmp_path, results(), SAMPLES)
    (run,) = read_harness_runs(tmp_path)
    assert (run.task, run.kind, run.seed) == ("arc", "multiple_choice", 1234)
    assert run.metrics == run.binary_metrics == ("acc", "acc_norm")
    assert run.values("acc") == [1.0, 0.0, 1.0, 1.0]
    item = run.items[2]
    assert (item.item_id, item.item_hash, item.prompt_hash) == ("2", "02" * 8, "ab" * 8)
    assert (item.prompt, item.target, item.answer, item.cluster) == ("Question 2?", "1", " choice 1", "2")
    assert run.protocol.startswith("lm-eval-0.4.13/arc/v1.0/shots=0/items=4/config=")


def test_read_harness_runs_samples_inside_the_results_are_used(tmp_path: Path) -> None:
    plain = [{**s, "arguments": [["Question?", " a"], ["Question?", " b"]]} for s in SAMPLES]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(results(samples={"arc": plain})))
    (run,) = read_harness_runs(path)
    assert (run.values("acc"), run.items[0].answer) == ([1.0, 0.0, 1.0, 1.0], " b")


def test_read_harness_runs_two_runs_pair_item_by_item(tmp_path: Path) -> None:
    write(tmp_path / "a", results(), SAMPLES)
    content = results(model_name="other")
    content["results"]["arc"]["acc,none"] = 0.5
    content["configs"]["arc"]["metadata"]["pretrained"] = "/models/y"
    write(tmp_path / "b", content, [sample(0, 0.0), *SAMPLES[1:]])
    (reference,), (candidate,) = (read_harness_runs(tmp_path / name) for name in "ab")
    compared = compare_task_runs(reference, candidate, reference_name="a", candidate_name="b", metric="acc", seed=0)
    assert (compared.num_items, compared.num_lost, compared.num_gained) == (4, 1, 0)
    assert compared.difference.value == pytest.approx(-0.25)


def test_read_harness_runs_changed_task_has_another_protocol(tmp_path: Path) -> None:
    write(tmp_path / "a", results(), SAMPLES)
    content = results()
    content["configs"]["arc"]["doc_to_text"] = "Q: {{question}}"
    write(tmp_path / "b", content, SAMPLES)
    write(tmp_path / "c", results(chat_template_sha="12"), SAMPLES)
    protocols = {read_harness_runs(tmp_path / name)[0].protocol for name in "abc"}
    assert len(protocols) == 3


def test_read_harness_runs_place_in_memory_of_a_function_plays_no_part(tmp_path: Path) -> None:
    protocols = set()
    for name, address in (("a", "0x7f01"), ("b", "0x7f02")):
        content = results()
        content["configs"]["arc"]["process_docs"] = f"functools.partial(<function f at {address}>)"
        write(tmp_path / name, content, SAMPLES)
        protocols.add(read_harness_runs(tmp_path / name)[0].protocol)
    assert len(protocols) == 1


def test_read_harness_runs_filters_become_metrics_of_one_run(tmp_path: Path) -> None:
    def row(doc_id: int, filter_name: str, value: float) -> dict[str, Any]:
        texts = {"filtered_resps": ["42"], "metrics": ["exact_match"], "filter": filter_name}
        return {**sample(doc_id, 0.0), **texts, "exact_match": value}

    content = results()
    content["results"]["arc"] = {"exact_match,strict": 0.5, "exact_match,flexible": 1.0}
    content["configs"]["arc"]["metric_list"] = [{"metric": "exact_match", "aggregation": "mean"}]
    content["n-samples"]["arc"]["effective"] = 2
    rows = [row(0, "strict", 1.0), row(1, "strict", 0.0), row(0, "flexible", 1.0), row(1, "flexible", 1.0)]
    write(tmp_path, content, rows)
    (run,) = read_harness_runs(tmp_path)
    assert run.metrics == ("exact_match,strict", "exact_match,flexible")
    assert (run.values("exact_match,strict"), run.values("exact_match,flexible")) == ([1.0, 0.0], [1.0, 1.0])
    assert run.items[0].answer == "42"


def test_read_harness_runs_metric_without_a_value_per_item_is_left_out(tmp_path: Path) -> None:
    rows = [{**s, "metrics": ["acc", "perplexity"], "perplexity": [-31.5, 7]} for s in SAMPLES]
    content = results()
    content["results"]["arc"] |= {"perplexity,none": 90.0}
    write(tmp_path, content, rows)
    assert read_harness_runs(tmp_path)[0].metrics == ("acc",)


def test_read_harness_runs_graded_metric_stays_graded_where_it_happens_to_be_whole(tmp_path: Path) -> None:
    rows = [{**s, "metrics": ["acc", "f1"], "f1": 1.0} for s in SAMPLES]
    write(tmp_path, results(), rows)
    (run,) = read_harness_runs(tmp_path)
    assert (run.metrics, run.binary_metrics) == (("acc", "f1"), ("acc",))


def test_read_harness_runs_cluster_field_joins_items(tmp_path: Path) -> None:
    write(tmp_path, results(), SAMPLES)
    (run,) = read_harness_runs(tmp_path, cluster_field="passage")
    assert [item.cluster for item in run.items] == ["p0", "p0", "p1", "p1"]
    with pytest.raises(MeasurementError, match="no field 'topic'"):
        read_harness_runs(tmp_path, cluster_field="topic")


def test_read_harness_runs_nan_in_the_files_is_read(tmp_path: Path) -> None:
    content = results()
    content["results"]["arc"]["mcc,none"] = float("nan")
    write(tmp_path, content, [{**s, "resps": [float("-inf")]} for s in SAMPLES])
    assert read_harness_runs(tmp_path)[0].values("acc") == [1.0, 0.0, 1.0, 1.0]


def test_read_harness_runs_only_aggregates_say_that_pairing_is_impossible(tmp_path: Path) -> None:
    path = write(tmp_path, results(), None)
    with pytest.raises(MeasurementError, match=r"a paired comparison is impossible.*--log_samples") as refusal:
        read_harness_runs(path)
    assert refusal.value.where == str(path)


def broken(doc_id: int, **changes: Any) -> list[Any]:
    return [{**s, **changes} if s["doc_id"] == doc_id else s for s in SAMPLES]


@pytest.mark.parametrize(
    ("samples", "says", "line"),
    [
        ([*SAMPLES[:2], '{"doc_id": 2, "do', SAMPLES[3]], "not a sample of lm-evaluation-harness", 3),
        ([*SAMPLES[:2], [1], SAMPLES[3]], "not a sample of lm-evaluation-harness", 3),
        (broken(1, doc_hash="x"), "doc_hash is not a hash", 2),
        (broken(1, metrics=["acc", "gone"]), "no value of gone", 2),
        ([*SAMPLES, SAMPLES[0]], "item 0 occurs twice", 5),
        (SAMPLES[:3], "samples of 3 items, but the results are over 4", None),
        (broken(1, acc=1.0), "mean acc is 1, but the results say 0.75", None),
        ([{**s, "acc": "yes", "acc_norm": [1, 2]} for s in SAMPLES], "no metric of the task has a value", None),
        ([*SAMPLES, sample(0, 1.0, filter="other")], "applied to different items", None),
        ([], "are empty", None),
    ],
)  # fmt: skip
def test_read_harness_runs_damaged_samples_are_refused_with_file_and_line(
    samples: list[Any], says: str, line: int | None, tmp_path: Path
) -> None:
    write(tmp_path, results(), samples)
    with pytest.raises(MeasurementError, match=says) as refusal:
        read_harness_runs(tmp_path)
    where = str(refusal.value.where)
    assert where.endswith(f".jsonl:{line}") if line else "task 'arc'" in where


@pytest.mark.parametrize(
    ("content", "says"),
    [("not json", "not a results file"), ("[1]", "not a results file"), ('{"results": {}}', "has no results")],
)
def test_read_harness_results_other_files_are_refused(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "results_x.json"
    path.write_text(content)
    with pytest.raises(MeasurementError, match=says):
        read_harness_results(path)


def test_read_harness_results_missing_file_or_unclear_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read: No such file"):
        read_harness_results(tmp_path / "gone.json")
    with pytest.raises(MeasurementError, match=r"the folder has no results_\*.json"):
        read_harness_results(tmp_path)
    for number in (1, 2):
        (tmp_path / f"results_{number}.json").write_text("{}")
    with pytest.raises(MeasurementError, match="the folder has 2 results files"):
        read_harness_results(tmp_path)


def test_read_harness_runs_unknown_task_lists_the_known(tmp_path: Path) -> None:
    write(tmp_path, results(), SAMPLES)
    with pytest.raises(MeasurementError, match=r"no results of the task 'gsm8k'\. There are: arc"):
        read_harness_runs(tmp_path, tasks=("gsm8k",))
