"""The batch in real time, in virtual time: when tokens come, what is cancelled, and what is said about lag."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from lightship.engines.simulated.batching import BatchSequence
from lightship.engines.simulated.choices import Choice
from lightship.engines.simulated.runner import Runner
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.errors import ApiError

PROFILE = EngineProfile(
    name="t",
    costs=StepCosts(step_s=0.25, prefill_token_s=0.0625, decode_token_s=0.125),
    limits=EngineLimits(max_sequences=2, max_waiting_requests=1, kv_block_tokens=4),
    source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="test"),
)


def make_choice(sequence_id: int, *, num_prompt: int, num_output: int, stop: tuple[str, ...] = ()) -> Choice:
    return Choice(
        index=0,
        sequence=BatchSequence(sequence_id, num_prompt, num_output, []),
        seed=sequence_id,
        stop=stop,
        finish="length",
        prompt_tail=(),
        block_tokens=4,
    )


def run_with(scenario: Callable[[Runner], Awaitable[None]], profile: EngineProfile = PROFILE) -> Runner:
    runner = Runner(profile, clock=LoopClock())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(runner.run())
            await scenario(runner)
            stepping.cancel()

    run_in_virtual_time(main())
    return runner


async def token_times(runner: Runner, choice: Choice) -> list[float]:
    times: list[float] = []
    with runner.open([choice]) as mailbox:
        while choice.finish is None:
            num_new = len(await mailbox.take())
            times += [LoopClock().monotonic_s()] * num_new
    return times


def test_tokens_come_when_the_profile_says() -> None:
    async def scenario(runner: Runner) -> None:
        await asyncio.sleep(10)
        times = await token_times(runner, make_choice(1, num_prompt=4, num_output=3))
        assert times == pytest.approx([10.5, 10.875, 11.25])

    assert run_with(scenario).num_steps == 3


def test_two_sequences_share_steps_and_each_gets_its_tokens() -> None:
    async def scenario(runner: Runner) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(token_times(runner, make_choice(1, num_prompt=4, num_output=2)))
            second = group.create_task(token_times(runner, make_choice(2, num_prompt=4, num_output=2)))
        assert first.result() == second.result() == pytest.approx([0.75, 1.25])

    run_with(scenario)


def test_reader_that_leaves_gives_its_place_back() -> None:
    async def scenario(runner: Runner) -> None:
        with runner.open([make_choice(1, num_prompt=4, num_output=100)]) as mailbox:
            await mailbox.take()
            assert runner.num_running == 1
        assert (runner.num_running, runner.num_waiting) == (0, 0)
        await asyncio.sleep(5)
        assert runner.kv_usage == 0.0

    run_with(scenario)


def test_stop_string_ends_the_sequence_early() -> None:
    async def scenario(runner: Runner) -> None:
        whole = make_choice(1, num_prompt=4, num_output=30)
        await token_times(runner, whole)
        stop = "".join(whole.text)[21:26]
        stopped = make_choice(1, num_prompt=4, num_output=30, stop=(stop,))
        await token_times(runner, stopped)
        assert stopped.finish == "stop"
        assert "".join(stopped.text) == "".join(whole.text)[: "".join(whole.text).index(stop)]
        assert stopped.num_tokens < 30
        assert runner.num_running == 0

    run_with(scenario)


def test_queue_full_is_refused_and_too_many_at_once_is_the_callers_fault() -> None:
    async def scenario(runner: Runner) -> None:
        with runner.open([make_choice(index, num_prompt=1, num_output=9) for index in range(3)]):
            with pytest.raises(ApiError) as caught:
                runner.check_room(1)
            assert (caught.value.status, caught.value.headers["x-reject-reason"]) == (503, "queue-full")
            with pytest.raises(ApiError) as caught:
                runner.check_room(4)
            assert caught.value.status == 400

    run_with(scenario)


class StallingClock(LoopClock):
    """Every sleep takes a tenth of a second too long, as on a machine that cannot keep up."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s + 0.1)


def test_lag_is_measured_said_once_and_not_added_up(caplog: pytest.LogCaptureFixture) -> None:
    quick = msgspec.structs.replace(PROFILE, costs=StepCosts(step_s=0.05, prefill_token_s=0.0, decode_token_s=0.0))
    runner = Runner(quick, clock=StallingClock())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(runner.run())
            times = await token_times(runner, make_choice(1, num_prompt=4, num_output=4))
            stepping.cancel()
        # deadlines at 0.05, 0.10, 0.15, 0.20; each wake-up is 0.1 late, or as soon as the one before it let it
        assert times == pytest.approx([0.15, 0.25, 0.35, 0.45])

    with caplog.at_level(logging.WARNING):
        run_in_virtual_time(main())
    assert runner.max_lag_s == pytest.approx(0.25)
    assert [record.message for record in caplog.records if "cannot keep up" in record.message][1:] == []
    assert "100 ms late" in caplog.text


def test_late_step_does_not_move_those_after_it() -> None:
    class OnceLate(LoopClock):
        is_late = False

        async def sleep(self, duration_s: float) -> None:
            extra_s = 0.0 if self.is_late else 0.3
            self.is_late = True
            await asyncio.sleep(duration_s + extra_s)

    runner = Runner(PROFILE, clock=OnceLate())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(runner.run())
            times = await token_times(runner, make_choice(1, num_prompt=4, num_output=3))
            stepping.cancel()
        assert times == pytest.approx([0.8, 0.875, 1.25])

    run_in_virtual_time(main())
