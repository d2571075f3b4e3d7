"""Result files: our format, and vLLM's names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.load_files import (
    LoadRecord,
    encode_document,
    load_document,
    vllm_document,
    write_document,
)
from lightship.evaluation.performance.load_result import summarize_load
from lightship.evaluation.performance.records import NO_SLO, ErrorKind, RequestRecord, Slo
from lightship.evaluation.performance.search import SearchPlan, SearchResult, Trial, next_step

# As `vllm bench serve --save-result` writes them (vllm/benchmarks/serve.py), less what only its own servers report.
VLLM_NAMES = {
    *("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate"),
    *("burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"),
    *(
        f"{statistic}_{name}_ms"
        for statistic in ("mean", "median", "std", "p99")
        for name in ("ttft", "tpot", "itl", "e2el")
    ),
}


def answered(sent_s: float, *token_times_s: float) -> RequestRecord:
    num_tokens = len(token_times_s)
    return RequestRecord(sent_s, sent_s, token_times_s, token_times_s[-1], 10, num_tokens)


def recorded(slo: Slo = NO_SLO, *, concurrency: int = 0) -> LoadRecord:
    """Two answers and an error in ten seconds."""
    records = (
        answered(1.0, 1.1, 1.2, 1.4),
        answered(2.0, 2.3, 2.4),
        RequestRecord(3.0, 3.0, (), 3.5, error=ErrorKind.STATUS, error_detail="HTTP 500"),
    )
    run = LoadRun(concurrency, records, (), 0.0, 10.0)
    return LoadRecord(
        model="m",
        url="http://x",
        protocol="open-loop-1/p",
        slo=slo,
        load=summarize_load(run, slo),
        has_fixed_length=True,
        measured_unix_s=1_700_000_000.0,
        machine="abc",
        settings={"rate": 0.5, "seed": 3},
        lengths={"wanted_prompt_tokens": 10.0},
    )


def test_vllm_document_has_its_names_and_hand_computed_figures() -> None:
    found = vllm_document(recorded(Slo(ttft_ms=200, tpot_ms=1000)))
    assert set(found) >= VLLM_NAMES
    assert (found["completed"], found["failed"], found["num_prompts"]) == (2, 1, 3)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (20, 5)
    assert found["duration"] == 10
    assert found["request_throughput"] == pytest.approx(0.2)
    assert found["request_goodput"] == pytest.approx(0.1)
    assert found["total_token_throughput"] == pytest.approx(2.5)
    assert found["mean_ttft_ms"] == pytest.approx((100 + 300) / 2)
    assert found["std_ttft_ms"] == pytest.approx(100)  # divided by n, as numpy does
    # without the first token: (300 / 2, 100 / 1)
    assert found["mean_tpot_ms"] == pytest.approx(125)
    assert found["median_itl_ms"] == pytest.approx(100)
    assert found["mean_e2el_ms"] == pytest.approx(400)
    assert (found["request_rate"], found["max_concurrency"]) == (0.5, None)
    assert found["date"] == "20231114-221320"


def test_vllm_document_of_a_closed_loop_names_its_users() -> None:
    found = vllm_document(recorded(concurrency=4))
    assert (found["request_rate"], found["max_concurrency"], found["request_goodput"]) == ("inf", 4, None)


def test_vllm_document_latency_that_does_not_exist_is_null() -> None:
    run = LoadRun(0, (answered(1.0, 1.1),), (), 0.0, 10.0)
    record = recorded()
    found = vllm_document(LoadRecord(**{**vars(record), "load": summarize_load(run, NO_SLO)}))
    assert found["mean_tpot_ms"] is None
    assert found["mean_ttft_ms"] == pytest.approx(100)


def test_load_document_is_json_without_infinities_and_says_what_it_is() -> None:
    found = json.loads(encode_document(load_document(recorded(Slo(ttft_ms=200, tpot_ms=math.inf)))))
    assert found["format"] == "lightship-load/1"
    assert found["slo"] == {"ttft_ms": 200, "tpot_ms": None, "e2e_ms": None}
    assert found["settings"]["seed"] == 3
    assert found["figures"]["errors"] == {"status": 1}
    assert found["figures"]["attainment"] == pytest.approx(1 / 3)
    assert found["figures"]["attainment_interval"]["level"] == 0.95
    assert found["figures"]["lag_ms"]["highest"] == 0
    assert found["search"] is None


def test_load_document_without_an_slo_claims_no_goodput() -> None:
    found = load_document(recorded())
    assert found["slo"] is None
    assert found["figures"]["goodput_requests_per_s"] is None
    assert found["figures"]["attainment"] is None


def test_load_document_of_a_search_has_every_run() -> None:
    plan = SearchPlan(attainment=0.9, first=1, lowest=1, highest=1, duration_s=10)
    search = next_step([Trial(1, 200, 200, 10)], plan)
    assert isinstance(search, SearchResult)
    found = json.loads(encode_document(load_document(recorded(), search=search)))
    assert found["search"]["best"]["load"] == 1
    assert found["search"]["trials"] == [
        {"load": 1, "num_good": 200, "num_requests": 200, "duration_s": 10, "failure": ""}
    ]


def test_write_document_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    write_document({"a": 1}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(MeasurementError, match="cannot be written"):
        write_document({"a": 1}, tmp_path / "missing" / "r.json")
