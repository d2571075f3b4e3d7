"""The parts of llama.cpp's jobs that need none of its programs."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from lightship.compression.jobs.convert_gguf import all_finite
from lightship.compression.jobs.llama_programs import run_program

NAN, INFINITY = float("nan"), float("inf")


def logits_file(normalizations: list[tuple[float, float]], *, vocab_size: int = 5) -> bytes:
    """As llama-perplexity writes it: one chunk of a window of four tokens; two floats and padded codes per position."""
    padded = 2 * ((vocab_size + 1) // 2)
    rows = [struct.pack("<2f", *pair) + bytes(2 * padded) for pair in normalizations]
    return b"_logits_" + struct.pack("<3i", 4, vocab_size, 1) + bytes(4 * 4) + b"".join(rows)


@pytest.mark.parametrize(
    ("normalizations", "is_finite"),
    [
        ([(0.1, -16.0)], True),
        ([(0.1, -16.0), (0.0, -3.0)], True),
        ([(0.1, -16.0), (NAN, -16.0)], False),
        ([(0.1, NAN)], False),
        ([(INFINITY, -16.0)], False),
    ],
)
@pytest.mark.parametrize("vocab_size", [5, 6])
def test_all_finite_looks_at_every_position(
    normalizations: list[tuple[float, float]], is_finite: bool, vocab_size: int
) -> None:
    assert all_finite(logits_file(normalizations, vocab_size=vocab_size)) is is_finite


@pytest.mark.parametrize("content", [b"", b"_logits_", logits_file([]), logits_file([(0.1, -1.0)])[:-1], b"x" * 99])
def test_all_finite_what_is_no_such_file_is_an_error(content: bytes) -> None:
    with pytest.raises(RuntimeError, match="no logits"):
        all_finite(content)


def program(tmp_path: Path, code: str) -> list[str]:
    path = tmp_path / "llama-program"
    path.write_text(f"import sys\n{code}\n")
    return [sys.executable, str(path)]


def test_run_program_follows_lines_and_growing_lines_and_writes_whole_ones(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    followed: list[str] = []
    seen = tmp_path / "seen"

    def follow(line: str) -> None:
        followed.append(line)
        if line == "[1]4.1,":
            seen.touch()  # the program goes on when its first piece was followed

    code = (
        "import os, time\n"
        "print('[ 1/ 2] a', flush=True)\n"
        "sys.stdout.write('[1]4.1,'); sys.stdout.flush()\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.001)\n"
        "sys.stdout.write('[2]4.2,\\n')\n"
        'print(\'\\x1b[31m{"event": "error"}\\x1b[0m\')\n'
    )
    written = run_program(program(tmp_path, code), follow)
    assert followed[0] == "[ 1/ 2] a"
    assert "[1]4.1," in followed
    assert written.splitlines()[:2] == ["[ 1/ 2] a", "[1]4.1,[2]4.2,"]
    logged = capfd.readouterr().out.splitlines()
    assert logged[:3] == ["[ 1/ 2] a", "[1]4.1,[2]4.2,", '("event": "error"}']  # not taken for an event of the job


def test_run_program_failure_tells_its_last_words(tmp_path: Path) -> None:
    code = "print('loading'); print('main: error: failed to load'); print('bye'); sys.exit(3)"
    with pytest.raises(RuntimeError, match="main: error: failed to load"):
        run_program(program(tmp_path, code), lambda _line: None)
    with pytest.raises(RuntimeError, match="exit code 3"):
        run_program(program(tmp_path, "sys.exit(3)"), lambda _line: None)
