"""Builds llama.cpp's programs inside a toolchain, from the sources that llama-cpp-python ships to the package index.

No wheel carries `llama-server` and `llama-quantize`, and the index is the one place every installation can reach. What
the environment must hold already: scikit-build-core (pip asks it for the source archive's metadata), cmake and ninja.

<environment>/llama.cpp/   the sources; once the programs are there, only what conversion needs
<environment>/build/       objects; ninja goes on here after an interruption; gone at the end
<environment>/bin/         the programs, each renamed into place
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import threading
import zlib
from pathlib import Path, PurePosixPath

from lightship.compression.resources import available_memory_bytes
from lightship.errors import ToolchainError
from lightship.ports.progress import Progress, Task

_TOOLCHAIN = "toolchain gguf"
_DOWNLOAD_TIMEOUT_S = 900.0
# Five minutes on two cores; a single slow one takes six times as long.
_BUILD_TIMEOUT_S = 2 * 3600.0
_COMPILER_TIMEOUT_S = 60.0
_IN_ARCHIVE = ("vendor", "llama.cpp")
# What is large and not built: documents, vocabularies for tests, tests, benchmarks.
_LEFT_OUT = frozenset({"benches", "docs", "examples", "media", "models", "tests"})
# What the conversion job imports, and the licences of it all.
_KEPT = frozenset({"LICENSE", "conversion", "convert_hf_to_gguf.py", "gguf-py", "licenses"})
# Bytes. The largest files of the server take about this much of the compiler's memory.
_COMPILER_BYTES = 1_500_000_000
_NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\] (.*)")


def build_llama_cpp(requirement: str, environment: Path, programs: tuple[str, ...], progress: Progress) -> None:
    """Returns when the programs are in the environment's `bin`; goes on where it was interrupted.

    Args:
        requirement: The source distribution, pinned: `llama-cpp-python==VERSION`.
        programs: Names of cmake's targets.

    Raises: ToolchainError: no compiler, no sources, or the build failed (the last lines say why).
    Effects: writes below `environment`; runs as many compilers as there are cores and memory for.
    """
    binaries = [environment / "bin" / name for name in programs]
    if not all(binary.exists() for binary in binaries):
        compiler = find_compiler()
        with progress.task("building llama.cpp") as task:
            _fetch_sources(requirement, environment, task)
            _configure(requirement, environment, compiler)
            _run_ninja(environment, programs, task)
            for binary in binaries:
                partial = binary.with_name(f"{binary.name}.partial")
                shutil.copy2(environment / "build" / "bin" / binary.name, partial)
                partial.replace(binary)
    _prune(environment)


def find_compiler() -> str:
    """Path of the C++ compiler: the one that the variable `CXX` names, else the system's.

    Raises: ToolchainError: there is none, or no C compiler beside it.
    """
    hint = "Install one: `apt-get install g++` on Debian and Ubuntu, `dnf install gcc-c++` on Fedora."
    named = os.environ.get("CXX", "")
    found = next((path for path in map(shutil.which, [named] if named else ["c++", "g++", "clang++"]) if path), None)
    if found is None:
        what = f"CXX names {named!r}, which is not there" if named else "there is no C++ compiler"
        raise ToolchainError(f"{what}; llama.cpp is built on this machine", where=_TOOLCHAIN, hint=hint)
    if not os.environ.get("CC") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise ToolchainError("there is no C compiler; llama.cpp is built on this machine", where=_TOOLCHAIN, hint=hint)
    return found


def drops_tile_configuration(version: str) -> bool:
    """Whether this release of GCC leaves out stores that AMX kernels need, so that they crash.

    Source: GCC bug 114098, fixed in 12.4, 13.3 and 14.

    >>> drops_tile_configuration("12.2.0"), drops_tile_configuration("13.3.0")
    (True, False)
    """
    major, minor = (int(part) for part in (*version.split("."), "0")[:2])
    first_good = {12: 4, 13: 3}
    return major < 12 or (major in first_good and minor < first_good[major])


def amx_flags(compiler: str) -> str:
    """Flags that leave AMX kernels out where this compiler would miscompile them for this machine; else nothing.

    A macro is taken back instead of `-mno-amx-int8` given, because `-march=native`, which llama.cpp's build adds later,
    would turn it on again.
    """
    macros = _output_of([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    if "__AMX_INT8__" not in macros or "__clang__" in macros:
        return ""
    version = _output_of([compiler, "-dumpfullversion"]).strip()
    return "-U__AMX_INT8__" if re.match(r"\d+(\.|$)", version) and drops_tile_configuration(version) else ""


def _output_of(argv: list[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=_COMPILER_TIMEOUT_S, check=False)
    return result.stdout if result.returncode == 0 else ""


def _fetch_sources(requirement: str, environment: Path, task: Task) -> None:
    sources, archives = environment / "llama.cpp", environment / "sdist"
    if sources.exists():
        return
    task.advance(done=0, total=1, note="sources")
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir()
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "download"]
    pip += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--progress-bar=off", "-d", str(archives)]
    _completed([*pip, requirement], environment, timeout_s=_DOWNLOAD_TIMEOUT_S)
    archive = next(archives.glob("*.tar.gz"), None)
    if archive is None:
        raise _failure(f"pip brought no source archive of {requirement}")
    partial = environment / "llama.cpp.partial"
    shutil.rmtree(partial, ignore_errors=True)
    extract_sources(archive, partial)
    partial.replace(sources)
    shutil.rmtree(archives)


def extract_sources(archive: Path, folder: Path) -> None:
    """Writes the llama.cpp of a source archive into `folder`: regular files only, and none that leads out of it.

    Raises: ToolchainError: it is not such an archive.
    """
    try:
        with tarfile.open(archive) as content:
            for member in content:
                _, *parts = PurePosixPath(member.name).parts or ("",)
                inside = parts[len(_IN_ARCHIVE) :]
                if tuple(parts[: len(_IN_ARCHIVE)]) != _IN_ARCHIVE or not inside or not member.isfile():
                    continue
                if inside[0] in _LEFT_OUT or ".." in inside or (reader := content.extractfile(member)) is None:
                    continue
                target = folder.joinpath(*inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise _failure(f"{archive.name} is damaged: {error}") from error
    if not (folder / "CMakeLists.txt").exists():
        raise _failure(f"{archive.name} holds no llama.cpp")


def _configure(requirement: str, environment: Path, compiler: str) -> None:
    flags = amx_flags(compiler)
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_C_FLAGS": flags,
        "CMAKE_CXX_FLAGS": flags,
        "CMAKE_MAKE_PROGRAM": str(environment / "bin" / "ninja"),
        "BUILD_SHARED_LIBS": "OFF",  # so that a program needs nothing beside it
        "GGML_NATIVE": "ON",
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be downloaded
        "LLAMA_OPENSSL": "OFF",
        # what `--version` prints; without these it is the state of whatever git repository lies above
        "LLAMA_BUILD_COMMIT": requirement.replace("==", "-"),
        "LLAMA_BUILD_NUMBER": "0",
    }
    argv = [str(environment / "bin" / "cmake"), "-G", "Ninja"]
    argv += ["-S", str(environment / "llama.cpp"), "-B", str(environment / "build")]
    _completed([*argv, *(f"-D{name}={value}" for name, value in options.items())], environment, timeout_s=600.0)


def _run_ninja(environment: Path, programs: tuple[str, ...], task: Task) -> None:
    """Compiles. Ninja writes to a pipe of this process, so it ends with it, however that ends."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = available_memory_bytes()
    jobs = cores if memory_bytes is None else max(1, min(cores, memory_bytes // _COMPILER_BYTES))
    argv = [str(environment / "bin" / "ninja"), "-C", str(environment / "build"), f"-j{jobs}", *programs]
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        timer = threading.Timer(_BUILD_TIMEOUT_S, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                if step := _NINJA_STEP.match(line):
                    note = PurePosixPath(step[3].split()[-1]).name if step[3].split() else ""
                    task.advance(done=int(step[1]), total=int(step[2]), note=note)
                else:
                    lines.append(line)
            code = process.wait()
        finally:
            timer.cancel()
            process.terminate()  # it ends its compilers
    if code != 0:
        raise _failure(_last_lines("".join(lines)))


def _prune(environment: Path) -> None:
    shutil.rmtree(environment / "build", ignore_errors=True)
    for path in (environment / "llama.cpp").iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _completed(argv: list[str], environment: Path, *, timeout_s: float) -> None:
    # build back ends look for cmake and ninja on the path
    variables = {**os.environ, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        result = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=variables,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(f"`{Path(argv[0]).name}` did not end within {timeout_s:g} s") from error
    if result.returncode != 0:
        raise _failure(_last_lines(result.stdout + result.stderr))


def _failure(reason: str) -> ToolchainError:
    return ToolchainError(
        f"llama.cpp was not built: {reason}",
        where=_TOOLCHAIN,
        hint="When the cause is mended, run `lightship toolchain install gguf`; it continues.",
    )


def _last_lines(text: str, count: int = 4) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "WARNING: Location" not in line]
    errors = [line for line in lines if "error" in line.lower()]
    return " | ".join((errors or lines)[-count:]) or "no output"
