"""How long engine work takes under a profile's costs. Pure."""

from __future__ import annotations

from operator import mul

from lightship.ports.engine_profile import EngineWork, StepCosts


def work_duration_s(costs: StepCosts, work: EngineWork) -> float:
    """Seconds of this work.

    >>> costs = StepCosts(step_s=0.01, prefill_token_s=0.001, decode_token_s=0.002)
    >>> work_duration_s(costs, EngineWork(num_steps=1, num_prefill_tokens=10, num_decode_tokens=5))
    0.03
    """
    return float(sum(map(mul, cost_vector(costs), work.counts)))


def cost_vector(costs: StepCosts) -> tuple[float, ...]:
    """The costs in the order of `EngineWork.counts`."""
    return tuple(getattr(costs, name) for name in StepCosts.__struct_fields__)


def prefill_pairs(*, num_before: int, num_tokens: int) -> int:
    """(token, context token) pairs when a chunk of a prompt attends to what stands before it and to itself.

    Args:
        num_before: Tokens of the sequence that are in the KV cache already.
        num_tokens: Tokens of the chunk.

    >>> prefill_pairs(num_before=2, num_tokens=3)  # the tokens see 3, 4 and 5 tokens
    12
    """
    return num_tokens * num_before + num_tokens * (num_tokens + 1) // 2
