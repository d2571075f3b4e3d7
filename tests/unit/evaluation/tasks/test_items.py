from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.items import content_hash, read_items
from lightship.evaluation.tasks.scorer import Item


def read(path: Path, *, id_field: str | None = None, cluster_field: str | None = None) -> tuple[Item, ...]:
    return read_items(path, id_field=id_field, cluster_field=cluster_field)


def test_items_plain_and_compressed_are_the_same(tmp_path: Path) -> None:
    content = b'{"id": "a", "q": "one"}\n\n{"id": 2, "q": "tw\xe2\x80\xa8o"}'
    (tmp_path / "x.jsonl").write_bytes(content)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(content))
    items = read(tmp_path / "x.jsonl")
    assert items == read(tmp_path / "x.jsonl.gz")
    assert [(item.item_id, item.line, item.cluster) for item in items] == [("a", 1, "a"), ("2", 3, "2")]
    assert items[1].fields == {"id": 2, "q": "tw\u2028o"}


def test_items_json_list_counts_entries(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"q": "one"}, {"q": "two"}]')
    assert [item.item_id for item in read(tmp_path / "x.json")] == ["line-1", "line-2"]


def test_items_named_fields_give_id_and_cluster(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"key": 7, "id": "x", "doc": "d"}\n{"key": 8, "id": "x", "doc": "d"}')
    items = read(tmp_path / "x.jsonl", id_field="key", cluster_field="doc")
    assert [(item.item_id, item.cluster) for item in items] == [("7", "d"), ("8", "d")]


@dataclass(frozen=True)
class Case:
    name: str
    content: bytes
    where: str
    says: str
    file: str = "x.jsonl"
    id_field: str | None = None
    cluster_field: str | None = None


CASES = [
    Case("empty", b"\n \n", "", "has no items"),
    Case("not_json", b'{"a": 1}\n{"a": 1', ":2", "not JSON"),
    Case("nan", b'{"a": NaN}', ":1", "not JSON"),
    Case("list", b'{"a": 1}\n[1]', ":2", "expected an object, got a list"),
    Case("duplicate_id", b'{"id": "a"}\n{"id": "b"}\n{"id": "a"}', ":3", "'a' is there twice, first on line 1"),
    Case("duplicate_of_line_name", b'{"id": "line-2"}\n{"q": 1}', ":2", "'line-2' is there twice"),
    Case("number_and_text_id", b'{"id": 1}\n{"id": "1"}', ":2", "'1' is there twice"),
    Case("id_missing", b'{"key": 1}\n{"q": 1}', ":2", "no field 'key'", id_field="key"),
    Case("id_list", b'{"id": [1]}', ":1", "'id' must be text or a whole number, got a list"),
    Case("id_empty", b'{"id": ""}', ":1", "got empty text"),
    Case("id_true", b'{"id": true}', ":1", "got true or false"),
    Case("cluster_missing", b'{"id": 1}', ":1", "no field 'doc'", cluster_field="doc"),
    Case("cluster_null", b'{"doc": null}', ":1", "'doc' must be text or a whole number, got null", cluster_field="doc"),
    Case("not_utf8", b'{"a": 1}\n{"a": "\xff"}', ":2", "not UTF-8"),
    Case("lone_surrogate", b'{"a": "\\ud800"}', ":1", "not JSON"),
    Case("json_object", b'{"a": 1}', "", "expected a list of objects, got an object", file="x.json"),
    Case("json_entry", b'[{"a": 1}, 2]', ": entry 2", "expected an object, got a number", file="x.json"),
    Case("unknown_kind", b"a,b", "", "not a known kind", file="x.csv"),
    Case("not_gzip", b"{}", "", "cannot read the items", file="x.jsonl.gz"),
    Case("cut_gzip", gzip.compress(b'{"a": 1}' * 99)[:-9], "", "cannot read the items", file="x.jsonl.gz"),
    Case("parquet", b"PAR1", "", "need the package pyarrow", file="x.parquet"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_items_bad_file_is_refused_at_its_line(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    path = tmp_path / case.file
    path.write_bytes(case.content)
    with pytest.raises(MeasurementError, match=case.says) as refusal:
        read(path, id_field=case.id_field, cluster_field=case.cluster_field)
    assert refusal.value.where == f"{path}{case.where}"


def test_items_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="No such file"):
        read(tmp_path / "none.jsonl")


def test_content_hash_is_that_of_sorted_keys_without_white_space() -> None:
    expected = hashlib.sha256('{"a":[1,"ä"],"b":null}'.encode()).hexdigest()[:16]
    assert content_hash({"b": None, "a": [1, "ä"]}) == expected
