"""Checks on an engine with several requests, and on clients that leave."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from lightship.engines.base import EngineFeature
from lightship.testing.engine_contract.answers import COMPLETIONS
from lightship.testing.engine_contract.checks import Checks
from lightship.testing.engine_contract.subject import EngineUnderTest, expect, wait_until

LOAD = Checks()
_NUM_STREAMS = 16
_SETTLE_S = 10.0


@LOAD.needing(EngineFeature.COMPLETIONS)
def streams_at_once_all_end_whole_and_leave_nothing(engine: EngineUnderTest) -> None:
    def one(seed: int) -> tuple[int, bool]:
        options = {"include_usage": True}
        stream = engine.stream(COMPLETIONS, max_tokens=24, seed=seed, stream_options=options, **engine.goes_on)
        return stream.events[-1]["usage"]["completion_tokens"], stream.is_done

    with ThreadPoolExecutor(_NUM_STREAMS) as pool:
        expect(set(pool.map(one, range(_NUM_STREAMS))) == {(24, True)}, "some streams ended early")
    wait_until(lambda: engine.num_requests() == 0, timeout_s=_SETTLE_S, what="no request is left")


@LOAD.needing(EngineFeature.COMPLETIONS)
def client_that_leaves_frees_its_sequence(engine: EngineUnderTest) -> None:
    """It is gone long before it could have ended, at the speed of an answer before it."""
    num_tokens, num_timed = 900, 60
    wait_until(lambda: engine.num_requests() == 0, timeout_s=_SETTLE_S, what="no request is left")
    started_s = time.monotonic()
    engine.complete(max_tokens=num_timed, **engine.goes_on)
    token_s = (time.monotonic() - started_s) / num_timed
    started_s = time.monotonic()
    with engine.streaming(COMPLETIONS, max_tokens=num_tokens, **engine.goes_on) as events:
        next(events)
        wait_until(lambda: engine.num_requests() >= 1, timeout_s=_SETTLE_S, what="the request is counted")
    rest_s = max(0.0, num_tokens * token_s - (time.monotonic() - started_s))
    gone_after_s = wait_until(lambda: engine.num_requests() == 0, timeout_s=rest_s + _SETTLE_S, what="it is gone")
    expect(
        gone_after_s < max(rest_s / 2, 0.5), f"it was gone after {gone_after_s:.2f} s; it would end in {rest_s:.2f} s"
    )


@LOAD.needing(EngineFeature.COMPLETIONS)
def metrics_are_those_a_gateway_reads(engine: EngineUnderTest) -> None:
    engine.gauges()
    wait_until(lambda: engine.num_requests() == 0, timeout_s=_SETTLE_S, what="no request is left")
