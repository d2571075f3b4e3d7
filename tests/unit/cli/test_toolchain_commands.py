from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lightship.cli.toolchain_commands import add_toolchain_commands, toolchain_folder
from lightship.compression.toolchains.definitions import TOOLCHAINS
from lightship.errors import ToolchainError, UsageError


def lightship(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_toolchain_commands(parser.add_subparsers())
    args = parser.parse_args(["toolchain", *argv])
    code: int = args.run(args)
    return code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def pretend_installed(name: str, *, python: str) -> Path:
    """An environment that was completed earlier; its interpreter is a shell script."""
    folder = next(status.folder for status in toolchain_folder().ls() if status.toolchain.name == name)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "bin" / "python").chmod(0o755)
    (folder / "COMPLETE").write_text("x\n")
    return folder


def test_ls_json_names_every_toolchain_and_which_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretend_installed("train", python="exit 0")
    assert lightship("ls", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == TOOLCHAINS.keys()
    assert rows["train"] == {"name": "train", "is_installed": True, "folder": str(folder)}
    assert rows["openvino-convert"]["is_installed"] is False


def test_ls_table_shows_purpose_and_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert lightship("ls") == 0
    shown = capsys.readouterr().out
    for text in ("train", "openvino-convert", "optimum-intel", "~1.2 GiB", "no"):
        assert text in shown


def test_install_of_an_installed_one_prints_its_python_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretend_installed("train", python="exit 1")
    assert lightship("install", "train") == 0
    assert capsys.readouterr().out == f"{folder}/bin/python\n"


def test_check_sound_toolchain_prints_ok(capsys: pytest.CaptureFixture[str]) -> None:
    pretend_installed("train", python="exit 0")
    assert lightship("check", "train") == 0
    assert capsys.readouterr().out == "ok\n"


def test_check_toolchain_that_cannot_import_says_what_is_missing() -> None:
    pretend_installed("train", python='echo "ModuleNotFoundError: no torch" >&2; exit 1')
    with pytest.raises(ToolchainError, match=r"no torch.*toolchain rm train"):
        lightship("check", "train")


def test_check_toolchain_that_is_not_installed_says_how_to() -> None:
    with pytest.raises(UsageError, match="toolchain install"):
        lightship("check", "train")


def test_rm_installed_toolchain_is_gone_and_a_second_time_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretend_installed("train", python="exit 0")
    assert lightship("rm", "train") == 0
    assert not folder.exists()
    assert lightship("rm", "train") == 0
    assert capsys.readouterr().out == "removed\nit was not installed\n"


@pytest.mark.parametrize("command", ["install", "check", "rm"])
def test_unknown_toolchain_lists_the_known(command: str) -> None:
    with pytest.raises(UsageError, match=r"'trian'.*openvino-convert, train"):
        lightship(command, "trian")
