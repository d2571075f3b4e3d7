from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.record import EvaluationRecord, Subject
from lightship.evaluation.record_file import encode_record, read_record, write_record
from lightship.evaluation.tasks.results import ItemResult, TaskRun
from lightship.ports.measurements import Interval, Measurement, Metric, Target

TARGET = Target("openvino", "1", "CPU", "avx2", 2, {"precision": "f32"})
ITEM = ItemResult("a", "h1", "h2", "h3", "a", {"acc": 1.0, "acc_norm": 0.0}, "Q: ünï?", "yes", "yes")
RUN = TaskRun("t", "multiple_choice", "task-1/t", ("acc", "acc_norm"), ("acc", "acc_norm"), 0, (ITEM,))
RECORD = EvaluationRecord(
    subject=Subject("int8@openvino", "fairytales", "sha256:a", TARGET, tokenizer_hash="ab"),
    machine="m",
    created_unix_s=1.5,
    tasks=(RUN,),
    measurements=(
        Measurement(
            Metric.PERPLEXITY, 3.25, "sha256:a", TARGET, "p", 24, Interval(3.0, 3.5, 0.95), 1.0, "m", details={"x": 1.0}
        ),
    ),
)


def test_record_file_round_trip_gives_an_equal_record(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    write_record(RECORD, path)
    assert read_record(path) == RECORD
    assert [one.name for one in path.parent.iterdir()] == ["record.json"]
    assert encode_record(read_record(path)) == path.read_bytes()


def changed(**fields: Any) -> bytes:
    document = json.loads(encode_record(RECORD))
    document["record"] |= fields
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an evaluation record"),
        (b"[]", "not an evaluation record"),
        (b"{}", "its format is ''"),
        (b'{"format": "lightship-report/1"}', "lightship-report/1"),
        (changed(machine=None), "machine"),
        (b"\xff\xfe", "not an evaluation record"),
    ],
)
def test_read_record_something_else_is_refused_with_its_path(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(MeasurementError, match=words) as caught:
        read_record(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ((RUN, RUN), "task occurs twice"),
        ((replace(RUN, items=()),), "has no items"),
        ((replace(RUN, items=(ITEM, ITEM)),), "occurs twice"),
        ((replace(RUN, items=(replace(ITEM, scores={"acc": 1.5, "acc_norm": 0.0}),)),), "acc is 1.5"),
        ((replace(RUN, items=(replace(ITEM, scores={"acc": 1.0}),)),), "acc_norm is nan"),
    ],
)
def test_read_record_items_that_do_not_hang_together_are_refused(
    tmp_path: Path, tasks: tuple[TaskRun, ...], words: str
) -> None:
    path = tmp_path / "record.json"
    write_record(replace(RECORD, tasks=tasks), path)
    with pytest.raises(MeasurementError, match=words):
        read_record(path)


def test_read_record_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_record(tmp_path / "nowhere.json")
