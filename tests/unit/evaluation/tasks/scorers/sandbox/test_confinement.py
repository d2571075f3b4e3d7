"""Each layer alone: what the others hide is shown to hold by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lightship
from lightship.evaluation.tasks.scorers.sandbox.confinement import filter_program

ROOT = str(Path(lightship.__file__).parents[1])
MODULE = "lightship.evaluation.tasks.scorers.sandbox.confinement"


# Runs in the confined process: what each operation comes to, "done" or the name of its error.
ATTEMPTS = """
import sys
sys.path.insert(0, {root!r})
import {module} as c, json, os, shutil, signal, socket, threading
folder = {folder!r}
if not ({layer}):
    print("null")
    sys.exit()
answers = dict()
for operation in {operations!r}:
    try:
        exec(operation)
    except Exception as error:
        answers[operation] = type(error).__name__
    else:
        answers[operation] = "done"
print(json.dumps(answers))
"""


def attempt(layer: str, operations: list[str], folder: Path) -> dict[str, str]:
    """What each operation comes to under one layer alone; skips where the system lacks the layer."""
    source = ATTEMPTS.format(root=ROOT, module=MODULE, layer=layer, operations=operations, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-S", "-c", source], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] | None = json.loads(done.stdout)
    if answers is None:
        pytest.skip(f"NOT TESTED: this system has no {layer}")
    return answers


def assert_attempts(layer: str, folder: Path, *, done: list[str], refused: list[str]) -> None:
    answers = attempt(layer, [*done, *refused], folder)
    assert {operation: answers[operation] for operation in done} == dict.fromkeys(done, "done")
    assert {operation: answers[operation] for operation in refused} == dict.fromkeys(refused, "PermissionError")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a file beside it."""
    (tmp_path / "kept").write_text("a")
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_seccomp_alone_refuses_processes_network_and_signals(folder: Path) -> None:
    assert_attempts(
        "c.refuse_system_calls()",
        folder,
        done=[
            "socket.socketpair()",
            "signal.raise_signal(signal.SIGCHLD)",
            "c.resource.getrlimit(c.resource.RLIMIT_CPU)",
            "open(folder + '/a', 'w').close()",
            "t = threading.Thread(target=int); t.start(); t.join()",
        ],
        refused=[
            "os.fork()",
            "os.execv('/bin/true', ['true'])",
            "os.posix_spawn('/bin/true', ['true'], {})",
            "socket.socket()",
            "socket.socket(socket.AF_UNIX)",
            "os.kill(os.getppid(), 0)",
            "os.setsid()",
        ],
    )


def test_seccomp_alone_refuses_new_limits(folder: Path) -> None:
    operation = "c.resource.setrlimit(c.resource.RLIMIT_CORE, (0, 0))"
    assert attempt("c.refuse_system_calls()", [operation], folder)[operation] in {"PermissionError", "ValueError"}


def test_landlock_alone_refuses_changes_outside_the_folder(folder: Path) -> None:
    assert_attempts(
        "c.keep_files_outside(folder)",
        folder,
        done=[
            "open('a', 'w').write('a'); os.mkdir('d'); os.rename('a', 'd/b'); os.remove('d/b')",
            "open('/dev/null', 'w').write('a')",
            "open('../kept').read()",
        ],
        refused=[
            "open('../outside', 'w')",
            "open('../kept', 'a')",
            "os.truncate('../kept', 0)",
            "os.remove('../kept')",
            "os.mkdir('../d')",
            "os.symlink('a', '../link')",
            "os.rmdir(folder)",
            "os.mkfifo('../fifo')",
        ],
    )
    assert (folder.parent / "kept").read_text() == "a"


def test_hook_alone_refuses_the_same_to_ordinary_python(folder: Path) -> None:
    assert_attempts(
        "c.add_hook(folder=folder, num_writes=9) is None",
        folder,
        done=[
            "open('a', 'w').write('a'); os.mkdir('d'); os.rename('a', 'd/b'); os.remove('d/b')",
            "open('/dev/null', 'w').write('a')",
            "open('../kept').read()",
            "socket.socketpair()",
        ],
        refused=[
            "socket.socket()",
            "os.fork()",
            "os.system('true')",
            "os.kill(0, 0)",
            "open('../outside', 'w')",
            "os.remove('../kept')",
            "os.rename('../kept', 'mine')",
            "os.truncate('../kept', 0)",
            "os.chmod('../kept', 0)",
            "os.mkdir('../d')",
            "shutil.rmtree('..')",
        ],
    )
    assert (folder.parent / "kept").read_text() == "a"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_program_every_jump_lands_inside_and_the_last_line_allows(machine: str) -> None:
    program = filter_program(machine, process_id=1)
    for index, (code, if_true, if_false, _) in enumerate(program):
        if code in {0x15, 0x35, 0x45}:
            assert index + 1 + max(if_true, if_false) < len(program)
    assert program[-1] == (0x06, 0, 0, 0x7FFF0000)
    assert len(program) < 256  # jumps are eight bits


def test_filter_program_decides_as_the_kernel_would() -> None:
    """An interpreter of the few instructions used, as the oracle for the machine that is not at hand."""
    x86, arm = 0xC000003E, 0xC00000B7
    refused, allowed, missing, killed = 0x00050001, 0x7FFF0000, 0x00050026, 0x80000000
    cases = [
        ("x86_64", x86, 41, (2, 1, 0), refused),  # socket
        ("x86_64", x86, 0, (0, 0, 0), allowed),  # read
        ("x86_64", x86, 56, (0x11, 0, 0), refused),  # clone of a process
        ("x86_64", x86, 56, (0x10F00, 0, 0), allowed),  # clone of a thread
        ("x86_64", x86, 435, (0, 0, 0), missing),  # clone3
        ("x86_64", x86, 234, (7, 7, 6), allowed),  # tgkill of ourselves
        ("x86_64", x86, 234, (8, 8, 6), refused),
        ("x86_64", x86, 302, (0, 0, 0), allowed),  # prlimit64 that reads
        ("x86_64", x86, 302, (0, 0, 1 << 32), refused),  # prlimit64 with a pointer whose lower half is zero
        ("x86_64", x86, 302, (0, 0, 8), refused),
        ("x86_64", x86, 0x40000000, (0, 0, 0), refused),  # x32
        ("x86_64", 0x40000003, 1, (0, 0, 0), killed),  # 32-bit calls
        ("aarch64", arm, 198, (2, 1, 0), refused),
        ("aarch64", arm, 221, (0, 0, 0), refused),  # execve
        ("aarch64", arm, 220, (0x11, 0, 0), refused),
        ("aarch64", arm, 220, (0x10F00, 0, 0), allowed),
        ("aarch64", arm, 63, (0, 0, 0), allowed),  # read
    ]
    for machine, arch, number, arguments, expected in cases:
        words = [number, arch, 0, 0, *(half for value in arguments for half in (value & 0xFFFFFFFF, value >> 32))]
        assert decide(filter_program(machine, process_id=7), words) == expected, (machine, number, arguments)


def decide(program: list[tuple[int, int, int, int]], words: list[int]) -> int:
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        if code == 0x20:
            accumulator = words[operand // 4]
        elif code == 0x06:
            return operand
        else:
            is_true = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            position += if_true if is_true else if_false
