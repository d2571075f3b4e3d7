"""Cost figures from measured throughput, goodput and latency, and the spec's prices. Pure.

They follow from what is stored and are made again whenever they are shown: another price does not mean another
measurement. What nobody stated is not made up: without a price there is no cost, and a sentence says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date

import msgspec

from lightship.evaluation.cost.break_even import break_even
from lightship.evaluation.cost.hourly import hourly_price
from lightship.evaluation.cost.per_token import (
    CostBasis,
    PhaseSplit,
    Throughput,
    TokenCost,
    TokenCosts,
    TokenRate,
    split_by_time,
    token_costs,
)
from lightship.evaluation.cost.prices import PriceList
from lightship.evaluation.resource_figures import ResourceFigures
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.spec.cost import CostSpec

NO_PRICE_NOTE = "No cost: the spec states no price of the machine (cost.usd_per_hour, instance or hardware)."
# Set on figures of open loops, whose load is a rate: copied, so that a cost stays with the load it belongs to.
_OFFERED_RATE = "offered_requests_per_s"


def cost_figures(
    cost: CostSpec,
    figures: Iterable[Measurement],
    *,
    num_cores: int,
    prices: PriceList,
    today: date,
) -> ResourceFigures:
    """US dollars per million output tokens, good output tokens, and tokens of each phase, for every load in `figures`.

    On the usage basis always, and on that of allocation where the spec states a utilisation. Allocation comes last, so
    that "the newest figure" is the one that holds idle time. `details` hold the cost at full use, and the break-even
    with the API that the spec compares with.

    Args:
        cost: The spec's section.
        figures: Measurements of any variants on targets of this machine; throughput, goodput and latency are used.
        num_cores: Cores of that machine, which tell what part of it a worker uses.
        prices: Where an instance or an API is looked up.
        today: Against which the age of a listed price is told.

    Raises: SpecError: an entry that the price list does not have.
    """
    price = hourly_price(cost, prices, today)
    if price is None:
        return ResourceFigures(notes=(NO_PRICE_NOTE,))
    rival = _rival(cost, prices, today)
    notes = [price.origin, *price.notes, _utilisation_note(cost), *(rival.notes if rival else ())]
    found = [one for load in _loads(figures) for one in _cost_of_load(load, cost, price.usd_per_hour, rival, num_cores)]
    if not found:
        notes.append("No cost: there is no throughput to divide the price by.")
    return ResourceFigures(tuple(found), tuple(notes))


@dataclass(frozen=True)
class _Load:
    """What one load of one (variant, target) says: its measurements, and those of one request at a time."""

    by_metric: Mapping[Metric, Measurement]
    alone: Mapping[Metric, Measurement]

    @property
    def output(self) -> Measurement:
        """Output tokens per second."""
        return self.by_metric[Metric.DECODE_TOKENS_PER_S]

    @property
    def goodput(self) -> Measurement | None:
        """Good requests per second; None where they were not judged."""
        return self.by_metric.get(Metric.GOODPUT_REQUESTS_PER_S)

    @property
    def throughput(self) -> Throughput:
        """Prompt tokens and good output tokens in the proportion that answered requests have them."""
        details = self.output.details
        prompt_tokens, output_tokens = details.get("mean_prompt_tokens", 0.0), details.get("mean_output_tokens", 0.0)
        output = TokenRate(self.output.value, self.output.interval)
        prompt = _scaled(self.output, prompt_tokens / output_tokens) if prompt_tokens and output_tokens else None
        good = _scaled(self.goodput, output_tokens) if self.goodput and output_tokens else None
        return Throughput(output, prompt, good)

    @property
    def split(self) -> PhaseSplit | None:
        """By the times of one request alone, where nothing waits; None where they were not measured."""
        ttft, tpot = self.alone.get(Metric.TTFT_MS), self.alone.get(Metric.TPOT_MS)
        if ttft is None or tpot is None:
            return None
        num_later_tokens = max(0.0, tpot.details.get("mean_output_tokens", 0.0) - 1)
        return split_by_time(prefill_s=ttft.value / 1000, decode_s=tpot.value * num_later_tokens / 1000)


def _scaled(figure: Measurement, factor: float) -> TokenRate:
    interval = figure.interval
    scaled = interval and Interval(interval.low * factor, interval.high * factor, interval.level)
    return TokenRate(figure.value * factor, scaled)


def _loads(figures: Iterable[Measurement]) -> Iterator[_Load]:
    """Each load that has a throughput, in the order it was met; a later measurement of the same thing replaces one."""
    grouped: dict[tuple[str, bytes, int, float], dict[Metric, Measurement]] = {}
    for one in sorted(figures, key=lambda one: one.measured_unix_s):
        target = msgspec.json.encode(one.target, order="deterministic")
        rate = one.details.get(_OFFERED_RATE, 0.0)
        grouped.setdefault((one.variant_digest, target, one.concurrency, rate), {})[one.metric] = one
    for (digest, target, _, _), by_metric in grouped.items():
        if Metric.DECODE_TOKENS_PER_S in by_metric:
            yield _Load(by_metric, grouped.get((digest, target, 1, 0.0), {}))


def _cost_of_load(
    load: _Load, cost: CostSpec, usd_per_hour: float, rival: _Rival | None, num_cores: int
) -> Iterator[Measurement]:
    consumed_share = _consumed_share(load.output.target, num_cores)
    details = {"usd_per_hour": usd_per_hour, "consumed_share": consumed_share}
    terms = {CostBasis.USAGE: f"consumed={consumed_share:.3g}"}
    if cost.utilisation is not None:
        details["utilisation"] = cost.utilisation
        terms[CostBasis.ALLOCATION] = f"utilisation={cost.utilisation:g}"
    details |= _break_even_details(load.throughput, usd_per_hour, rival)

    def costs_on(basis: CostBasis, utilisation: float) -> TokenCosts:
        return token_costs(
            load.throughput,
            usd_per_hour=usd_per_hour,
            basis=basis,
            utilisation=utilisation,
            consumed_share=consumed_share,
            split=load.split,
        )

    at_full_use = list(_figures(costs_on(CostBasis.ALLOCATION, 1.0), load))
    for basis, basis_terms in terms.items():
        costs = costs_on(basis, cost.utilisation or 1.0)
        head = f"cost-1/{basis}/usd-per-hour={usd_per_hour:.6g}/{basis_terms}"
        for figure, peak in zip(_figures(costs, load), at_full_use, strict=True):
            rate = figure.divided_by
            offered = {name: rate.details[name] for name in (_OFFERED_RATE,) if name in rate.details}
            yield replace(
                rate,
                metric=figure.metric,
                value=figure.cost.usd_per_1m_tokens,
                interval=figure.cost.interval,
                protocol="/".join(part for part in (head, figure.split_name, rate.protocol) if part),
                details={
                    **offered,
                    **details,
                    "effective_usd_per_hour": costs.effective_usd_per_hour,
                    "full_use_usd_per_1m_tokens": peak.cost.usd_per_1m_tokens,
                },
            )


@dataclass(frozen=True)
class _Figure:
    """One cost, what it is called, and the measurement whose rate it was divided by."""

    metric: Metric
    cost: TokenCost
    divided_by: Measurement
    split_name: str = ""


def _figures(costs: TokenCosts, load: _Load) -> Iterator[_Figure]:
    """The costs that there are."""
    if costs.output is not None:
        yield _Figure(Metric.COST_USD_PER_1M_OUTPUT_TOKENS, costs.output, load.output)
    if costs.good_output is not None and load.goodput is not None:
        yield _Figure(Metric.COST_USD_PER_1M_GOOD_TOKENS, costs.good_output, load.goodput)
    if costs.split is None:
        return
    name = f"split-{costs.split.name}"
    if costs.prompt_phase is not None:
        yield _Figure(Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS, costs.prompt_phase, load.output, name)
    if costs.generation_phase is not None:
        yield _Figure(Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS, costs.generation_phase, load.output, name)


def _consumed_share(target: Target, num_cores: int) -> float:
    """Part of the machine that the target's threads use; all of it where that cannot be told."""
    if target.device != "CPU" or target.num_threads < 1 or num_cores < 1:
        return 1.0
    return min(1.0, target.num_threads / num_cores)


def _utilisation_note(cost: CostSpec) -> str:
    if cost.utilisation is None:
        return "Utilisation is not stated: costs are of busy time alone, and idle time comes on top."
    return f"Costs include idle time, at a stated utilisation of {cost.utilisation:.0%}."


@dataclass(frozen=True)
class _Rival:
    """The API that the machine is compared with."""

    input_usd_per_1m_tokens: float
    output_usd_per_1m_tokens: float
    notes: tuple[str, ...]


def _rival(cost: CostSpec, prices: PriceList, today: date) -> _Rival | None:
    compared = cost.compare_with
    if compared.api is not None:
        entry = prices.api(compared.api)
        dollars = (
            f"${entry.input_usd_per_1m_tokens:g} in and ${entry.output_usd_per_1m_tokens:g} out per million tokens"
        )
        origin = f"Break-even is with {entry.id}: {dollars} as of {entry.as_of} ({entry.source})."
        notes = (origin, entry.age_note(today))
        return _Rival(
            entry.input_usd_per_1m_tokens, entry.output_usd_per_1m_tokens, tuple(note for note in notes if note)
        )
    if compared.input_usd_per_1m_tokens is None or compared.output_usd_per_1m_tokens is None:
        return None
    return _Rival(
        compared.input_usd_per_1m_tokens,
        compared.output_usd_per_1m_tokens,
        ("Break-even is with the API prices that the spec states.",),
    )


def _break_even_details(throughput: Throughput, usd_per_hour: float, rival: _Rival | None) -> dict[str, float]:
    """Volume and needed utilisation; a utilisation above 1 means that the API stays cheaper at any volume."""
    if rival is None or throughput.output.tokens_per_s <= 0:
        return {}
    found = break_even(
        throughput,
        usd_per_hour=usd_per_hour,
        input_usd_per_1m_tokens=rival.input_usd_per_1m_tokens,
        output_usd_per_1m_tokens=rival.output_usd_per_1m_tokens,
    )
    return {
        "break_even_tokens_per_month": found.tokens_per_month,
        "break_even_utilisation": found.needed_utilisation,
    }
