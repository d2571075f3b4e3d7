"""Checks on the end of an engine's process: they end it, so they come last."""

from __future__ import annotations

import http.client
from collections.abc import Callable

from lightship.engines.base import EngineQuirk
from lightship.engines.remote import RETRYABLE_STATUSES
from lightship.testing.engine_contract.answers import COMPLETIONS
from lightship.testing.engine_contract.subject import EngineUnderTest, expect, wait_until

_END_S = 15.0


def check_drain(engine: EngineUnderTest, *, terminate: Callable[[], None], is_gone: Callable[[], bool]) -> None:
    """Told to end, it finishes what is under way, refuses the rest in a way a gateway tries elsewhere, and is gone.

    Args:
        engine: With nothing under way.
        terminate: Sends SIGTERM to its process.
        is_gone: Whether the process and all its helpers have ended.

    Raises: ContractError.
    """
    with engine.streaming(COMPLETIONS, max_tokens=500, **engine.goes_on) as events:
        first = next(events)
        terminate()
        if engine.has(EngineQuirk.SERVES_WHILE_DRAINING):
            expect(_status_of_another(engine) == 200, "it refused a request, and says that it does not")
        else:
            # the signal takes a moment to arrive
            wait_until(lambda: _status_of_another(engine) in RETRYABLE_STATUSES | {0}, timeout_s=3.0, what="it refuses")
        rest = list(events)
    expect(rest[-1] is None, "the stream under way did not end with [DONE]")
    reasons = [
        choice["finish_reason"]
        for event in (first, *rest)
        if event
        for choice in event["choices"]
        if choice.get("finish_reason")
    ]
    expect(reasons == ["length"], f"the stream under way ended by {reasons}")
    wait_until(is_gone, timeout_s=_END_S, what="the process is gone once nothing is under way")


def check_ends_with_its_parent(*, end_parent: Callable[[], None], is_gone: Callable[[], bool]) -> None:
    """Once whoever started it is gone, so are the process and all its helpers.

    Raises: ContractError.
    """
    end_parent()
    wait_until(is_gone, timeout_s=_END_S, what="process and helpers are gone")


def _status_of_another(engine: EngineUnderTest) -> int:
    """Status of a short request, 0 where nobody listens any more."""
    try:
        return engine.ask("POST", COMPLETIONS, {"model": engine.model, "prompt": "hi", "max_tokens": 1}).status
    except (OSError, http.client.HTTPException):
        return 0
