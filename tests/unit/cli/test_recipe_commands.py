from __future__ import annotations

import json

import pytest
import yaml

from lightship.cli.main import main
from lightship.compression.recipes import PRESETS, read_recipe
from lightship.compression.steps.registry import formats_along
from lightship.ports.variants import WeightFormat


def test_ls_json_names_the_engine_that_each_preset_is_served_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ls", "--json"]) == 0
    engines = {row["name"]: row["engine"] for row in json.loads(capsys.readouterr().out)}
    assert engines.keys() == PRESETS.keys()
    assert (engines["fp16"], engines["int8"], engines["as-is"]) == ("openvino", "openvino", "openvino")


def test_ls_table_shows_every_preset_with_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ls"]) == 0
    shown = capsys.readouterr().out
    assert "convert > quantize" in shown
    assert all(name in shown for name in PRESETS)


def test_show_prints_what_could_stand_in_a_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "int4"]) == 0
    written = yaml.safe_load(capsys.readouterr().out)
    assert read_recipe("int4", written["int4"]) == PRESETS["int4"]


def test_show_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "int44"]) == 2
    assert "Did you mean 'int4'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_preset_steps_and_options_all_exist(name: str) -> None:
    source = WeightFormat.OPENVINO_IR if name == "as-is" else WeightFormat.SAFETENSORS
    assert len(formats_along(PRESETS[name], source)) == len(PRESETS[name].steps) + 1
