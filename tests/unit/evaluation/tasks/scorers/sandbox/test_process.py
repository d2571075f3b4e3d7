from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorers.sandbox.process import Limits, Verdict, run_program

pytestmark = pytest.mark.slow

SMALL = Limits(cpu_s=1, wall_s=20.0, memory_bytes=256 * 2**20, file_bytes=1000, num_writes=5)


@dataclass(frozen=True)
class Case:
    name: str
    program: str
    test: str = ""
    passed: bool = False
    reason: str = ""


CASES = [
    Case("right", "def f(): return 1", "assert f() == 1", passed=True),
    Case("wrong", "def f(): return 2", "assert f() == 1, f()", reason="AssertionError: 2"),
    Case("syntax error", "def f(:", reason="SyntaxError"),
    Case("null byte", "x = '\0'", reason="null bytes"),
    Case("lone surrogate", "x = '\ud800'", reason="UnicodeEncodeError"),
    Case("endless loop", "while True: pass", reason="more than 1 s of processor time"),
    Case(
        "endless loop that ignores the limit's signal",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True:\n try:\n  while True: pass\n"
        " except BaseException: pass",
        reason="ended by signal 9",
    ),
    Case("memory bomb", "x = bytearray(10**10)", reason="MemoryError"),
    Case("slow memory bomb", "x = []\nwhile True: x.append('a' * 10**6)", reason="MemoryError"),
    Case("endless recursion", "def f(): f()\nf()", reason="RecursionError"),
    Case("fork bomb", "import os\nwhile True: os.fork()", reason="os.fork is not allowed"),
    Case("program", "import subprocess\nsubprocess.run(['true'])", reason="subprocess.Popen is not allowed"),
    Case("kill", "import os\nos.kill(os.getppid(), 15)", reason="os.kill is not allowed"),
    Case("thread", "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", passed=True),
    Case("coroutine", "import asyncio\nasync def f(): return 1", "assert asyncio.run(f()) == 1", passed=True),
    Case("name lookup", "import socket\nsocket.create_connection(('localhost', 80))", reason="getaddrinfo is not"),
    Case("socket", "import _socket\n_socket.socket(_socket.AF_INET, 1)", reason="no network"),
    Case("ctypes", "import ctypes\nctypes.CDLL(None)", reason="not allowed"),
    Case("own file", "open('a', 'w').write('b')", "assert open('a').read() == 'b'", passed=True),
    Case(
        "temporary folder", "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/a', 'w')", passed=True
    ),
    Case("big file", "with open('a', 'wb') as f: f.write(b'a' * 2000)", reason="File too large"),
    Case("many files", "for i in range(6): open(str(i), 'w')", reason="more than 5 files written"),
    Case("cwd removed", "import os\nos.rmdir(os.getcwd())", reason="PermissionError"),
    Case("files removed", "import os, shutil\nshutil.rmtree(os.getcwd())", reason="PermissionError"),
    Case("input", "input()", reason="EOFError"),
    Case("exit", "import sys\nsys.exit(0)", reason="SystemExit"),
    Case("hard exit", "import os\nos._exit(0)", reason="ended before its tests did, with exit status 0"),
    Case("hard exit in a test", "import os\ndef f(): os._exit(0)", "f()", reason="ended before its tests did"),
    Case("printed success", "print('passed'); print('passed 1')\nimport os; os._exit(0)", reason="ended before"),
    Case(
        "forged success",
        "import os\nfor i in range(64):\n try: os.write(i, b'passed 0123456789abcdef0123456789abcdef\\n')\n"
        " except OSError: pass\nos._exit(0)",
        reason="ended before",
    ),
    Case("flooded channel", "import os\nwhile True: os.write(3, b'x' * 100)", reason="channel of the verdict"),
    Case(
        "assertion caught",
        "def f():\n try: assert False\n except AssertionError: pass",
        "assert f()",
        reason="Assertion",
    ),
    Case("exec replaced", "import builtins\nbuiltins.exec = lambda *_: None", "assert False", reason="AssertionError"),
    Case("exit replaced", "import os\nos._exit = os.write = None\ndef f(): return 1", "assert f() == 1", passed=True),
    Case(
        "unprintable error",
        "class E(Exception):\n def __str__(self): raise SystemExit\nraise E",
        reason="cannot be shown",
    ),
    Case("not main", "assert __name__ == 'candidate'", passed=True),
    Case("our package", "import lightship", reason="ModuleNotFoundError"),
    Case("installed packages", "import msgspec", reason="ModuleNotFoundError"),
    Case(
        "environment",
        "import os\nassert set(os.environ) - {'LC_CTYPE'} == {'HOME', 'PYTHONHASHSEED', 'TMPDIR'}",
        passed=True,
    ),
    Case(
        "dataclass with late annotations",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: int",
        "assert A(1).x == 1",
        passed=True,
    ),
]


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folder stays, and no child process: neither running nor a zombie."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()  # other tests of the same run may have some
    yield
    assert list(tmp_path.iterdir()) == []
    assert children() - before == set()


def children() -> set[int]:
    """Process ids of this process's children, zombies included, where the system shows them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.add(int(stat.parent.name))
    return found


def run(program: str, test: str = "", *, limits: Limits = SMALL) -> Verdict:
    return asyncio.run(run_program([program, test], limits=limits))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_run_program_passes_only_what_runs_to_its_end(case: Case) -> None:
    verdict = run(case.program, case.test)
    assert (verdict.passed, case.reason in verdict.reason) == (case.passed, True), verdict
    assert case.passed == (verdict.reason == "")


def test_run_program_waiting_for_ever_is_ended_by_the_wall_limit() -> None:
    verdict = run("import time\ntime.sleep(1000)", limits=Limits(wall_s=0.2))
    assert verdict.reason == "more than 0.2 s"


def test_run_program_files_outside_stay_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("outside") / "kept"
    kept.write_text("as it was")
    for program in (
        f"open({str(kept)!r}, 'w')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.truncate({str(kept)!r}, 0)",
        f"import os; os.chmod({str(kept)!r}, 0)",
        f"import os; os.rename({str(kept)!r}, 'mine')",
        f"import shutil; shutil.rmtree({str(kept.parent)!r})",
        f"import os; os.symlink({str(kept)!r}, 'link'); open('link', 'w')",
        f"import os; os.link({str(kept)!r}, 'link'); open('link', 'w')",
    ):
        assert not run(program).passed, program
    assert kept.read_text() == "as it was"
    assert kept.stat().st_mode & 0o400


def test_run_program_order_of_a_set_is_the_same_every_time() -> None:
    program = "order = ''.join({'alpha', 'beta', 'gamma', 'delta'})"
    orders = {run(program, "raise ValueError(order)").reason for _ in range(3)}
    assert len(orders) == 1


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.2])
def test_run_program_cancelled_at_whatever_stage_leaves_nothing(after_s: float) -> None:
    async def cancel() -> None:
        async with asyncio.timeout(after_s):
            await run_program(["import time\ntime.sleep(1000)"], limits=SMALL)

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())


def test_run_program_python_that_is_not_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MeasurementError, match="cannot start a Python"):
        run("")


def test_run_program_sandbox_that_fails_itself_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MeasurementError, match="did not start"):
        run("")
