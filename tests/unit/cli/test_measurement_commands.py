from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightship.artifacts.home import measurement_path
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.main import main
from lightship.ports.measurements import Interval, Measurement, Metric, Target


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path))
    return tmp_path


def test_measurements_export_prints_every_figure_with_its_protocol(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = Measurement(
        metric=Metric.BITS_PER_BYTE,
        value=1.25,
        variant_digest="sha256:" + "a" * 64,
        target=Target("openvino", "1", "CPU", "x86_64", 2),
        protocol="bits-per-byte/echo",
        num_items=24,
        interval=Interval(1.2, 1.3, 0.95),
        measured_unix_s=100.0,
        machine="m",
    )
    MeasurementStore(measurement_path(home)).append([figure])
    assert main(["measurements", "export"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["measurements"]
    assert (row["metric"], row["value"], row["protocol"]) == ("bits_per_byte", 1.25, "bits-per-byte/echo")
    assert row["interval"]["low"] == 1.2


def test_measurements_export_of_nothing_is_empty_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measurements", "export"]) == 0
    assert json.loads(capsys.readouterr().out)["measurements"] == []
