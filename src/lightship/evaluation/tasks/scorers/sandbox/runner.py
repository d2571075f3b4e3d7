"""Runs inside the sandbox: gives up what it can, executes program and tests, says whether all came to their end.

    standard input    one JSON object: token, stages (source texts, in order), limits
    standard output   "started LAYERS" before the program; then "passed TOKEN", or "failed REASON"

The program gets neither of the two: it sees empty input, and what it prints is dropped. Only the last line with the
token counts as passed, and it is written after the last stage has run to its end. So none of these passes: printing a
word, `sys.exit(0)`, `os._exit(0)`, catching what a test raises, defining another `check` (tests come later),
overwriting `exec` or `compile` (both are taken before). It is no protection from a program that searches this
interpreter's memory for the token, or that returns objects that compare equal to everything.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from typing import Any

from lightship.evaluation.tasks.scorers.sandbox import confinement

# What the program may think it is called; not __main__, so that what follows `if __name__ == "__main__"` stays away.
MODULE_NAME = "candidate"
_MAX_REASON_CHARS = 200


def main() -> None:
    """Never returns; the exit status is 0 after "passed" and "failed"."""
    job = json.loads(sys.stdin.buffer.read())
    channel = _take_standard_streams()
    _forget_ourselves(job["root"])
    module = types.ModuleType(MODULE_NAME)
    sys.modules[MODULE_NAME] = module
    layers = confinement.confine(**job["limits"])
    # Bound now, so that the program cannot put its own in their place.
    write, end = os.write, os._exit
    write(channel, f"started {'+'.join(layers)}\n".encode())
    reason = _reason_to_fail(job["stages"], module.__dict__)
    line = f"passed {job['token']}" if reason is None else f"failed {reason}"
    write(channel, f"{line}\n".encode("utf-8", "replace"))
    end(0)


def _reason_to_fail(stages: list[str], namespace: dict[str, Any]) -> str | None:
    """Why the stages did not all run to their end; None where they did."""
    execute = builtins.exec
    try:
        compiled = [compile(source, f"<stage {number}>", "exec") for number, source in enumerate(stages)]
        for code in compiled:
            execute(code, namespace)
    except BaseException as error:  # noqa: BLE001 - whatever ends the program early, SystemExit too, is a failure
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - the program's own __str__ may do anything
        text = "an exception that cannot be shown"
    return " ".join(text.split())[:_MAX_REASON_CHARS]


def _take_standard_streams() -> int:
    """The channel to the parent; what was standard input, output and error leads nowhere."""
    channel = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    return channel


def _forget_ourselves(root: str) -> None:
    """The program cannot import this package."""
    sys.path.remove(root)
    for name in [name for name in sys.modules if name == "lightship" or name.startswith("lightship.")]:
        del sys.modules[name]
