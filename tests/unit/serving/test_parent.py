"""A process that ends with the one that holds its standard input."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# A server in small: it says that it is ready, and how it was stopped.
CHILD = """
import asyncio, signal
from lightship.serving.parent import stop_with_parent

async def main():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    if {watches}:
        stop_with_parent()
    print("ready", flush=True)
    await stopped.wait()
    print("drained", flush=True)

asyncio.run(main())
"""


@contextmanager
def child(*, watches: bool = True) -> Iterator[subprocess.Popen[str]]:
    code = CHILD.format(watches=watches)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-c", code], text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_stop_with_parent_end_of_input_stops_the_process_as_sigterm_does() -> None:
    with child() as process:
        output, log = process.communicate(timeout=30)  # closes its standard input, as the parent's death does
    assert (process.returncode, output) == (0, "drained\n")
    assert "the process that started this one is gone" in log


def test_stop_with_parent_input_that_comes_is_not_the_end() -> None:
    with child() as process:
        assert process.stdin is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0  # its input is still open
        assert process.stderr is not None
        assert "gone" not in process.stderr.read()


def test_stop_with_parent_not_asked_for_ignores_the_end_of_input() -> None:
    with child(watches=False) as process:
        assert process.stdin is not None
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_stop_with_parent_parent_killed_without_a_word_ends_the_process() -> None:
    """The parent in between is killed; the grandchild's answer shows that the system closed the pipe."""
    code = CHILD.format(watches=True)
    between = f"""
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-I", "-c", {code!r}], stdin=subprocess.PIPE)
signal.pause()
"""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-I", "-c", between], text=True, **pipes) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == "drained\n"  # to the end of the output, which the grandchild still held
