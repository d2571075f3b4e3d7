"""`lightship spec ...` on files, environment and flags."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from lightship.cli.load_spec import read_spec_file
from lightship.cli.spec_commands import add_spec_commands
from lightship.errors import SpecError, UsageError
from lightship.spec.schema import spec_json_schema


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("LIGHTSHIP__")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_spec_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(["spec", *arguments])
    code: int = args.run(args)
    return code


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[object, str]]:
    assert run("explain", "--json", *arguments) == 0
    return {row["path"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)}


def test_explain_without_file_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    rows = explained(capsys)
    assert rows["model.source"] == ("builtin:fairytales", "default")
    assert {origin for _, origin in rows.values()} == {"default"}


def test_explain_names_every_origin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lightship.yaml").write_text("slo: {ttft_ms: 300, tpot_ms: 30}\n")
    monkeypatch.setenv("LIGHTSHIP__SLO__TPOT_MS", "20")
    rows = explained(capsys, "--set", "slo.attainment=0.9")
    assert rows["slo.ttft_ms"] == (300, "file")
    assert rows["slo.tpot_ms"] == (20, "environment")
    assert rows["slo.attainment"] == (0.9, "flag")
    assert rows["quality.floor"] == (0.97, "default")


def test_explain_table_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    long_text = "./" + "x" * 100
    assert run("explain", "--set", f"quality.text={long_text}") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["path", "value", "origin"]
    assert {line[header.index("origin") :] for line in lines} == {"default", "flag"}
    column = header.index("value")
    assert f"{'quality.text':{column}}{long_text}  flag" in lines
    assert max(line.index("  ") for line in lines) + 2 == column  # the longest path, and two spaces


def test_explain_named_file_that_is_missing_is_refused() -> None:
    with pytest.raises(UsageError, match="no such file") as caught:
        run("explain", "-f", "nowhere.yaml")
    assert caught.value.hint is not None
    assert caught.value.exit_code == 2


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == spec_json_schema()


def test_check_good_file_says_ok(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("slo: {ttft_ms: 300}\n")
    assert run("check", "a.yaml") == 0
    assert capsys.readouterr().out == "a.yaml: ok\n"


def test_check_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.yaml").write_text("")
    monkeypatch.setenv("LIGHTSHIP__NO_SUCH_KEY", "1")
    assert run("check", "a.yaml") == 0
    with pytest.raises(SpecError, match="no_such_key"):
        run("explain")


def test_check_bad_file_names_file_and_line() -> None:
    Path("a.yaml").write_text("slo:\n  ttft_ms: fast\n")
    with pytest.raises(SpecError, match=r"expected a number") as caught:
        run("check", "a.yaml")
    assert caught.value.where == "a.yaml:2: slo.ttft_ms"
    assert caught.value.exit_code == 2


def test_read_spec_file_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_spec_file(tmp_path)


def test_read_spec_file_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"slo: {}\n# caf\xe9\n")
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        read_spec_file(tmp_path / "a.yaml")
    assert (caught.value.where or "").endswith("a.yaml:2")


def test_read_spec_file_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (1 << 20))
    with pytest.raises(SpecError, match="longer than"):
        read_spec_file(tmp_path / "a.yaml")


def test_read_spec_file_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("\ufeffslo: {}\n".encode())
    assert read_spec_file(tmp_path / "a.yaml") == "slo: {}\n"
