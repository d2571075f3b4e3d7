"""The simulated scheduler, step by step and under random loads."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.engines.simulated.batching import Batcher, BatchSequence
from lightship.ports.engine_profile import EngineLimits, EngineProfile, EngineWork, ProfileSource, StepCosts

COSTS = StepCosts(step_s=0.01, prefill_token_s=0.001, decode_token_s=0.002, context_token_s=0.0001, prefill_pair_s=1e-6)


def make_batcher(**limits: object) -> Batcher:
    values = {"max_batched_tokens": 8, "max_sequences": 4, "num_kv_blocks": 100, "kv_block_tokens": 4, **limits}
    return Batcher(
        EngineProfile(
            name="t",
            costs=COSTS,
            limits=msgspec.convert({"context_length": 1000, **values}, EngineLimits),
            source=ProfileSource(origin="assumed", description="test"),  # type: ignore[arg-type] # a str enum's value
        )
    )


def submit(batcher: Batcher, *lengths: tuple[int, int], first_id: int = 0) -> list[BatchSequence]:
    sequences = [BatchSequence(first_id + index, prompt, output) for index, (prompt, output) in enumerate(lengths)]
    for sequence in sequences:
        batcher.submit(sequence)
    return sequences


def step(batcher: Batcher) -> tuple[EngineWork, list[int], list[int]]:
    """The work of one step, and the ids of those that got a token and of those that finished."""
    planned = batcher.plan_step()
    assert planned is not None
    outcome = batcher.complete_step()
    return planned.work, ids(outcome.emitting), ids(outcome.finished)


def ids(sequences: list[BatchSequence]) -> list[int]:
    return sorted(sequence.sequence_id for sequence in sequences)


def assert_conserved(batcher: Batcher) -> None:
    cache = batcher.cache
    counts = (cache.num_free, cache.num_private, cache.num_shared, cache.num_idle)
    assert min(counts) >= 0
    assert sum(counts) == cache.num_blocks


def test_step_of_a_prompt_longer_than_the_budget_is_cut() -> None:
    batcher = make_batcher()
    submit(batcher, (19, 2))
    works = [step(batcher) for _ in range(4)]
    assert [work.num_prefill_tokens for work, _, _ in works] == [8, 8, 3, 0]
    # (1+...+8), 8 x 8 + (1+...+8), 3 x 16 + (1+2+3)
    assert [work.num_prefill_pairs for work, _, _ in works] == [36, 100, 54, 0]
    assert [emitting for _, emitting, _ in works] == [[], [], [0], [0]]
    assert works[3][0] == EngineWork(num_steps=1, num_batch_changes=1, num_decode_tokens=1, num_context_tokens=20)
    assert works[3][2] == [0]
    assert batcher.plan_step() is None


def test_step_decodes_first_and_fills_up_with_prompts_in_order() -> None:
    batcher = make_batcher()
    submit(batcher, (2, 9), (3, 9), (10, 9))
    work, emitting, _ = step(batcher)
    assert (work.num_prefill_tokens, work.num_new_requests, emitting) == (8, 3, [0, 1])
    work, emitting, _ = step(batcher)
    assert (work.num_decode_tokens, work.num_prefill_tokens, emitting) == (2, 6, [0, 1])
    assert work.num_context_tokens == 3 + 4  # prompt and the token it now computes
    work, emitting, _ = step(batcher)
    assert (work.num_decode_tokens, work.num_prefill_tokens, emitting) == (2, 1, [0, 1, 2])


def test_step_duration_is_the_sum_of_costs_by_hand() -> None:
    batcher = make_batcher()
    submit(batcher, (5, 3))
    planned = batcher.plan_step()
    assert planned is not None
    assert planned.duration_s == pytest.approx(0.01 + 5 * 0.001 + 15 * 1e-6)
    batcher.complete_step()
    planned = batcher.plan_step()
    assert planned is not None
    assert planned.duration_s == pytest.approx(0.01 + 0.002 + 6 * 0.0001)


def test_step_of_another_size_than_the_one_before_is_a_change() -> None:
    batcher = make_batcher()
    submit(batcher, (19, 3))
    # 8, 8 and 3 tokens of the prompt, then one token at a time
    assert [step(batcher)[0].num_batch_changes for _ in range(5)] == [1, 0, 1, 1, 0]
    submit(batcher, (1, 2))
    assert step(batcher)[0].num_batch_changes == 0  # the engine kept its buffers while nobody asked


def test_slots_full_next_request_waits_for_the_first_to_finish() -> None:
    batcher = make_batcher(max_sequences=2)
    submit(batcher, (2, 2), (2, 4), (2, 2))
    assert step(batcher)[1] == [0, 1]
    assert (batcher.num_running, batcher.num_waiting) == (2, 1)
    assert step(batcher)[2] == [0]
    assert step(batcher)[1] == [1, 2]


def test_cache_full_next_request_waits_although_a_slot_is_free() -> None:
    batcher = make_batcher(num_kv_blocks=4)
    submit(batcher, (8, 3), (9, 2), (1, 1))
    step(batcher)
    assert (batcher.num_running, batcher.num_waiting) == (1, 2)  # 2 blocks left, 3 needed; nobody overtakes
    while batcher.plan_step() is not None:
        batcher.complete_step()
        assert_conserved(batcher)


def test_cache_runs_out_while_decoding_the_youngest_is_preempted_and_recomputed() -> None:
    batcher = make_batcher(num_kv_blocks=4)
    old, young = submit(batcher, (4, 9), (4, 8))
    assert step(batcher)[1] == [0, 1]
    step(batcher)  # both take their second and last block here
    for _ in range(3):
        step(batcher)
    work, emitting, _ = step(batcher)  # the old one needs a third block
    assert (emitting, young.num_preemptions, batcher.num_waiting) == ([0], 1, 1)
    assert work.num_decode_tokens == 1
    while batcher.plan_step() is not None:
        batcher.complete_step()
        assert_conserved(batcher)
    assert sum(count for _, count in old.emitted) == 9
    assert sum(count for _, count in young.emitted) == 8


def test_prefix_in_the_cache_is_not_computed_again_but_the_last_token_is() -> None:
    batcher = make_batcher(max_batched_tokens=100)
    first = BatchSequence(0, 8, 1, (71, 72))
    batcher.submit(first)
    assert step(batcher)[0].num_prefill_tokens == 8
    second, longer = BatchSequence(1, 8, 1, (71, 72)), BatchSequence(2, 11, 1, (71, 72))
    batcher.submit(second)
    batcher.submit(longer)
    work = step(batcher)[0]
    assert (second.num_cached_tokens, longer.num_cached_tokens) == (4, 8)
    assert work.num_prefill_tokens == 4 + 3
    assert work.num_prefill_pairs == (4 * 4 + 10) + (3 * 8 + 6)


def test_prefix_of_a_request_still_in_prefill_is_no_hit() -> None:
    batcher = make_batcher(max_batched_tokens=100)
    twins = [BatchSequence(index, 9, 1, (5, 6)) for index in range(2)]
    for twin in twins:
        batcher.submit(twin)
    assert step(batcher)[0].num_prefill_tokens == 18
    assert [twin.num_cached_tokens for twin in twins] == [0, 0]
    assert_conserved(batcher)


def test_output_blocks_are_found_by_the_next_turn() -> None:
    batcher = make_batcher(max_batched_tokens=100)
    first = BatchSequence(0, 4, 9, (1, 2, 3))  # 4 prompt tokens and 8 of the output are stored
    batcher.submit(first)
    while batcher.plan_step() is not None:
        batcher.complete_step()
    turn = BatchSequence(1, 14, 1, (1, 2, 3))
    batcher.submit(turn)
    assert step(batcher)[0].num_prefill_tokens == 2


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_cancel_at_any_time_gives_everything_back(num_steps: int) -> None:
    batcher = make_batcher(max_sequences=2)
    sequences = submit(batcher, (12, 5), (3, 5), (3, 5))
    for _ in range(num_steps):
        step(batcher)
    for sequence in sequences:
        batcher.cancel(sequence)
        batcher.cancel(sequence)
    assert batcher.plan_step() is None
    assert batcher.cache.num_available == batcher.cache.num_blocks
    assert (batcher.num_running, batcher.num_waiting) == (0, 0)


def test_cancel_while_a_step_is_under_way_brings_no_token() -> None:
    batcher = make_batcher()
    decoding, prefilling = submit(batcher, (2, 5), (20, 5))
    step(batcher)
    batcher.plan_step()
    batcher.cancel(decoding)
    batcher.cancel(prefilling)
    outcome = batcher.complete_step()
    assert (outcome.emitting, outcome.finished) == ([], [])
    assert batcher.cache.num_available == batcher.cache.num_blocks


def test_request_that_could_never_run_does_not_fit() -> None:
    batcher = make_batcher(num_kv_blocks=4, context_length=100)
    assert batcher.fits(num_prompt_tokens=10, num_output_tokens=6)
    assert not batcher.fits(num_prompt_tokens=10, num_output_tokens=7)
    assert not batcher.fits(num_prompt_tokens=0, num_output_tokens=1)


@st.composite
def loads(draw: st.DrawFn) -> list[tuple[BatchSequence, int, int]]:
    """Sequences with the step they come at, and the step they are cancelled at (most never)."""
    found = []
    for index in range(draw(st.integers(1, 12))):
        num_prompt, num_output, content = draw(st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 3)))
        hashes = [content * 100 + block for block in range((num_prompt + num_output - 1) // 4)]
        comes_at = draw(st.integers(0, 6))
        leaves_at = draw(st.one_of(st.just(9999), st.integers(comes_at + 1, comes_at + 8)))
        found.append((BatchSequence(index, num_prompt, num_output, hashes), comes_at, leaves_at))
    return found


@settings(max_examples=60, deadline=None)
@given(load=loads(), num_kv_blocks=st.integers(8, 16), max_sequences=st.integers(1, 8), has_prefix_cache=st.booleans())
def test_every_request_finishes_with_all_its_tokens_and_blocks_add_up(
    load: list[tuple[BatchSequence, int, int]], num_kv_blocks: int, max_sequences: int, has_prefix_cache: bool
) -> None:
    batcher = make_batcher(num_kv_blocks=num_kv_blocks, max_sequences=max_sequences, has_prefix_cache=has_prefix_cache)
    num_tokens = dict.fromkeys(range(len(load)), 0)
    open_ids = set(num_tokens)
    at_step = 0
    while open_ids:
        for sequence, comes_at, leaves_at in load:
            if comes_at == at_step:
                batcher.submit(sequence)
            if leaves_at == at_step:
                batcher.cancel(sequence)
                open_ids.discard(sequence.sequence_id)
        planned = batcher.plan_step()
        if planned is not None:
            assert 1 <= planned.work.num_prefill_tokens + planned.work.num_decode_tokens <= 8
            outcome = batcher.complete_step()
            for sequence_id in ids(outcome.emitting):
                num_tokens[sequence_id] += 1
            for sequence_id in ids(outcome.finished):
                open_ids.remove(sequence_id)  # at most once, and never one that was cancelled
                assert num_tokens[sequence_id] == load[sequence_id][0].num_output_tokens
        assert batcher.num_running <= max_sequences
        assert_conserved(batcher)
        at_step += 1
        assert at_step < 2000, "no progress"
    assert batcher.cache.num_available == num_kv_blocks
    for sequence, _, _ in load:
        assert sum(count for _, count in sequence.emitted) == num_tokens[sequence.sequence_id]
