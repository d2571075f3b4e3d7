from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lightship.cli.key_commands import add_key_commands, expiry
from lightship.errors import UsageError


def lightship(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_key_commands(parser.add_subparsers())
    args = parser.parse_args(["keys", *argv])
    code: int = args.run(args)
    return code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert lightship(*argv, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_create_prints_the_key_alone_on_stdout(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert lightship("create", "team-a") == 0
    output = capsys.readouterr()
    assert re.fullmatch(r"ls-[a-z2-7]{8}-[A-Za-z0-9_-]{43}\n", output.out)
    assert "only time" in output.err
    assert (home / "keys.sqlite").exists()


def test_create_keeps_what_it_was_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--label", "CI", "--model", "tales", "--priority", "batch", "--max-priority", "interactive"]
    created = shown(capsys, "create", "team-a", *options, "--admin", "--expires", "2100-01-31")
    key = created.pop("key")
    assert created == shown(capsys, "show", created["prefix"])
    assert key.startswith(f"ls-{created['prefix']}-")
    assert {name: created[name] for name in ("tenant", "label", "state", "models", "priority", "max_priority")} == {
        "tenant": "team-a",
        "label": "CI",
        "state": "active",
        "models": ["tales"],
        "priority": "batch",
        "max_priority": "interactive",
    }
    assert created["admin"] is True
    assert created["expires"] == "2100-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    "argv",
    [
        ["Team A"],
        ["team", "--model", "two words"],
        ["team", "--priority", "A B"],
        ["team", "--label", "line\nbreak"],
        ["team", "--expires", "tomorrow"],
        ["team", "--expires", "2001-01-01"],
        ["team", "--expires", "0s"],
        ["team", "--expires", "99999999999d"],
    ],
)
def test_create_senseless_value_is_refused(argv: list[str], home: Path) -> None:
    with pytest.raises(UsageError):
        lightship("create", *argv)
    assert not (home / "keys.sqlite").exists()


def test_no_command_but_create_and_rotate_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    created = shown(capsys, "create", "team-a", "--label", "[bold]ci[/]")
    prefix, secret = created["prefix"], created["key"].split("-", 2)[2]
    for argv in (["ls"], ["show", prefix], ["disable", prefix], ["enable", prefix], ["expire", prefix], ["rm", prefix]):
        assert lightship(*argv) == 0
        output = capsys.readouterr()
        assert secret not in output.out + output.err
        assert prefix in output.out


def test_ls_shows_each_key_and_filters_by_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "create", "team-a", "--model", "tales")
    second = shown(capsys, "create", "team-b")
    assert lightship("ls") == 0
    table = capsys.readouterr().out
    assert "team-a" in table
    assert f"ls-{second['prefix']}" in table
    assert [row["tenant"] for row in shown(capsys, "ls", "--tenant", "team-b")["keys"]] == ["team-b"]


def test_ls_without_a_file_is_empty(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert shown(capsys, "ls") == {"keys": []}
    assert not (home / "keys.sqlite").exists()


def test_rotate_says_how_long_the_old_secret_works(capsys: pytest.CaptureFixture[str]) -> None:
    created = shown(capsys, "create", "team-a")
    rotated = shown(capsys, "rotate", created["prefix"], "--grace", "1h")
    assert rotated["key"] != created["key"]
    assert rotated["old_valid_until"] is not None
    assert shown(capsys, "rotate", created["prefix"], "--grace", "0s")["old_valid_until"] is None


def test_disable_enable_expire_change_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    prefix = shown(capsys, "create", "team-a")["prefix"]
    assert shown(capsys, "disable", prefix)["state"] == "disabled"
    assert shown(capsys, "enable", prefix)["state"] == "active"
    assert shown(capsys, "expire", prefix)["state"] == "expired"
    assert shown(capsys, "expire", prefix, "--at", "never")["state"] == "active"


def test_file_option_uses_another_file(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    other = home / "elsewhere" / "keys.sqlite"
    shown(capsys, "create", "team-a", "--file", str(other))
    assert shown(capsys, "ls") == {"keys": []}
    assert len(shown(capsys, "ls", "--file", str(other))["keys"]) == 1


@pytest.mark.parametrize("command", ["show", "rotate", "disable", "enable", "expire", "rm"])
def test_unknown_key_is_a_usage_error(command: str) -> None:
    with pytest.raises(UsageError, match="there is no key"):
        lightship(command, "abcdefgh")


def test_expiry_takes_durations_days_and_moments() -> None:
    now_s = datetime(2026, 11, 27, tzinfo=UTC).timestamp()
    assert expiry("90d", now_s) == now_s + 90 * 86_400
    assert expiry("2026-11-28", now_s) == now_s + 86_400
    assert expiry("2026-11-27T02:00+01:00", now_s) == now_s + 3600
    assert expiry("never", now_s) is None
