"""Toolchains are made of tiny wheels in a folder: pip runs as it would, and reaches no index."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightship.compression.toolchains.definitions import Toolchain
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.errors import StorageFullError, ToolchainError
from lightship.testing.recording_progress import RecordingProgress


@dataclass(frozen=True)
class TinyToolchain(Toolchain):
    """A toolchain whose lock is given."""

    name: str = "tiny"
    purpose: str = "for tests"
    modules: tuple[str, ...] = ("torch", "abacus")
    approximate_bytes: int = 1
    lock: tuple[str, ...] = field(default=("torch==1.0", "abacus==2.0"))

    @property
    def lock_text(self) -> str:
        return "# comment\n" + "".join(f"{requirement}\n" for requirement in self.lock)


def write_wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    """A pure-Python wheel, written from the format's description (PEP 427)."""
    files = {
        f"{name}/__init__.py": code,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        for path, content in files.items()
    }
    record = f"{name}-{version}.dist-info/RECORD"
    files[record] = "".join(f"{path},sha256={digest},\n" for path, digest in digests.items()) + f"{record},,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place packages come from; `torch` is there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    write_wheel(folder, "torch", "1.0")
    return folder


def pretend_environment(root: Path, toolchain: Toolchain, *, script: str) -> Path:
    """An environment that has pip, so that only packages are left to install; its interpreter is a shell script."""
    folder = root / f"{toolchain.name}-{toolchain.lock_digest}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\necho "$*" >> {folder}/calls\n{script}\n')
    (folder / "bin" / "python").chmod(0o755)
    (folder / "lock.txt").write_text("an older one\n")
    return folder


def test_ensure_stopped_by_pip_says_its_last_lines_and_the_next_call_goes_on_there(
    wheels: Path, tmp_path: Path
) -> None:
    """The one test with a real environment, which takes seconds: it fails, goes on, is used and is removed."""
    toolchains, toolchain = ToolchainFolder(tmp_path / "toolchains"), TinyToolchain()
    with pytest.raises(ToolchainError, match=r"installation failed.*No matching distribution found for abacus==2\.0"):
        toolchains.ensure(toolchain, RecordingProgress())
    (environment,) = (path for path in (tmp_path / "toolchains").iterdir() if path.is_dir())
    assert not (environment / "COMPLETE").exists()
    (environment / "kept").write_text("")

    write_wheel(wheels, "abacus", "2.0")
    progress = RecordingProgress()
    installed = toolchains.ensure(toolchain, progress)
    assert installed.python == environment / "bin" / "python"
    assert (environment / "kept").exists()  # it was not made anew
    assert progress.titles == ["installing toolchain tiny"]
    assert progress.advances[-1] == (4.0, 4.0)
    toolchains.check(installed)

    write_wheel(wheels, "abacus", "2.0", "raise SystemExit(1)")
    assert toolchains.ensure(toolchain, progress) == installed
    assert progress.titles == ["installing toolchain tiny"]  # nothing to do
    assert toolchains.rm(toolchain)
    assert not environment.exists()
    assert not toolchains.rm(toolchain)


def test_ensure_without_pip_in_a_half_made_environment_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once `bin/python` alone was taken for an environment, and every later call ended in 'No module named pip'."""
    toolchain = TinyToolchain()
    folder = pretend_environment(tmp_path, toolchain, script="exit 0")
    (folder / "lock.txt").unlink()
    host = tmp_path / "host-python"
    host.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/host-calls\n')
    host.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(host))
    ToolchainFolder(tmp_path).ensure(toolchain, RecordingProgress())
    assert (tmp_path / "host-calls").read_text() == f"-m venv --clear {folder}\n"


def test_ensure_installs_torch_first_and_the_lock_without_dependencies(tmp_path: Path) -> None:
    toolchain = TinyToolchain()
    folder = pretend_environment(tmp_path, toolchain, script="exit 0")
    ToolchainFolder(tmp_path).ensure(toolchain, RecordingProgress())
    torch, rest, check = (folder / "calls").read_text().splitlines()
    assert torch.endswith(f"-c {folder}/lock.txt torch==1.0")
    assert rest.endswith(f"--no-deps -r {folder}/lock.txt")
    assert "index" not in torch + rest  # which index is the business of the machine's own pip settings
    assert check.endswith("-c import torch; import abacus")
    assert (folder / "lock.txt").read_text() == toolchain.lock_text


def test_ensure_package_that_cannot_be_imported_is_not_taken_for_complete(tmp_path: Path) -> None:
    toolchain = TinyToolchain()
    script = 'case "$*" in *"import torch"*) echo "OSError: libgomp.so.1" >&2; exit 1;; esac'
    folder = pretend_environment(tmp_path, toolchain, script=script)
    with pytest.raises(ToolchainError, match=r"cannot be imported: OSError: libgomp\.so\.1.*toolchain rm tiny"):
        ToolchainFolder(tmp_path).ensure(toolchain, RecordingProgress())
    assert not (folder / "COMPLETE").exists()


def test_ensure_pip_that_fails_late_tells_the_end_of_its_output_without_warnings(tmp_path: Path) -> None:
    lines = ["Collecting torch", "one", "two", "ERROR: no space", "WARNING: old pip"]
    script = 'case "$*" in *--no-deps*) ' + "; ".join(f'echo "{line}"' for line in lines) + "; exit 1;; esac"
    pretend_environment(tmp_path, TinyToolchain(), script=script)
    with pytest.raises(ToolchainError) as caught:
        ToolchainFolder(tmp_path).ensure(TinyToolchain(), RecordingProgress())
    assert caught.value.what == "installation failed: one | two | ERROR: no space"
    assert caught.value.where == "toolchain tiny"


def test_ensure_too_little_disk_is_told_before_anything_is_made(tmp_path: Path) -> None:
    toolchain = TinyToolchain(approximate_bytes=2**60)
    with pytest.raises(StorageFullError, match=r"tiny takes about 1048576.* TiB.*LIGHTSHIP_HOME"):
        ToolchainFolder(tmp_path).ensure(toolchain, RecordingProgress())
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_ensure_changed_lock_is_another_environment(tmp_path: Path) -> None:
    old, new = TinyToolchain(), TinyToolchain(lock=("torch==1.0", "abacus==2.1"))
    folders = [pretend_environment(tmp_path, toolchain, script="exit 0") for toolchain in (old, new)]
    made = [ToolchainFolder(tmp_path).ensure(toolchain, RecordingProgress()).python for toolchain in (old, new)]
    assert made == [folder / "bin" / "python" for folder in folders]
    assert made[0] != made[1]


def test_rm_interrupted_half_way_is_never_taken_for_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    folder = pretend_environment(tmp_path, TinyToolchain(), script="exit 0")
    toolchains = ToolchainFolder(tmp_path)
    toolchains.ensure(TinyToolchain(), RecordingProgress())
    monkeypatch.setattr("shutil.rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        toolchains.rm(TinyToolchain())
    assert sorted(path.name for path in folder.iterdir()) == ["bin", "calls"]  # the next use makes it anew
