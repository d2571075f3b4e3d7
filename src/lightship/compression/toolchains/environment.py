"""Makes a toolchain's virtual environment: on first use, once, resumable, through the machine's own pip settings.

<root>/<name>-<lock digest>/          the virtual environment
<root>/<name>-<lock digest>.lock      held while it is being made
<root>/<name>-<lock digest>/lock.txt  written when the environment has pip; without it the environment is made anew
<root>/<name>-<lock digest>/COMPLETE  written last; without it the next call continues where pip was stopped
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightship.compression.toolchains.definitions import TOOLCHAINS, Toolchain
from lightship.compression.toolchains.llama_cpp import build_llama_cpp
from lightship.errors import StorageFullError, ToolchainError
from lightship.ports.progress import Progress
from lightship.units import format_bytes

_INSTALL_TIMEOUT_S = 3600.0
_CHECK_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class InstalledToolchain:
    """A toolchain that is ready: run jobs with `python`."""

    toolchain: Toolchain
    python: Path


@dataclass(frozen=True)
class ToolchainStatus:
    """One line of `lightship toolchain ls`."""

    toolchain: Toolchain
    folder: Path
    is_installed: bool


class ToolchainFolder:
    """All toolchains below one folder of the data directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def ls(self) -> list[ToolchainStatus]:
        """Every known toolchain and whether it is installed."""
        return [
            ToolchainStatus(toolchain, self._folder(toolchain), (self._folder(toolchain) / "COMPLETE").exists())
            for toolchain in TOOLCHAINS.values()
        ]

    def python(self, toolchain: Toolchain) -> Path:
        """Its interpreter, whether it is installed yet or not."""
        return self._folder(toolchain) / "bin" / "python"

    def program(self, toolchain: Toolchain, name: str) -> Path:
        """A program that it brings, whether it is installed yet or not."""
        return self._folder(toolchain) / "bin" / name

    def ensure(self, toolchain: Toolchain, progress: Progress) -> InstalledToolchain:
        """The toolchain, installed if it was not.

        Raises: ToolchainError: pip failed (the last lines say why). StorageFullError: not enough disk.
        Effects: creates a virtual environment; waits while another process makes the same one.
        """
        folder = self._folder(toolchain)
        installed = InstalledToolchain(toolchain, folder / "bin" / "python")
        with self._exclusive(folder):
            if not (folder / "COMPLETE").exists():
                self._check_disk(toolchain)
                self._install(toolchain, folder, progress)
                if toolchain.built_from:
                    build_llama_cpp(toolchain.built_from, folder, toolchain.programs, progress)
                self.check(installed)
                (folder / "COMPLETE").write_text(toolchain.lock_digest + "\n", encoding="utf-8")
        return installed

    def check(self, installed: InstalledToolchain) -> None:
        """Imports what the toolchain is for, and starts what was compiled for it.

        Raises: ToolchainError: an import fails, or a program does not start.
        """
        code = "; ".join(f"import {module}" for module in installed.toolchain.modules)
        argv = [str(installed.python), "-I", "-W", "ignore", "-c", code]
        result = _completed(argv, installed.toolchain, timeout_s=_CHECK_TIMEOUT_S)
        if result.returncode != 0:
            raise ToolchainError(
                f"it was installed but cannot be imported: {_last_lines(result.stderr)}",
                where=f"toolchain {installed.toolchain.name}",
                hint=f"Run `lightship toolchain rm {installed.toolchain.name}` and try again.",
            )
        for name in installed.toolchain.programs:
            self._check_program(installed, installed.python.with_name(name))

    @staticmethod
    def _check_program(installed: InstalledToolchain, program: Path) -> None:
        """Not every program has a status of its own for `--help`; a signal or a missing file are what is looked for."""
        reason = "it is not there"
        if program.exists():
            result = _completed([str(program), "--help"], installed.toolchain, timeout_s=_CHECK_TIMEOUT_S)
            if result.returncode >= 0 and (result.stdout or result.stderr):
                return
            reason = f"it ends with exit code {result.returncode}; was it compiled on a machine of another kind?"
        raise ToolchainError(
            f"{program.name} does not start: {reason}",
            where=f"toolchain {installed.toolchain.name}",
            hint=f"Run `lightship toolchain rm {installed.toolchain.name}` and try again.",
        )

    def rm(self, toolchain: Toolchain) -> bool:
        """Removes the environment; False when there was none."""
        folder = self._folder(toolchain)
        if not folder.exists():
            return False
        with self._exclusive(folder):
            for marker in ("COMPLETE", "lock.txt"):  # first, so that half of it is never taken for the whole
                (folder / marker).unlink(missing_ok=True)
            shutil.rmtree(folder)
        return True

    def _folder(self, toolchain: Toolchain) -> Path:
        return self._root / f"{toolchain.name}-{toolchain.lock_digest}"

    @contextmanager
    def _exclusive(self, folder: Path) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check_disk(self, toolchain: Toolchain) -> None:
        free_bytes = shutil.disk_usage(self._root).free
        if free_bytes < toolchain.approximate_bytes:
            raise StorageFullError(
                f"toolchain {toolchain.name} takes about {format_bytes(toolchain.approximate_bytes)}, "
                f"{format_bytes(free_bytes)} are free",
                where=str(self._root),
                hint="Free some space, or set LIGHTSHIP_HOME to a larger disk.",
            )

    @staticmethod
    def _install(toolchain: Toolchain, folder: Path, progress: Progress) -> None:
        with progress.task(f"installing toolchain {toolchain.name}") as task:
            lock_path = folder / "lock.txt"
            if not lock_path.exists():  # not `bin/python`, which is there before pip is
                _run([sys.executable, "-m", "venv", "--clear", str(folder)], toolchain)
            lock_path.write_text(toolchain.lock_text, encoding="utf-8")
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--progress-bar=off"]
            pip += ["--disable-pip-version-check"]
            task.advance(done=0, total=1, note="torch")
            # torch first and with its dependencies: which CUDA packages it needs differs by platform and build
            _run([*pip, "-c", str(lock_path), f"torch=={toolchain.version_of('torch')}"], toolchain)
            argv = [*pip, "--no-deps", "-r", str(lock_path)]
            total = float(2 * len(toolchain.requirements))
            done = 0
            lines: list[str] = []
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                timer = threading.Timer(_INSTALL_TIMEOUT_S, process.kill)
                timer.start()
                try:
                    for line in process.stdout or ():
                        lines.append(line)
                        if line.startswith(("Collecting ", "Requirement already")):
                            done += 1
                            task.advance(done=done, total=total, note=line.split()[1])
                        elif line.startswith("Installing collected"):
                            task.advance(done=total / 2, total=total, note="unpacking")
                    code = process.wait()
                finally:
                    timer.cancel()
                    process.kill()
            if code != 0:
                raise _pip_error(toolchain, "".join(lines))
            task.advance(done=total, total=total)


def _run(argv: list[str], toolchain: Toolchain) -> None:
    result = _completed(argv, toolchain, timeout_s=_INSTALL_TIMEOUT_S)
    if result.returncode != 0:
        raise _pip_error(toolchain, result.stdout + result.stderr)


def _completed(argv: list[str], toolchain: Toolchain, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(
            f"`{' '.join(argv[1:4])} ...` did not end within {timeout_s:g} s",
            where=f"toolchain {toolchain.name}",
            hint="Check the machine's load and its network, then run the command again; it continues.",
        ) from error


def _pip_error(toolchain: Toolchain, output: str) -> ToolchainError:
    return ToolchainError(
        f"installation failed: {_last_lines(output)}",
        where=f"toolchain {toolchain.name}",
        hint="Check that pip reaches a package index from this machine, then run the command again; it continues.",
    )


def _last_lines(text: str, count: int = 3) -> str:
    lines = [line for line in text.strip().splitlines() if line and "WARNING" not in line]
    return " | ".join(lines[-count:]) or "no output"
