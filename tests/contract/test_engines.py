"""One contract for every engine: the same checks on real workers, by what their adapters declare.

pytest tests/contract/test_engines.py                          all that is here
pytest tests/contract/test_engines.py -m "not toolchain"       without vLLM and llama.cpp
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.contract import engines
from tests.contract.engines import RunningEngine

from lightship.testing.engine_contract.checks import Check
from lightship.testing.engine_contract.lifecycle import check_drain, check_ends_with_its_parent
from lightship.testing.engine_contract.suite import CHECKS

Start = Callable[[], AbstractContextManager[RunningEngine]]
ENGINES = [
    pytest.param("simulated", marks=pytest.mark.slow),
    pytest.param("remote", marks=pytest.mark.slow),
    pytest.param("openvino", marks=pytest.mark.local),
    pytest.param("llamacpp", marks=pytest.mark.toolchain),
    pytest.param("vllm", marks=pytest.mark.toolchain),
]


@pytest.fixture(scope="session", params=ENGINES)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts one more process of the engine."""
    name: str = request.param

    def start_one() -> AbstractContextManager[RunningEngine]:
        folder: Path = tmp_path_factory.mktemp(name)
        arguments = [request.getfixturevalue("builtin_ir")] if name == "openvino" else []
        started: AbstractContextManager[RunningEngine] = getattr(engines, name)(folder, *arguments)
        return started

    return start_one


@pytest.fixture(scope="session")
def engine(start: Start) -> Iterator[RunningEngine]:
    """One process for all checks: starting some takes half a minute."""
    with start() as running:
        yield running


@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
def test_engine(check: Check, engine: RunningEngine) -> None:
    if not check.applies_to(engine.under_test):
        pytest.skip(f"not declared: {', '.join(sorted(check.needs - engine.under_test.features))}")
    if engine.is_gone():
        pytest.fail("the engine ended in an earlier check", pytrace=False)
    try:
        check.run(engine.under_test)
    except (OSError, http.client.HTTPException) as error:  # no answer at all: what the engine wrote says why
        pytest.fail(f"{type(error).__name__}: {error}; the end of its log:\n{engine.log_tail()}", pytrace=False)


def test_engine_drains(engine: RunningEngine) -> None:
    """The last test of the shared process, which it ends."""
    check_drain(engine.under_test, terminate=engine.terminate, is_gone=engine.is_gone)


def test_engine_ends_with_its_parent(start: Start) -> None:
    with start() as running:
        check_ends_with_its_parent(end_parent=running.end_parent, is_gone=running.is_gone)
