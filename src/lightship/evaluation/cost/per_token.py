"""Cost per token from the price of an hour and measured rates. Pure.

Two bases, named as in the OpenCost specification:

- *allocation*: the whole machine is paid for, idle or not, so the price is spread over its busy time.
- *usage*: only what the work consumed is paid for: busy time, and of the machine the part in use.

The whole cost over the output tokens, and the cost split over the two phases, are different figures: the first holds
the work on prompts too. Adding prompt-phase cost to it would count that work twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from lightship.errors import MeasurementError
from lightship.ports.measurements import Interval

_SECONDS_PER_HOUR = 3600.0
_TOKENS_PER_MILLION = 1e6
# One output token is taken to cost as much as this many prompt tokens where phases were not timed; the ratio that most
# APIs charge.
OUTPUT_WEIGHT = 4.0


class CostBasis(StrEnum):
    """What is paid for."""

    ALLOCATION = "allocation"
    USAGE = "usage"


@dataclass(frozen=True)
class TokenRate:
    """Tokens per second of a loaded machine; `interval` in the same unit."""

    tokens_per_s: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Throughput:
    """What a loaded machine delivers. A rate that is not known is None.

    `good_output` counts the output tokens of requests that met the SLO, `prompt` those of all prompts.
    """

    output: TokenRate
    prompt: TokenRate | None = None
    good_output: TokenRate | None = None


@dataclass(frozen=True)
class TokenCost:
    """US dollars per million tokens.

    `interval` is None where the rate has none, and where the rate's reaches zero: the cost has no upper bound then.
    """

    usd_per_1m_tokens: float
    interval: Interval | None


@dataclass(frozen=True)
class PhaseSplit:
    """The prompt phase's part of the cost, and how it was found (`time` or `1to4`, for protocol names)."""

    prompt_share: float
    name: str


@dataclass(frozen=True)
class TokenCosts:
    """All costs on one basis; None where a rate is not known or is zero, since nothing can be divided by it.

    `effective_usd_per_hour` is the price of a busy hour on this basis. `output` and `good_output` carry the whole cost;
    `prompt_phase` and `generation_phase` a part of it each.
    """

    basis: CostBasis
    effective_usd_per_hour: float
    output: TokenCost | None
    good_output: TokenCost | None
    prompt_phase: TokenCost | None
    generation_phase: TokenCost | None
    split: PhaseSplit | None


def busy_hour_usd(
    usd_per_hour: float, basis: CostBasis, *, utilisation: float = 1.0, consumed_share: float = 1.0
) -> float:
    """What an hour of work costs, in US dollars.

    Args:
        usd_per_hour: Price of the whole machine.
        basis: Whether idle time and unused parts are paid for.
        utilisation: Part of the time the machine is busy; plays a part in allocation alone.
        consumed_share: Part of the machine that the work uses; plays a part in usage alone.

    Raises: MeasurementError: a value outside its range.

    >>> busy_hour_usd(2.50, CostBasis.ALLOCATION, utilisation=0.1)
    25.0
    """
    _require(math.isfinite(usd_per_hour) and usd_per_hour >= 0, f"a price of {usd_per_hour} USD per hour")
    for name, share in (("utilisation", utilisation), ("consumed_share", consumed_share)):
        _require(0 < share <= 1, f"{name} {share}, which must lie above 0 and not above 1")
    return usd_per_hour / utilisation if basis is CostBasis.ALLOCATION else usd_per_hour * consumed_share


def token_cost(rate: TokenRate | None, *, usd_per_hour: float, cost_share: float = 1.0) -> TokenCost | None:
    """What a million tokens cost at `rate`; None when it is not known or zero.

    The cost falls with the rate, so the upper bound of one is the lower bound of the other, at the same level.

    Raises: MeasurementError: a rate that is negative or not finite.

    >>> round(token_cost(TokenRate(700), usd_per_hour=2.50).usd_per_1m_tokens, 3)
    0.992
    """
    if rate is None:
        return None
    _require(math.isfinite(rate.tokens_per_s) and rate.tokens_per_s >= 0, f"{rate.tokens_per_s} tokens per second")
    if rate.tokens_per_s == 0:
        return None
    usd_per_s = usd_per_hour * cost_share / _SECONDS_PER_HOUR

    def cost(tokens_per_s: float) -> float:
        return usd_per_s / tokens_per_s * _TOKENS_PER_MILLION

    interval = rate.interval
    if interval is None or interval.low <= 0:
        return TokenCost(cost(rate.tokens_per_s), None)
    return TokenCost(cost(rate.tokens_per_s), Interval(cost(interval.high), cost(interval.low), interval.level))


def split_by_time(*, prefill_s: float, decode_s: float) -> PhaseSplit:
    """The split in proportion to the time that one request spends in each phase.

    Raises: MeasurementError: a time that is negative, not finite, or both zero.
    """
    _require(all(math.isfinite(s) and s >= 0 for s in (prefill_s, decode_s)), f"phases of {prefill_s} and {decode_s} s")
    _require(prefill_s + decode_s > 0, "two phases that take no time")
    return PhaseSplit(prefill_s / (prefill_s + decode_s), "time")


def split_by_weight(throughput: Throughput) -> PhaseSplit | None:
    """The split that makes an output token cost `OUTPUT_WEIGHT` prompt tokens; None when a rate is not known."""
    if throughput.prompt is None:
        return None
    prompt, output = throughput.prompt.tokens_per_s, OUTPUT_WEIGHT * throughput.output.tokens_per_s
    return PhaseSplit(prompt / (prompt + output), f"1to{OUTPUT_WEIGHT:g}") if prompt + output > 0 else None


def token_costs(
    throughput: Throughput,
    *,
    usd_per_hour: float,
    basis: CostBasis,
    utilisation: float = 1.0,
    consumed_share: float = 1.0,
    split: PhaseSplit | None = None,
) -> TokenCosts:
    """All costs per million tokens on one basis.

    Args:
        throughput: Rates while the machine is loaded.
        usd_per_hour: Price of the whole machine.
        basis: What is paid for.
        utilisation: See `busy_hour_usd`.
        consumed_share: See `busy_hour_usd`.
        split: How the phases share the cost; by weight when not given.

    Raises: MeasurementError: a value outside its range.
    """
    busy_usd = busy_hour_usd(usd_per_hour, basis, utilisation=utilisation, consumed_share=consumed_share)
    split = split or split_by_weight(throughput)
    prompt_phase = generation_phase = None
    if split is not None:
        share = split.prompt_share
        _require(0 <= share <= 1, f"a prompt phase with {share} of the cost")
        prompt_phase = token_cost(throughput.prompt, usd_per_hour=busy_usd, cost_share=share)
        generation_phase = token_cost(throughput.output, usd_per_hour=busy_usd, cost_share=1 - share)
    return TokenCosts(
        basis=basis,
        effective_usd_per_hour=busy_usd,
        output=token_cost(throughput.output, usd_per_hour=busy_usd),
        good_output=token_cost(throughput.good_output, usd_per_hour=busy_usd),
        prompt_phase=prompt_phase,
        generation_phase=generation_phase,
        split=split,
    )


def _require(is_met: bool, what: str) -> None:
    if not is_met:
        raise MeasurementError(f"no cost can be told from {what}")
