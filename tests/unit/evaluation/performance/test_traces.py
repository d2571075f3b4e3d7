"""Trace files and what a selection makes of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.trace_formats import read_trace
from lightship.evaluation.performance.traces import Trace, TraceChanges, TraceRequest, TraceSelection

MOONCAKE = """{"timestamp": 0, "input_length": 700, "output_length": 50, "hash_ids": [3, 4]}
{"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [3, 9], "chat_id": 5}

{"timestamp": 3000, "input_length": 20, "output_length": 1, "hash_ids": [8]}
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.5000000,374,44
2023-11-17 00:00:01.2500000,396,109
"""
OWN = """{"arrival_s": 0.5, "num_prompt_tokens": 10, "num_output_tokens": 5, "prompt": "hello there", "session_id": "s"}
{"arrival_s": 0.25, "num_prompt_tokens": 40, "num_output_tokens": 6, "hash_ids": [1, 2, 3], "block_tokens": 512}
"""


def written(folder: Path, content: str, name: str = "day.jsonl") -> Path:
    path = folder / name
    path.write_text(content, "utf-8")
    return path


def test_read_mooncake_gives_seconds_and_blocks(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE))
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)
    assert trace.requests == (
        TraceRequest(0.0, 700, 50, (3, 4)),
        TraceRequest(1.5, 600, 7, (3, 9)),
        TraceRequest(3.0, 20, 1, (8,)),
    )
    assert trace.name.startswith("day-")
    assert trace.duration_s == pytest.approx(4.5)  # the last arrival and one mean gap
    assert trace.requests_per_s == pytest.approx(3 / 4.5)
    assert (trace.mean_prompt_tokens, trace.mean_output_tokens) == pytest.approx((440, 58 / 3))


def test_read_azure_counts_from_the_first_row_across_midnight(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE, "conv.csv"))
    assert trace.format == "azure"
    assert [(one.num_prompt_tokens, one.num_output_tokens) for one in trace.requests] == [(374, 44), (396, 109)]
    assert trace.offsets_s == pytest.approx((0.0, 1.75))


def test_read_own_format_sorts_by_arrival_and_keeps_text(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, OWN))
    assert trace.format == "lightship"
    assert trace.requests == (
        TraceRequest(0.25, 40, 6, (1, 2, 3)),
        TraceRequest(0.5, 10, 5, (), "s", "hello there"),
    )


@pytest.mark.parametrize("content", [MOONCAKE, AZURE, OWN], ids=["mooncake", "azure", "lightship"])
def test_read_gzip_gives_the_same_requests(content: str, tmp_path: Path) -> None:
    plain = read_trace(written(tmp_path, content, "t.jsonl"))
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert read_trace(packed).requests == plain.requests


def test_read_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode())
    assert len(read_trace(path).requests) == 2


WRONG = [
    ("mooncake line", MOONCAKE + '{"timestamp": 1, "input_length": "x"}\n', r"day\.jsonl:5: not a request: "),
    ("not json", OWN + "oops\n", r"day\.jsonl:3: not a request"),
    ("typo", OWN.replace("session_id", "sesion_id"), r"day\.jsonl:1: unknown field 'sesion_id'.*'session_id'"),
    ("negative length", OWN.replace('"num_output_tokens": 6', '"num_output_tokens": -6'), r"jsonl:2: -6 output tokens"),
    ("negative time", OWN.replace("0.25", "-0.25"), r"jsonl:2: it arrives at -0\.25 s"),
    ("empty prompt", OWN.replace("hello there", ""), "jsonl:1: the prompt is empty"),
    ("two block sizes", OWN.replace("512", "256"), "jsonl:2: block_tokens must be one number"),
    ("bad date", AZURE + "yesterday,1,2\n", r"jsonl:4: not a date and time: 'yesterday'"),
    ("bad count", AZURE + "2023-11-17 00:00:02,1.5,2\n", r"jsonl:4: not a number of tokens: '1\.5'"),
    ("short row", AZURE + "2023-11-17 00:00:02,1\n", "jsonl:4: 2 columns where the header has 3"),
    ("unknown", '{"time": 3}\n', "jsonl:1: not a trace in a known format"),
    ("empty", "\n \n", "the trace is empty"),
    ("header only", AZURE.splitlines()[0], "no request between"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_read_wrong_file_is_refused_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError) as caught:
        read_trace(written(tmp_path, content))
    assert caught.match(message)


def test_read_wrong_format_name_and_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"unknown trace format 'azur'.*azure"):
        read_trace(written(tmp_path, AZURE), format_name="azur")
    with pytest.raises(MeasurementError, match="the header lacks GeneratedTokens"):
        read_trace(written(tmp_path, "TIMESTAMP,ContextTokens\n"), format_name="azure")


def test_read_missing_damaged_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="No such file"):
        read_trace(tmp_path / "nothing.jsonl")
    packed = tmp_path / "t.gz"
    packed.write_bytes(gzip.compress(OWN.encode() * 100)[:-20])
    with pytest.raises(MeasurementError, match="damaged"):
        read_trace(packed)
    packed.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(MeasurementError, match="not a text file"):
        read_trace(packed)


def regular(folder: Path, *, num_requests: int = 10, selection: TraceSelection) -> Trace:
    """A request a second, the n-th with 100 n prompt and 10 n output tokens."""
    rows = [
        {"arrival_s": float(n), "num_prompt_tokens": 100 * n, "num_output_tokens": 10 * n} for n in range(num_requests)
    ]
    return read_trace(written(folder, "\n".join(map(json.dumps, rows))), selection=selection)


def test_selection_slices_scales_and_counts_every_change(tmp_path: Path) -> None:
    chosen = TraceSelection(
        start_s=2.0, duration_s=4.0, time_scale=2.0, length_scale=0.5, max_prompt_tokens=200, max_output_tokens=14
    )
    trace = regular(tmp_path, selection=chosen)
    assert trace.offsets_s == (0.0, 0.5, 1.0, 1.5)
    assert [one.num_prompt_tokens for one in trace.requests] == [100, 150, 200, 200]
    assert [one.num_output_tokens for one in trace.requests] == [10, 14, 14, 14]
    assert trace.duration_s == 2.0
    assert trace.requests_per_s == 2.0
    assert trace.block_tokens == 256
    assert trace.changes == TraceChanges(
        num_read=10, num_used=4, num_outside_slice=6, num_prompts_cut=1, num_answers_cut=3
    )
    assert chosen.name == "from2s-for4s-x2-len0.5-p<=200-o<=14"


def test_selection_lengths_of_nothing_become_one_token_and_are_counted(tmp_path: Path) -> None:
    trace = regular(tmp_path, selection=TraceSelection(duration_s=1.0))
    assert trace.requests == (TraceRequest(0.0, 1, 1),)
    assert trace.changes.num_raised_to_one_token == 2


def test_selection_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no request between 100 s and inf s; the trace has 10 in 9 s"):
        regular(tmp_path, selection=TraceSelection(start_s=100))


@pytest.mark.parametrize(
    "values",
    [{"start_s": -1}, {"duration_s": 0}, {"time_scale": 0}, {"length_scale": -2}, {"max_prompt_tokens": 0}],
)
def test_selection_senseless_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(MeasurementError, match="must be"):
        TraceSelection(**values)  # type: ignore[arg-type]
