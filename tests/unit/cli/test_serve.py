"""Several specs on one machine: what only the first may say, and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.cli.serve import load_specs
from lightship.errors import SpecError


def write(folder: Path, **texts: str) -> list[Path]:
    files = []
    for name, text in texts.items():
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(text)
    return files


def test_load_specs_each_with_its_own_name_and_ladder(tmp_path: Path) -> None:
    files = write(tmp_path, a="model: {name: tales}", b="model: {name: more}\nreplicas: {min: 0}")
    specs = load_specs(files, [])
    assert [(one.model.name, one.replicas.min) for one in specs] == [("tales", 1), ("more", 0)]


def test_load_specs_two_of_one_name_is_an_error_naming_the_file(tmp_path: Path) -> None:
    files = write(tmp_path, a="", b="")
    with pytest.raises(SpecError, match="2 specs serve 'fairytales'") as caught:
        load_specs(files, [])
    assert caught.value.where == str(files[0])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("gateway: {listen: '127.0.0.1:9999'}", "gateway.listen"),
        ("replicas: {memory: 2 GiB}", "replicas.memory"),
    ],
)
def test_load_specs_what_the_first_alone_says_is_refused_in_others(tmp_path: Path, text: str, path: str) -> None:
    files = write(tmp_path, a="", b=f"model: {{name: other}}\n{text}")
    with pytest.raises(SpecError, match=f"{path} is said by the first spec alone") as caught:
        load_specs(files, [])
    assert caught.value.where == str(files[1])


def test_load_specs_the_same_in_both_and_overrides_are_accepted(tmp_path: Path) -> None:
    gateway = "gateway: {listen: '127.0.0.1:9999'}"
    files = write(tmp_path, a=gateway, b=f"model: {{name: other}}\n{gateway}")
    specs = load_specs(files, ["replicas.min=0"])
    assert [one.replicas.min for one in specs] == [0, 0]
