"""Calibration: what is told from records, by hand; and the whole way round against a server whose costs are known."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from starlette.types import Message, Scope

from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.fitting import fit_costs
from lightship.engines.simulated.simulation import SimulatedRequest, simulate
from lightship.engines.simulated.worker import build_worker
from lightship.errors import MeasurementError
from lightship.evaluation.performance.calibration import (
    CalibrationPlan,
    CalibrationRun,
    run_calibration,
    ttft_observation,
)
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.connections import Receiver
from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    EngineWork,
    ProfileOrigin,
    ProfileSource,
    StepCosts,
)
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

LIMITS = EngineLimits(max_batched_tokens=256, kv_block_tokens=32, context_length=1024)


def record(*times_s: float, num_prompt: int, sent_s: float = 0.0, num_cached: int = 0) -> RequestRecord:
    return RequestRecord(
        scheduled_s=sent_s,
        sent_s=sent_s,
        token_times_s=times_s,
        ended_s=times_s[-1],
        num_prompt_tokens=num_prompt,
        num_output_tokens=len(times_s),
        num_cached_tokens=num_cached,
    )


def test_ttft_observation_counts_chunks_and_what_was_not_cached() -> None:
    observation = ttft_observation(record(1.5, num_prompt=600, num_cached=64, sent_s=1.0), LIMITS)
    assert observation.duration_s == 0.5
    assert observation.work == EngineWork(
        num_steps=3,  # 536 tokens in steps of 256, 256 and 24
        num_batch_changes=2,  # from one decoding token to 256, and to 24
        num_prefill_tokens=536,
        num_prefill_pairs=536 * 64 + 536 * 537 / 2,
        num_new_requests=1,
        num_request_latencies=1,
    )


def test_ttft_observation_of_a_prompt_of_full_steps_changes_once() -> None:
    observation = ttft_observation(record(1.5, num_prompt=512, sent_s=1.0), LIMITS)
    assert (observation.work.num_steps, observation.work.num_batch_changes) == (2, 1)


# The whole way round, in virtual time.

TRUE = StepCosts(
    step_s=0.003,
    batch_change_s=0.0015,
    prefill_token_s=0.0002,
    prefill_pair_s=3e-7,
    decode_token_s=0.0005,
    context_token_s=6e-7,
    new_request_s=0.004,
    request_latency_s=0.006,
)
PROFILE = EngineProfile(
    name="true",
    costs=TRUE,
    limits=LIMITS,
    source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="test"),
)
WORDS = [f"{letter}{number}" for letter in "abcdefghijklmnopqrstuvwxyz" for number in range(100, 400)]
WAITS = HopTimeouts(connect_s=1e6, first_token_s=1e6, next_token_s=1e6, total_s=1e6)


class SimulatedEndpoint:
    """The simulated worker's app in memory, as an endpoint of the load client."""

    def __init__(self, profile: EngineProfile) -> None:
        config = SimulatedWorkerConfig(
            model_name="m", variant_name="v", variant_digest="d", profile=profile, max_waiting_requests=10_000
        )
        self._app, self.runner, _ = build_worker(config, clock=LoopClock())

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "headers": [(b"content-type", b"application/json")],
        }
        sent: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if sent:
                return sent.pop()
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                receiver.start(message["status"])
            elif message["body"]:
                receiver.receive(message["body"])

        await self._app(scope, receive, send)


def texts() -> list[str]:
    words = list(WORDS)
    random.Random(0).shuffle(words)
    return [" ".join(words)]


QUICK_PLAN = CalibrationPlan(
    prompt_tokens=(16, 64, 160, 320, 640),
    num_repeats=2,
    concurrencies=(1, 4, 16),
    decode_contexts=(32, 400),
    num_decode_tokens=24,
    mixed_concurrencies=(4, 16),
    mixed_requests_per_user=5,
)


def calibrate(profile: EngineProfile, plan: CalibrationPlan = QUICK_PLAN) -> CalibrationRun:
    async def main() -> CalibrationRun:
        endpoint = SimulatedEndpoint(profile)
        client = LoadClient(endpoint, "m", clock=LoopClock(), limits=WAITS, has_fixed_length=True)
        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(endpoint.runner.run())
            run = await run_calibration(client, plan, profile.limits, texts=texts(), chars_per_token=4.0)
            stepping.cancel()
        return run

    return run_in_virtual_time(main())


def test_calibration_of_a_known_server_finds_its_costs() -> None:
    run = calibrate(PROFILE)
    costs, fit = fit_costs(run.observations)
    assert run.keeps_prefixes
    # not exact: a request that comes during a step waits for its end, and prompts lie across interval borders
    assert costs.prefill_token_s == pytest.approx(TRUE.prefill_token_s, rel=0.1)
    assert costs.decode_token_s == pytest.approx(TRUE.decode_token_s, rel=0.1)
    assert costs.step_s == pytest.approx(TRUE.step_s, rel=0.25)
    assert costs.new_request_s + costs.request_latency_s == pytest.approx(0.010, rel=0.25)
    assert fit.median_error < 0.03


def test_calibration_sees_that_prefixes_are_not_kept() -> None:
    without = msgspec.structs.replace(PROFILE, limits=msgspec.structs.replace(LIMITS, has_prefix_cache=False))
    assert not calibrate(without).keeps_prefixes


def test_fitted_profile_predicts_goodput_at_loads_it_was_not_fitted_on() -> None:
    costs, _ = fit_costs(calibrate(PROFILE).observations)
    fitted = msgspec.structs.replace(PROFILE, costs=costs)
    for rate in (6.0, 12.0, 16.0, 24.0):
        load = poisson_load(rate, duration_s=40.0)
        true = [outcome.meets(ttft_s=0.4, tpot_s=0.04) for outcome in simulate(PROFILE, load)]
        predicted = [outcome.meets(ttft_s=0.4, tpot_s=0.04) for outcome in simulate(fitted, load)]
        assert sum(predicted) == pytest.approx(sum(true), rel=0.15, abs=0.02 * len(load)), rate


def poisson_load(rate: float, *, duration_s: float) -> list[SimulatedRequest]:
    rng = random.Random(11)
    load = []
    now_s = rng.expovariate(rate)
    while now_s < duration_s:
        load.append(SimulatedRequest(now_s, rng.randint(8, 400), rng.randint(4, 120)))
        now_s += rng.expovariate(rate)
    return load


def test_worker_in_real_time_and_simulation_agree_on_every_token() -> None:
    load = poisson_load(10.0, duration_s=10.0)
    words = texts()[0]

    async def main() -> list[RequestRecord]:
        endpoint = SimulatedEndpoint(PROFILE)
        client = LoadClient(endpoint, "m", clock=LoopClock(), limits=WAITS, has_fixed_length=True)

        async def one(index: int, request: SimulatedRequest) -> RequestRecord:
            await asyncio.sleep(request.arrival_s)
            prompt = words[index * 97 :][: request.num_prompt_tokens * 4]
            return await client.complete(prompt, max_tokens=request.num_output_tokens)

        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(endpoint.runner.run())
            waiting = [group.create_task(one(index, request)) for index, request in enumerate(load)]
            records = [await task for task in waiting]
            stepping.cancel()
        return records

    records = run_in_virtual_time(main())
    for seen, outcome in zip(records, simulate(PROFILE, load), strict=True):
        assert seen.error is None
        assert list(seen.token_times_s) == pytest.approx(list(outcome.token_times_s), abs=1e-6)


def test_calibration_request_that_fails_is_refused() -> None:
    tight = msgspec.structs.replace(PROFILE, limits=msgspec.structs.replace(LIMITS, context_length=100))

    async def main() -> None:
        endpoint = SimulatedEndpoint(tight)
        client = LoadClient(endpoint, "m", clock=LoopClock(), limits=WAITS, has_fixed_length=True)
        await run_calibration(client, QUICK_PLAN, LIMITS, texts=texts(), chars_per_token=4.0)

    with pytest.raises(MeasurementError, match="a calibration request failed"):
        run_in_virtual_time(main())
