"""llama.cpp's programs and conversion sources inside the toolchain `gguf`, as its jobs use them."""

from __future__ import annotations

import codecs
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def program(name: str) -> str:
    """Path of a program of the toolchain that runs this job."""
    return str(Path(sys.prefix) / "bin" / name)


def sources() -> Path:
    """Folder of llama.cpp's conversion scripts."""
    return Path(sys.prefix) / "llama.cpp"


def num_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_program(argv: Sequence[str], follow: Callable[[str], None]) -> str:
    """Runs a program to its end; what it wrote, which also goes to the job's log.

    The program writes to a pipe of this process, so it ends with the job at its next word, however the job ends.

    Args:
        follow: Is given each line as it comes, and a line under way each time that it has grown past a comma.

    Raises: RuntimeError: it failed; the message has its last words.
    """
    output: list[str] = []
    line = ""
    # Where the cores are shared, threads that wait for each other by spinning take a hundred times as long.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(list(argv), env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            while content := os.read(process.stdout.fileno(), 65536):
                text = _COLOURS.sub("", decoder.decode(content))
                output.append(text)
                num_told = line.count(",")
                *lines, line = (line + text).split("\n")
                for one in lines:
                    # whole lines, and none that looks like an event: those of `follow` stand between them
                    print(one.replace("{", "("), flush=True)
                    follow(one)
                if line.count(",") > (0 if lines else num_told):
                    follow(line)
            code = process.wait()
        finally:
            process.kill()
    print(line, flush=True)
    written = "".join(output)
    if code != 0:
        raise RuntimeError(f"{Path(argv[0]).name} failed: {_last_words(written, code)}")
    return written


def _last_words(written: str, code: int) -> str:
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|fail|nan|invalid", line, re.IGNORECASE)]
    return " | ".join((errors or lines)[-3:]) or f"it ended with exit code {code}"
