from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lightship.compression.toolchains.definitions import GGUF
from lightship.compression.toolchains.environment import InstalledToolchain, ToolchainFolder
from lightship.compression.toolchains.llama_cpp import (
    amx_flags,
    build_llama_cpp,
    drops_tile_configuration,
    extract_sources,
    find_compiler,
)
from lightship.errors import ToolchainError
from lightship.testing.recording_progress import RecordingProgress

ROOT = "llama_cpp_python-9/vendor/llama.cpp"


def write_archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def script(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "is_bad"),
    [
        ("11.4.0", True),
        ("12.2.0", True),
        ("12.3.1", True),
        ("12.4.0", False),
        ("13.2.0", True),
        ("13.3", False),
        ("14", False),
    ],
)
def test_drops_tile_configuration_before_the_fixed_releases(version: str, is_bad: bool) -> None:
    assert drops_tile_configuration(version) is is_bad


@pytest.mark.parametrize(
    ("macros", "version", "flags"),
    [
        ("#define __AMX_INT8__ 1", "12.2.0", "-U__AMX_INT8__"),
        ("#define __AMX_INT8__ 1", "12.4.0", ""),
        ("#define __AVX2__ 1", "12.2.0", ""),
        ("#define __AMX_INT8__ 1\n#define __clang__ 1", "12.2.0", ""),
    ],
)
def test_amx_flags_only_where_the_compiler_miscompiles_for_this_machine(
    tmp_path: Path, macros: str, version: str, flags: str
) -> None:
    compiler = script(tmp_path / "c++", f'case "$1" in -dumpfullversion) echo {version};; *) echo "{macros}";; esac')
    assert amx_flags(str(compiler)) == flags


def test_find_compiler_none_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"no C\+\+ compiler") as caught:
        find_compiler()
    assert "apt-get install g++" in str(caught.value.hint)


def test_find_compiler_named_by_the_environment_is_taken_or_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = script(tmp_path / "my-c++", "exit 0")
    monkeypatch.setenv("CXX", str(named))
    monkeypatch.setenv("CC", "cc")
    assert find_compiler() == str(named)
    named.unlink()
    with pytest.raises(ToolchainError, match="CXX names"):
        find_compiler()


def test_extract_takes_regular_files_of_llama_cpp_and_leaves_large_folders_out(tmp_path: Path) -> None:
    archive = write_archive(
        tmp_path / "a.tar.gz",
        {
            f"{ROOT}/CMakeLists.txt": b"project()",
            f"{ROOT}/src/llama.cpp": b"int x;",
            f"{ROOT}/models/vocab.gguf": b"GGUF",
            f"{ROOT}/docs/a.md": b"#",
            "llama_cpp_python-9/setup.py": b"",
            f"{ROOT}/../../../escaped": b"x",
        },
        links={f"{ROOT}/link": "/etc/passwd"},
    )
    folder = tmp_path / "out" / "sources"
    extract_sources(archive, folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"CMakeLists.txt", "src/llama.cpp"}
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnothing", b"plain"])
def test_extract_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ToolchainError, match=r"a\.tar\.gz"):
        extract_sources(tmp_path / "a.tar.gz", tmp_path / "sources")


def test_extract_archive_without_llama_cpp_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", {"x/readme": b""})
    with pytest.raises(ToolchainError, match="holds no llama"):
        extract_sources(archive, tmp_path / "sources")


def environment_with(folder: Path, *, ninja: str) -> Path:
    """An environment whose pip, cmake and ninja are shell scripts."""
    archive = write_archive(folder / "source.tar.gz", {f"{ROOT}/CMakeLists.txt": b"", f"{ROOT}/gguf-py/a.py": b""})
    script(folder / "bin" / "python", f'for last in "$@"; do :; done; cp {archive} {folder}/sdist/')
    script(folder / "bin" / "cmake", f'echo "$*" >> {folder}/configured; mkdir -p {folder}/build/bin')
    script(folder / "bin" / "ninja", ninja)
    return folder


def test_build_interrupted_goes_on_and_leaves_programs_and_conversion_scripts(tmp_path: Path) -> None:
    folder = environment_with(
        tmp_path, ninja="echo '[1/2] Building a.o'; echo 'a.cpp:1: error: no such header'; exit 1"
    )
    with pytest.raises(ToolchainError, match="no such header"):
        build_llama_cpp("llama-cpp-python==9", folder, ("llama-server",), RecordingProgress())
    assert not (folder / "bin" / "llama-server").exists()

    (folder / "build" / "kept").write_text("")
    goes_on = f"test -e {folder}/build/kept || exit 1; echo '[2/2] Linking bin/llama-server'"
    script(folder / "bin" / "ninja", f"{goes_on}; echo x > {folder}/build/bin/llama-server")
    progress = RecordingProgress()
    build_llama_cpp("llama-cpp-python==9", folder, ("llama-server",), progress)
    assert progress.advances[-1] == (2.0, 2.0)
    assert (folder / "bin" / "llama-server").read_text() == "x\n"
    assert [path.name for path in (folder / "llama.cpp").iterdir()] == ["gguf-py"]
    assert not (folder / "build").exists()
    assert "-DLLAMA_BUILD_COMMIT=llama-cpp-python-9" in (folder / "configured").read_text()

    script(folder / "bin" / "cmake", "exit 1")
    build_llama_cpp("llama-cpp-python==9", folder, ("llama-server",), progress)  # nothing to do
    assert progress.titles == ["building llama.cpp"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "it is not there"),
        ("kill -ILL $$", "exit code -4; was it compiled on a machine of another kind"),
        ("true", "exit code 0"),
    ],
)
def test_check_program_that_does_not_start_is_told(tmp_path: Path, program: str | None, reason: str) -> None:
    python = script(tmp_path / "bin" / "python", "exit 0")
    installed = InstalledToolchain(replace(GGUF, programs=("llama-server",)), python)
    if program is not None:
        script(tmp_path / "bin" / "llama-server", program)
    with pytest.raises(ToolchainError, match=f"llama-server does not start: .*{reason}"):
        ToolchainFolder(tmp_path).check(installed)
    script(tmp_path / "bin" / "llama-server", "echo usage; exit 1")
    ToolchainFolder(tmp_path).check(installed)


def test_definition_gguf_pins_its_sources_and_they_change_the_folder() -> None:
    assert GGUF.built_from == f"llama-cpp-python=={GGUF.version_of('llama-cpp-python')}"
    assert {"cmake", "ninja", "scikit-build-core"} <= {one.split("==")[0] for one in GGUF.requirements}
    assert replace(GGUF, built_from="llama-cpp-python==9").lock_digest != GGUF.lock_digest
    assert replace(GGUF, programs=("llama-server",)).lock_digest != GGUF.lock_digest
