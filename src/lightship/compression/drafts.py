"""Whether a speculative draft is worth serving: decided from what was measured with and without it.

A draft must not change what is generated and must be faster under the load that is served. Both are measured on the
real engine; here is only the decision. A draft that is faster for one user may be slower in a crowd, where what the
engine computes for rejected tokens is missing elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Below this, the difference is in the noise of two runs on the same machine.
MIN_SPEEDUP = 1.05
# In 16-bit arithmetic the several tokens of a check are summed in another order than one at a time, so that two almost
# equally likely tokens can change places, in whatever engine. In float32 it hardly happens.
MAX_DIFFERING_SHARE_16_BIT = 0.25


@dataclass(frozen=True)
class OutputComparison:
    """How many greedy completions are the same with and without a draft, and where the first difference is.

    `first_difference` is (prompt, token position), None without a difference.
    """

    num_prompts: int
    num_identical: int
    first_difference: tuple[int, int] | None

    @property
    def is_identical(self) -> bool:
        """Whether every completion is the same."""
        return self.num_identical == self.num_prompts

    @property
    def differing_share(self) -> float:
        """Completions that differ, as a share."""
        return 1 - self.num_identical / self.num_prompts


def compare_outputs(base: Sequence[Sequence[int]], drafted: Sequence[Sequence[int]]) -> OutputComparison:
    """How far the completions agree, token by token.

    Raises: ValueError: they are not of the same number of prompts, or there are none.

    >>> compare_outputs([[1, 2], [3]], [[1, 2], [4]])
    OutputComparison(num_prompts=2, num_identical=1, first_difference=(1, 0))
    """
    if not base or len(base) != len(drafted):
        raise ValueError(f"cannot compare {len(base)} completions with {len(drafted)}")
    differing = [
        index for index, (one, other) in enumerate(zip(base, drafted, strict=True)) if list(one) != list(other)
    ]
    first = None
    if differing:
        one, other = base[differing[0]], drafted[differing[0]]
        pairs = list(zip(one, other, strict=False))
        first = (differing[0], next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs)))
    return OutputComparison(len(base), len(base) - len(differing), first)


@dataclass(frozen=True)
class DraftTrial:
    """Serving with and without a draft, measured on the same prompts under the load that is served.

    Args:
        outputs: Greedy completions of both, compared.
        base_tokens_per_s: Output tokens per second of all requests together, without it.
        drafted_tokens_per_s: The same with it.
        concurrency: Requests at the same time.
    """

    outputs: OutputComparison
    base_tokens_per_s: float
    drafted_tokens_per_s: float
    concurrency: int

    def __post_init__(self) -> None:
        """Raises: ValueError: there is no speed to compare with."""
        if self.base_tokens_per_s <= 0:
            raise ValueError("without the draft no tokens were generated")

    @property
    def speedup(self) -> float:
        """Tokens per second with it over those without it."""
        return self.drafted_tokens_per_s / self.base_tokens_per_s


def accept_draft(trial: DraftTrial, *, min_speedup: float = MIN_SPEEDUP, is_16_bit: bool = False) -> tuple[bool, str]:
    """Whether to serve with the draft, and why.

    Args:
        min_speedup: Tokens per second with it over those without it, at least.
        is_16_bit: Whether the engine computes in 16 bits, where near ties may fall the other way. Then a quarter of
            the completions may differ; the strict check is one in float32.
    """
    compared = trial.outputs
    if compared.differing_share > (MAX_DIFFERING_SHARE_16_BIT if is_16_bit else 0):
        num_differing = compared.num_prompts - compared.num_identical
        where = ""
        if compared.first_difference is not None:
            prompt, position = compared.first_difference
            where = f", the first of them (prompt {prompt}) from token {position} on"
        return False, f"not lossless: {num_differing} of {compared.num_prompts} greedy completions differ{where}"
    measured = (
        f"{trial.drafted_tokens_per_s:.0f} tokens/s with it, {trial.base_tokens_per_s:.0f} without, "
        f"at {trial.concurrency} concurrent requests: {trial.speedup:.2f} times"
    )
    if trial.speedup < min_speedup:
        return False, f"not faster: {measured}, {min_speedup:.2f} wanted"
    return True, f"faster: {measured}"
