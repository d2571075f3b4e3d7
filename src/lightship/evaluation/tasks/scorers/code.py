"""Scores generated Python functions by running tests on them, in a sandbox; see `sandbox.process` for what it holds.

pass@k is the chance that at least one of k samples passes, estimated without bias from n samples of which c pass:

    pass@k = 1 - C(n - c, k) / C(n, k)

Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
"""

from __future__ import annotations

import asyncio
import keyword
import os
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.code_text import code_of, complete_program, has_definition
from lightship.evaluation.tasks.scorers.options import (
    check_known,
    flag_option,
    is_whole,
    missing_or_wrong,
    number_option,
    shown,
    text_field,
    texts_field,
    whole_option,
)
from lightship.evaluation.tasks.scorers.sandbox.process import Limits, run_program

_OPTIONS = ("cpu_limit_s", "k", "memory_mib", "run_generated_code", "samples", "wall_limit_s")
_MAX_SAMPLES = 1000
_MIB = 2**20


def pass_at_k(*, num_samples: int, num_passed: int, k: int) -> float:
    """The chance that at least one of k samples, drawn without replacement, is among those that passed.

    Raises: ValueError: not 0 <= num_passed <= num_samples, or not 1 <= k <= num_samples.

    >>> pass_at_k(num_samples=5, num_passed=2, k=1)
    0.4
    """
    if not 0 <= num_passed <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_passed} passed of {num_samples}")
    # As one fraction of whole numbers, so that 2 of 5 is 0.4 and not 1 - 0.6 in binary.
    total = comb(num_samples, k)
    return (total - comb(num_samples - num_passed, k)) / total


class CodeScorer:
    """`pass@k` for each k asked for.

    An item is in HumanEval's form (`prompt` with code that ends inside a function, `entry_point` with its name, `test`
    with a function `check`) or in MBPP's (`tests` or `test_list` with assertions, and `setup` or `test_setup_code` with
    code that runs before them, where there is any). Each sample is run with all tests; it passes or it does not.
    """

    kind = "code"

    def __init__(self, options: Mapping[str, Any]) -> None:
        """From the options `run_generated_code` (must be true), `samples` (default 1), `k` (a list, default [1]),
        `cpu_limit_s` (default 5), `wall_limit_s` (default 30) and `memory_mib` (default 1024), which hold per sample.

        Raises: MeasurementError: an unknown or wrong option, or the user did not agree to code being run.
        """
        check_known(options, _OPTIONS, what="option")
        if not flag_option(options, "run_generated_code", default=False):
            raise MeasurementError(
                "this task runs code that a model wrote, on this machine",
                hint="Set run_generated_code: true under score: when you accept that. The code gets a process of its "
                "own with limits, no network and one folder to write in, but not a virtual machine.",
            )
        self.min_samples = whole_option(options, "samples", default=1, at_least=1, at_most=_MAX_SAMPLES)
        self._ks = _read_ks(options.get("k", [1]), samples=self.min_samples)
        self._limits = Limits(
            cpu_s=whole_option(options, "cpu_limit_s", default=5, at_least=1, at_most=3600),
            wall_s=number_option(options, "wall_limit_s", default=30.0, at_least=0.1, at_most=7200.0),
            memory_bytes=whole_option(options, "memory_mib", default=1024, at_least=64, at_most=1024 * 1024) * _MIB,
        )
        self.metrics: tuple[str, ...] = tuple(f"pass@{k}" for k in self._ks)
        # Where all samples are drawn there is nothing to estimate: one passed, or none did.
        self.binary_metrics: tuple[str, ...] = tuple(f"pass@{k}" for k in self._ks if k == self.min_samples)
        self.details = f"cpu_limit_s={self._limits.cpu_s}"
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    def check(self, item: Item) -> None:
        """Returns when the item is in one of the two forms."""
        self._stages(item, "")

    def prompt(self, item: Item) -> str | None:
        """None: the task's template is used."""

    def target(self, item: Item) -> str:
        """The tests."""
        return "\n".join(_tests_of(item))

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """`pass@k` from exactly `min_samples` samples.

        Raises: MeasurementError: another number of samples, or the sandbox cannot be started.
        Effects: runs generated code in the sandbox, as many programs at a time as there are processors.
        """
        if len(texts) != self.min_samples:
            raise MeasurementError(
                f"{len(texts)} samples were generated, the option 'samples' says {self.min_samples}",
                hint="Ask the endpoint for as many as are scored.",
            )
        num_passed = 0
        for text in texts:
            async with self._slot():
                verdict = await run_program(self._stages(item, text), limits=self._limits)
            num_passed += verdict.passed
        return {f"pass@{k}": pass_at_k(num_samples=len(texts), num_passed=num_passed, k=k) for k in self._ks}

    def _slot(self) -> asyncio.Semaphore:
        # Programs that compete for processors would hit the wall limit, so that the load decided what passes. A
        # semaphore belongs to one loop, and a scorer may outlive it.
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(os.cpu_count() or 1))
        return self._slots[1]

    def _stages(self, item: Item, reply: str) -> list[str]:
        tests = _tests_of(item)
        if "entry_point" not in item.fields:
            return [code_of(reply, entry_point=None), *tests]
        entry_point = text_field(item, "entry_point")
        if not entry_point.isidentifier() or keyword.iskeyword(entry_point):
            raise missing_or_wrong(item.fields, "entry_point", "the name of a function")
        prompt = text_field(item, "prompt")
        if not has_definition(prompt, entry_point):
            raise MeasurementError(f"field 'prompt' does not begin the function {entry_point!r} of 'entry_point'")
        return [complete_program(prompt, reply, entry_point=entry_point), *tests, f"check({entry_point})"]


def _tests_of(item: Item) -> tuple[str, ...]:
    fields = item.fields
    if "entry_point" in fields:
        if "tests" in fields or "test_list" in fields:
            raise MeasurementError("the item has both 'entry_point' and a list of tests", hint="Remove one of the two.")
        test = text_field(item, "test")
        if not has_definition(test, "check"):
            raise MeasurementError("field 'test' does not define check(candidate)")
        return (test,)
    name = "test_list" if "test_list" in fields else "tests"
    tests = texts_field(item, name)
    if not any(test.strip() for test in tests):
        raise missing_or_wrong(fields, name, "at least one assertion")
    setup_name = next((name for name in ("setup", "test_setup_code") if name in fields), None)
    setup = texts_field(item, setup_name) if setup_name is not None and fields[setup_name] else ()
    return (*setup, *tests)


def _read_ks(value: Any, *, samples: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(is_whole(k) and 1 <= k <= samples for k in value):
        raise MeasurementError(
            f"option 'k': expected a list of whole numbers from 1 to {samples}, got {shown(value)}",
            hint="pass@k needs at least k samples; see the option 'samples'.",
        )
    if len(set(value)) < len(value):
        raise MeasurementError(f"option 'k' names a number twice: {shown(value)}")
    return tuple(value)
