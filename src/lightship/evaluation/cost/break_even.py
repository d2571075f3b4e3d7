"""From how many tokens a month on a machine costs less than an API. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.cost.hourly import HOURS_PER_MONTH
from lightship.evaluation.cost.per_token import Throughput

_SECONDS_PER_HOUR = 3600.0
_TOKENS_PER_MILLION = 1e6


@dataclass(frozen=True)
class BreakEven:
    """The volume at which the month's fixed cost equals the API's bill.

    `tokens_per_month` counts prompt and output tokens together. `needed_utilisation` is the part of its measured
    capacity at which the machine makes them: above 1 it cannot, and the API stays cheaper at any volume.
    """

    tokens_per_month: float
    output_tokens_per_month: float
    blended_usd_per_1m_tokens: float
    needed_utilisation: float

    @property
    def is_reachable(self) -> bool:
        """Whether one machine can make that many tokens in a month."""
        return self.needed_utilisation <= 1


def break_even(
    throughput: Throughput,
    *,
    usd_per_hour: float,
    input_usd_per_1m_tokens: float,
    output_usd_per_1m_tokens: float,
) -> BreakEven:
    """Break-even against an API's prices, for the mix of prompt and output tokens that was measured.

    The machine is paid by the month whether it works or not; that its electricity grows with its work is left out.
    Tokens of different tokenizers are counted as equal, so the API's real bill may differ by some tens of percent.

    Raises: MeasurementError: no output tokens, or an API that costs nothing for this mix.
    """
    output = throughput.output.tokens_per_s
    prompt = throughput.prompt.tokens_per_s if throughput.prompt is not None else 0.0
    if not (math.isfinite(output + prompt) and output > 0 and prompt >= 0):
        raise MeasurementError(f"no break-even can be told from {output} output and {prompt} prompt tokens per second")
    output_share = output / (output + prompt)
    blended = output_share * output_usd_per_1m_tokens + (1 - output_share) * input_usd_per_1m_tokens
    if blended <= 0:
        raise MeasurementError("an API that costs nothing is cheaper at any volume")
    tokens = usd_per_hour * HOURS_PER_MONTH / blended * _TOKENS_PER_MILLION
    capacity = (output + prompt) * HOURS_PER_MONTH * _SECONDS_PER_HOUR
    return BreakEven(tokens, tokens * output_share, blended, tokens / capacity)
