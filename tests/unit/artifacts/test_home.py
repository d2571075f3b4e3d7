from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.artifacts.home import data_home


@dataclass(frozen=True)
class Case:
    id: str
    environment: dict[str, str]
    expected: str


CASES = (
    Case("own-variable-wins", {"LIGHTSHIP_HOME": "/data/l", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/data/l"),
    Case("own-variable-tilde", {"LIGHTSHIP_HOME": "~/l", "HOME": "/h"}, "/h/l"),
    Case("xdg", {"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/lightship"),
    Case("relative-xdg-is-not-used", {"XDG_DATA_HOME": "x", "HOME": "/h"}, "/h/.local/share/lightship"),
    Case("empty-is-unset", {"LIGHTSHIP_HOME": "", "XDG_DATA_HOME": "", "HOME": "/h"}, "/h/.local/share/lightship"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_data_home_environment_decides(case: Case) -> None:
    assert data_home(case.environment) == Path(case.expected)


def test_data_home_relative_own_variable_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_home({"LIGHTSHIP_HOME": "data"}) == tmp_path / "data"
