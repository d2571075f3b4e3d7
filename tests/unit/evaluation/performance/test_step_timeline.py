"""Steps told from what clients saw: by hand, and against the simulated scheduler's own account of the same run."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from lightship.engines.simulated.batching import Batcher, BatchSequence
from lightship.evaluation.performance.records import RequestRecord
from lightship.evaluation.performance.step_timeline import TimedStep, step_observations, timed_steps
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    EngineWork,
    ProfileOrigin,
    ProfileSource,
    StepCosts,
)

LIMITS = EngineLimits(max_batched_tokens=256, context_length=1024)


def record(
    *times_s: float, num_prompt: int, sent_s: float = 0.0, num_cached: int = 0, num_output: int | None = None
) -> RequestRecord:
    return RequestRecord(
        scheduled_s=sent_s,
        sent_s=sent_s,
        token_times_s=times_s,
        ended_s=times_s[-1],
        num_prompt_tokens=num_prompt,
        num_output_tokens=len(times_s) if num_output is None else num_output,
        num_cached_tokens=num_cached,
    )


def total(steps: Sequence[TimedStep]) -> EngineWork:
    return EngineWork(**{name: sum(getattr(one.work, name) for one in steps) for name in EngineWork.__struct_fields__})


def test_one_request_shows_its_decode_steps() -> None:
    (steps,) = timed_steps([record(1.0, 2.0, 3.5, num_prompt=10)], LIMITS)
    assert [one.duration_s for one in steps] == [1.0, 1.5]
    # the first decode step follows the prompt's, which computed ten tokens
    assert [one.work for one in steps] == [
        EngineWork(num_steps=1, num_batch_changes=1, num_decode_tokens=1, num_context_tokens=11),
        EngineWork(num_steps=1, num_batch_changes=0, num_decode_tokens=1, num_context_tokens=12),
    ]


def test_newcomer_is_counted_where_its_first_token_came() -> None:
    long = record(1.0, 2.0, 3.0, 4.0, 5.0, num_prompt=10)
    newcomer = record(3.0, 4.0, num_prompt=7, sent_s=1.5)
    (steps,) = timed_steps([long, newcomer], LIMITS)
    assert [one.work.num_prefill_tokens for one in steps] == [0, 7, 0, 0]
    assert [one.work.num_prefill_pairs for one in steps] == [0, 28, 0, 0]
    assert [one.work.num_new_requests for one in steps] == [0, 1, 0, 0]
    assert [one.work.num_decode_tokens for one in steps] == [1, 1, 2, 1]
    assert [one.work.num_batch_changes for one in steps] == [1, 1, 1, 1]  # 10, 1, 8, 2 and 1 tokens
    assert [one.work.num_context_tokens for one in steps] == [11, 12, 13 + 8, 14]


def test_prompt_over_the_budget_fills_the_steps_before_its_first_token() -> None:
    long = record(*map(float, range(1, 8)), num_prompt=10)
    newcomer = record(5.0, 6.0, num_prompt=300, sent_s=1.5)
    (steps,) = timed_steps([long, newcomer], LIMITS)
    # filled backwards: 255 beside the decoding one, the rest before; ends of steps 2, 3, ... 7
    assert [one.work.num_prefill_tokens for one in steps] == [0, 0, 45, 255, 0, 0]
    assert [one.work.num_prefill_pairs for one in steps] == [0, 0, 45 * 46 / 2, 255 * 45 + 255 * 256 / 2, 0, 0]
    assert [one.work.num_new_requests for one in steps] == [0, 0, 1, 0, 0, 0]


def test_prompt_cannot_be_computed_before_it_came() -> None:
    long = record(*map(float, range(1, 8)), num_prompt=10)
    late = record(5.0, 6.0, num_prompt=300, sent_s=3.5)  # during the step that ends at 4
    (steps,) = timed_steps([long, late], LIMITS)
    assert [one.work.num_prefill_tokens for one in steps] == [0, 0, 0, 300, 0, 0]


def test_cached_tokens_are_not_computed_but_seen() -> None:
    long = record(1.0, 2.0, 3.0, num_prompt=10)
    cached = record(3.0, num_prompt=40, num_cached=32, sent_s=1.5)
    (steps,) = timed_steps([long, cached], LIMITS)
    assert (steps[1].work.num_prefill_tokens, steps[1].work.num_prefill_pairs) == (8, 8 * 32 + 36)


def test_steps_go_on_with_a_request_that_overlaps() -> None:
    first = record(1.0, 2.0, 3.0, num_prompt=4)
    second = record(2.001, 3.001, 4.0, 5.0, num_prompt=4, sent_s=0.5)
    (steps,) = timed_steps([first, second], LIMITS)
    assert [one.duration_s for one in steps] == [1.0, 1.0, 1.0, 1.0]
    assert [one.work.num_decode_tokens for one in steps] == [1, 2, 1, 1]


def test_time_in_which_nobody_decodes_parts_the_run() -> None:
    records = [record(1.0, 2.0, num_prompt=4), record(5.0, 6.0, 7.0, num_prompt=4, sent_s=4.5)]
    assert [[one.duration_s for one in steps] for steps in timed_steps(records, LIMITS)] == [[1.0], [1.0, 1.0]]


def test_steps_after_a_prompt_came_whose_end_nobody_saw_are_left_out() -> None:
    records = [record(*map(float, range(1, 8)), num_prompt=4), record(9.0, 10.0, num_prompt=600, sent_s=4.5)]
    first, _ = timed_steps(records, LIMITS)
    assert len(first) == 3  # up to 4.0


def test_events_with_two_tokens_stand_for_two_steps() -> None:
    (steps,) = timed_steps([record(1.0, 2.0, 3.0, num_prompt=10, num_output=5)], LIMITS)
    assert total(steps).num_steps == 4
    assert total(steps).num_decode_tokens == 4


@pytest.mark.parametrize(("length", "sizes"), [(5, []), (6, [6]), (63, [63]), (64, [32, 32]), (100, [33, 33, 34])])
def test_observations_are_of_about_the_wanted_length(length: int, sizes: list[int]) -> None:
    stretch = [TimedStep(EngineWork(num_steps=1, num_decode_tokens=1), 0.5)] * length
    found = step_observations([stretch], min_steps=6, wanted_steps=32)
    assert [one.work.num_steps for one in found] == sizes
    assert [one.duration_s for one in found] == [size * 0.5 for size in sizes]


def test_observation_with_prompts_is_mixed() -> None:
    decoding = TimedStep(EngineWork(num_steps=1, num_decode_tokens=1), 0.5)
    prompting = TimedStep(EngineWork(num_steps=1, num_prefill_tokens=5), 0.5)
    kinds = [one.kind for one in step_observations([[decoding], [decoding, prompting]], min_steps=1, wanted_steps=9)]
    assert kinds == ["decode", "mixed"]


# The scheduler's own account as oracle: a load is run step by step, and what clients would have seen is told from it.


def scheduled(rate: float, *, jitter_s: float) -> tuple[list[RequestRecord], list[EngineWork]]:
    """Records of forty seconds of requests, tokens late by up to `jitter_s`, and the work of every step."""
    costs = StepCosts(step_s=0.003, prefill_token_s=0.0002, decode_token_s=0.0005)
    source = ProfileSource(origin=ProfileOrigin.ASSUMED, description="test")
    batcher = Batcher(EngineProfile(name="t", costs=costs, limits=LIMITS, source=source))
    rng = random.Random(1)
    arrivals: list[tuple[float, BatchSequence]] = []
    came_s = 0.0
    while came_s < 40:
        came_s += rng.expovariate(rate)
        arrivals.append((came_s, BatchSequence(len(arrivals), rng.randint(8, 600), rng.randint(2, 120))))
    times_s: list[list[float]] = [[] for _ in arrivals]
    works = []
    now_s, num_come = 0.0, 0
    while True:
        while num_come < len(arrivals) and arrivals[num_come][0] <= now_s:
            batcher.submit(arrivals[num_come][1])
            num_come += 1
        planned = batcher.plan_step()
        if planned is None:
            if num_come == len(arrivals):
                break
            now_s = arrivals[num_come][0]
            continue
        now_s += planned.duration_s
        works.append(planned.work)
        late_s = rng.uniform(0, jitter_s)
        for sequence in batcher.complete_step().emitting:
            times_s[sequence.sequence_id].append(now_s + late_s + rng.uniform(0, jitter_s / 4))
    records = [
        record(*times, num_prompt=sequence.num_prompt_tokens, sent_s=came)
        for times, (came, sequence) in zip(times_s, arrivals, strict=True)
    ]
    return records, works


@pytest.mark.parametrize("rate", [8.0, 12.0, 20.0])
@pytest.mark.parametrize("jitter_s", [0.0, 0.002])
def test_timeline_agrees_with_the_scheduler(rate: float, jitter_s: float) -> None:
    records, works = scheduled(rate, jitter_s=jitter_s)
    stretches = timed_steps(records, LIMITS)
    found = total([step for steps in stretches for step in steps])
    truth = {name: sum(getattr(work, name) for work in works) for name in EngineWork.__struct_fields__}
    for name in ("num_steps", "num_prefill_tokens", "num_prefill_pairs", "num_decode_tokens", "num_context_tokens"):
        # what was computed while nobody decoded shows in no stretch: a prompt for each of them
        assert getattr(found, name) == pytest.approx(truth[name], rel=0.02), name
    assert found.num_new_requests == pytest.approx(truth["num_new_requests"], abs=len(stretches) + 1)
    # a prompt that ends a step early or late is taken for two changes more
    assert found.num_batch_changes == pytest.approx(truth["num_batch_changes"], rel=0.2, abs=25)
