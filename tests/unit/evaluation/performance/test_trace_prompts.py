"""Prompts of a trace: lengths in tokens, and beginnings that are shared where the trace says so."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.trace_prompts import TokenLength, TracePrompts
from lightship.evaluation.performance.traces import TraceRequest

TEXT = " ".join(f"word{number}" for number in range(800))


def prompts(*, chars_per_token: float = 4.0, block_tokens: float = 16, seed: int = 0) -> TracePrompts:
    return TracePrompts([TEXT], length=TokenLength(chars_per_token), block_tokens=block_tokens, seed=seed)


def num_shared(first: str, second: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def test_prompts_share_exactly_the_blocks_the_trace_names() -> None:
    made = prompts()
    first = made.prompt(TraceRequest(0, 60, 1, (7, 19, 4, 2)), index=0)
    second = made.prompt(TraceRequest(1, 64, 1, (7, 19, 5, 31)), index=1)
    assert (len(first), len(second)) == (240, 256)
    # two blocks of 16 tokens of 4 characters; the third differs within its first token
    assert 2 * 64 <= num_shared(first, second) < 2 * 64 + 4


def test_prompts_without_blocks_share_nothing() -> None:
    made = prompts()
    found = [made.prompt(TraceRequest(0, 50, 1), index=index) for index in range(300)]
    assert {len(prompt) for prompt in found} == {200}
    assert len({prompt[:8] for prompt in found}) == 300


def test_prompts_blocks_that_end_early_are_filled_with_text_of_their_own() -> None:
    made = prompts()
    first, second = (made.prompt(TraceRequest(0, 40, 1, (7,)), index=index) for index in (0, 1))
    assert len(first) == len(second) == 160
    assert 64 <= num_shared(first, second) < 64 + 8


def test_prompts_follow_seed_and_text_alone() -> None:
    request = TraceRequest(0, 50, 1, (1, 2, 3, 4))
    assert prompts(seed=3).prompt(request, index=9) == prompts(seed=3).prompt(request, index=9)
    assert num_shared(prompts(seed=3).prompt(request, index=9), prompts(seed=4).prompt(request, index=9)) < 8


def test_prompts_text_of_the_trace_is_sent_as_it_is() -> None:
    assert prompts().prompt(TraceRequest(0, 50, 1, (1,), "", "hello"), index=0) == "hello"


@given(st.integers(1, 5000), st.floats(0.3, 12), st.floats(0.6, 600), st.lists(st.integers(0, 9), max_size=12))
def test_prompts_have_the_length_asked_for(
    num_tokens: int, chars_per_token: float, block_tokens: float, blocks: list[int]
) -> None:
    made = prompts(chars_per_token=chars_per_token, block_tokens=block_tokens)
    prompt = made.prompt(TraceRequest(0, num_tokens, 1, tuple(blocks)), index=0)
    assert len(prompt) == max(1, round(num_tokens * chars_per_token))


def test_token_length_leaves_room_for_tokens_every_prompt_has() -> None:
    assert TokenLength(chars_per_token=4, overhead_tokens=2).num_chars(10) == 32
    assert TokenLength(chars_per_token=4, overhead_tokens=2).num_chars(1) == 1


def test_prompts_without_text_are_refused() -> None:
    with pytest.raises(MeasurementError, match="no text"):
        TracePrompts([" \n"], length=TokenLength(4), block_tokens=1, seed=0)
