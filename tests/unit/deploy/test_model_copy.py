"""The script that copies a variant's files in a cluster, run by a shell: whole, checked, or not at all."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.deploy_cases import CASES, built, input_of, spec_of

from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes.models import model_files
from lightship.ports.deployment import DeployedRung


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the image of a model holds: files, and the sums that its build file makes."""
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "sub/config.json").write_bytes(b"{}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")
    return folder


def copy(image: Path, volume: Path, home: Path) -> subprocess.CompletedProcess[str]:
    (container,) = model_files(*_of(home)).init_containers
    script = container["command"][2].replace("/models/.", f"{image}/.").replace("/mnt/model/", f"{volume}/")
    return subprocess.run([shutil.which("sh") or "/bin/sh", "-c", script], capture_output=True, text=True, check=False)


def _of(home: Path) -> tuple[RenderInput, DeployedRung]:
    around = built(input_of(spec_of(CASES["edge"]), home))
    return around, around.deployment.rungs[0]


def test_copy_leaves_all_files_under_their_final_name(image: Path, tmp_path: Path, deploy_home: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    assert copy(image, volume, deploy_home).returncode == 0
    assert [path.name for path in volume.iterdir()] == ["files"]
    assert (volume / "files/sub/config.json").read_bytes() == b"{}"


def test_copy_second_time_changes_nothing(image: Path, tmp_path: Path, deploy_home: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    copy(image, volume, deploy_home)
    (image / "model.bin").write_bytes(b"other")
    assert copy(image, volume, deploy_home).returncode == 0
    assert (volume / "files/model.bin").read_bytes() == b"weights"


def test_copy_that_is_not_what_the_sums_say_fails_and_is_not_there(
    image: Path, tmp_path: Path, deploy_home: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (image / "model.bin").write_bytes(b"damaged")
    assert copy(image, volume, deploy_home).returncode != 0
    assert not (volume / "files").exists()


def test_copy_after_one_that_was_cut_short_begins_again(image: Path, tmp_path: Path, deploy_home: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "files.partial").mkdir(parents=True)
    (volume / "files.partial/half").write_bytes(b"x")
    assert copy(image, volume, deploy_home).returncode == 0
    assert not (volume / "files/half").exists()
