from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.measurements import MeasurementStore, translate_sqlite_error
from lightship.errors import ArtifactError, MeasurementError, StorageFullError
from lightship.ports.measurements import Interval, Measurement, Metric, Target

TARGET = Target("openvino", "2026.4.1", "CPU", "amx_bf16", 2, {"prefix_cache": True, "cache_gib": 1, "ratio": 0.5})
KL = Measurement(
    metric=Metric.KL_NATS,
    value=0.1 + 0.2,  # no short decimal: only an exact store gives it back
    variant_digest="sha256:aa",
    target=TARGET,
    protocol="echo-512/top64",
    num_items=64,
    interval=Interval(0.25, 0.35, 0.95),
    measured_unix_s=1_700_000_000.123456,
    machine="0123456789abcdef",
    reference_digest="sha256:bb",
    details={"mean": 1e-300},
)
SPEED = Measurement(
    metric=Metric.DECODE_TOKENS_PER_S,
    value=100.0,
    variant_digest="sha256:aa",
    target=TARGET,
    protocol="open-loop",
    num_items=1,
    interval=None,
    measured_unix_s=5.0,
    machine="0123456789abcdef",
    concurrency=8,
)


@pytest.fixture
def store(tmp_path: Path) -> MeasurementStore:
    return MeasurementStore(tmp_path / "data" / "measurements.sqlite")


@pytest.fixture
def database(store: MeasurementStore, tmp_path: Path) -> Path:
    store.append([KL])
    return tmp_path / "data" / "measurements.sqlite"


def test_append_records_come_back_exactly_and_in_order(store: MeasurementStore) -> None:
    store.append([KL, SPEED])
    store.append([KL])
    assert store.find() == [KL, SPEED, KL]


def test_find_store_that_does_not_exist_is_empty_and_not_made(store: MeasurementStore, tmp_path: Path) -> None:
    assert (store.find(), store.latest()) == ([], [])
    store.append([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [KL, SPEED]),
        ({"metric": Metric.KL_NATS}, [KL]),
        ({"variant_digest": "sha256:aa"}, [KL, SPEED]),
        ({"variant_digest": "sha256:bb"}, []),
        ({"protocol": "open-loop"}, [SPEED]),
        ({"concurrency": 0}, [KL]),
        ({"concurrency": 8, "metric": Metric.KL_NATS}, []),
        ({"machine": "other"}, []),
        ({"target": dataclasses.replace(TARGET, settings=dict(reversed(TARGET.settings.items())))}, [KL, SPEED]),
        ({"target": dataclasses.replace(TARGET, num_threads=1)}, []),
        ({"target": dataclasses.replace(TARGET, settings={})}, []),
    ],
)
def test_find_gives_what_agrees_with_everything_asked(
    store: MeasurementStore, wanted: dict[str, Any], expected: list[Measurement]
) -> None:
    store.append([KL, SPEED])
    assert store.find(**wanted) == expected


def test_latest_newest_of_the_same_thing_counts_even_when_the_clock_went_back(store: MeasurementStore) -> None:
    newer = dataclasses.replace(KL, value=9.0, measured_unix_s=1.0)
    against_another = dataclasses.replace(KL, reference_digest="sha256:cc")
    store.append([KL, SPEED, against_another, newer])
    assert store.latest() == [SPEED, against_another, newer]
    assert store.latest(metric=Metric.KL_NATS, variant_digest="sha256:aa") == [against_another, newer]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE measurements SET value = 0",
        "DELETE FROM measurements",
        "INSERT OR REPLACE INTO measurements SELECT * FROM measurements WHERE id = 1",
    ],
)
def test_stored_figure_cannot_be_changed_by_any_program(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "bad",
    [
        dataclasses.replace(KL, value=float("nan")),
        dataclasses.replace(KL, details={"x": float("inf")}),
        dataclasses.replace(KL, interval=Interval(2.0, 1.0, 0.95)),
        dataclasses.replace(KL, interval=Interval(1.0, 2.0, 95.0)),
        dataclasses.replace(KL, num_items=0),
    ],
)
def test_append_figure_that_says_nothing_is_refused_with_its_batch(store: MeasurementStore, bad: Measurement) -> None:
    with pytest.raises(MeasurementError):
        store.append([SPEED, bad])
    assert store.find() == []


def test_export_json_equal_stores_give_equal_bytes(store: MeasurementStore, tmp_path: Path) -> None:
    copy = MeasurementStore(tmp_path / "copy.sqlite")
    for each in (store, copy):
        each.append([KL, SPEED])
    content = json.loads(store.export_json())
    assert store.export_json() == copy.export_json()
    assert (content["format"], content["schema_version"]) == ("lightship-measurements", 1)
    assert content["measurements"][0]["metric"] == "kl_nats_per_token"
    assert content["measurements"][0]["value"] == 0.1 + 0.2
    assert content["measurements"][1]["interval"] is None


WRITER = """
import sys
from pathlib import Path
from lightship.artifacts.measurements import MeasurementStore
from lightship.ports.measurements import Measurement, Metric, Target

sys.stdin.readline()
store = MeasurementStore(Path(sys.argv[1]))
for number in range(10):
    store.append([Measurement(metric=Metric.TTFT_MS, value=float(number), variant_digest=sys.argv[2],
        target=Target("e", "1", "CPU", "avx2", 1), protocol="p", num_items=1, interval=None, measured_unix_s=0.0,
        machine="m")])
"""


def test_append_two_processes_lose_nothing(store: MeasurementStore, tmp_path: Path) -> None:
    path = tmp_path / "data" / "measurements.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in ("a", "b")]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=30)
        assert writer.returncode == 0
    for name in ("a", "b"):
        assert [m.value for m in store.find(variant_digest=name)] == [float(number) for number in range(10)]


@pytest.mark.parametrize("content", [b"this is not a database" * 99, b"SQLite format 3\0" + bytes(4000)])
def test_file_that_is_no_database_is_an_error_with_a_way_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "measurements.sqlite"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged") as caught:
        MeasurementStore(path).find()
    assert "Move the file away" in str(caught.value.hint)
    assert path.read_bytes() == content


def test_file_damaged_in_the_middle_is_an_error(store: MeasurementStore, database: Path) -> None:
    store.append([KL] * 200)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(database.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    database.write_bytes(content)
    with pytest.raises(ArtifactError):
        store.find()


def test_file_of_a_newer_lightship_is_refused_unchanged(store: MeasurementStore, database: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    for use in (store.find, lambda: store.append([KL])):
        with pytest.raises(ArtifactError, match="schema version 2"):
            use()


def test_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "small.sqlite")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    translated = translate_sqlite_error(caught.value, tmp_path / "small.sqlite")
    assert isinstance(translated, StorageFullError)
    assert translated.where == str(tmp_path / "small.sqlite")


def test_append_really_full_disk_is_a_storage_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"NOT TESTED on a really full disk: a small tmpfs cannot be mounted here: {mount.stderr.strip()}")
    try:
        store = MeasurementStore(disk / "m.sqlite")
        store.append([KL])
        with pytest.raises(StorageFullError):
            store.append([SPEED] * 2000)
        assert store.find() == [KL]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be opened"):
        MeasurementStore(tmp_path).find()
