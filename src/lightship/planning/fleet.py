"""How many replicas, what they cost, and from where on a cloud is dearer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightship.planning.capacity import Staffing, degradable_at_peak, staff
from lightship.planning.records import PlanRequest, Prices
from lightship.planning.speed import RungSpeed
from lightship.ports.deployment import Figure, FigureSource

# 365 days of 24 hours over twelve, as cloud providers count.
HOURS_PER_MONTH = 730.0
_S_PER_HOUR = 3600.0
_MILLION = 1e6


class BreakEven(Protocol):
    """From which volume the fleet is cheaper than an API.

    Called with the fleet's USD per hour, and the prompt and good output tokens per second that it can serve; the
    answer is tokens a month, prompt and output together, and the share of the fleet's capacity that they are.
    """

    def __call__(
        self, *, usd_per_hour: float, prompt_tokens_per_s: float, output_tokens_per_s: float, prices: Prices
    ) -> tuple[float, float]:
        """Tokens a month and needed utilisation."""
        ...


@dataclass(frozen=True)
class Fleet:
    """Replicas for the traffic. All of them serve the top rung but at the peak, where `degraded_share` may step down.

    Args:
        num_replicas: Spare ones included.
        staffing: At the peak.
        usd_per_month: None without a price.
        usd_per_1m_good_tokens: Over the output tokens of requests that keep the promise.
        cloud_usd_per_month: What the same traffic costs there.
    """

    name: str
    num_replicas: Figure
    staffing: Staffing
    degraded_share: Figure
    usd_per_month: Figure | None = None
    usd_per_1m_good_tokens: Figure | None = None
    cloud_usd_per_month: Figure | None = None
    break_even_tokens_per_month: Figure | None = None
    break_even_utilisation: Figure | None = None


def plan_fleets(request: PlanRequest, speeds: Sequence[RungSpeed], break_even: BreakEven | None) -> tuple[Fleet, ...]:
    """The fleet of the top rung alone, and the one that steps down at the peak where there is a faster lower rung.

    Raises: UsageError: a load that no fleet serves.
    """
    top = speeds[0]
    fleets = [
        _fleet(
            "top rung alone",
            request=request,
            top=top,
            service_s=top.service_s,
            degraded=_no_degradation(),
            least=1,
            break_even=break_even,
        )
    ]
    lower = [speed for speed in speeds[1:] if speed.goodput.value > top.goodput.value]
    if not lower or not request.degraded_budget:
        return tuple(fleets)
    fastest = max(lower, key=lambda speed: speed.goodput.value)
    allowed = degradable_at_peak(request.traffic, request.degraded_budget)
    # a place serves the mix: each request takes the time of its rung, over as many places as the top has
    scaled_s = fastest.service_s * top.places.value / fastest.places.value
    mixed_s = (1 - allowed.peak_share) * top.service_s + allowed.peak_share * scaled_s
    quiet = _staff(request, request.traffic.mean_requests_per_s, top, top.service_s)
    share = Figure(allowed.peak_share, "of the peak's requests", FigureSource.GIVEN, allowed.how)
    name = f"with the ladder, down to {fastest.name} at the peak"
    fleets.append(
        _fleet(
            name,
            request=request,
            top=top,
            service_s=mixed_s,
            degraded=share,
            least=quiet.num_replicas,
            break_even=break_even,
        )
    )
    return tuple(fleets)


def _no_degradation() -> Figure:
    return Figure(0.0, "of the peak's requests", FigureSource.GIVEN, "every request is served as it asks")


def _staff(request: PlanRequest, requests_per_s: float, top: RungSpeed, service_s: float) -> Staffing:
    wait_s = max(0.0, request.promise.ttft_ms - top.ttft_ms.value) / 1000
    return staff(
        requests_per_s=requests_per_s,
        service_s=service_s,
        places_per_replica=int(top.places.value),
        wait_s=wait_s,
        attainment=request.promise.attainment,
    )


def _fleet(
    name: str,
    *,
    request: PlanRequest,
    top: RungSpeed,
    service_s: float,
    degraded: Figure,
    least: int,
    break_even: BreakEven | None,
) -> Fleet:
    peak = _staff(request, request.traffic.peak_requests_per_s, top, service_s)
    busy = max(peak.num_replicas, least)
    total = busy + request.num_spare
    places = int(top.places.value)
    how = (
        f"{request.traffic.peak_requests_per_s:.4g}/s x {service_s:.3g} s = {peak.offered:.4g} requests at a time; "
        f"with {busy} x {places} places {peak.kept_share:.1%} wait less than the promise leaves (Erlang C), "
        f"+ {request.num_spare} spare"
    )
    replicas = Figure(total, "replicas", top.goodput.source, how)
    return Fleet(name, replicas, peak, degraded, **_costs(request, top, total, busy, break_even))


def _costs(
    request: PlanRequest, top: RungSpeed, total: int, busy: int, break_even: BreakEven | None
) -> dict[str, Figure]:
    prices, traffic, tokens = request.prices, request.traffic, request.tokens
    seconds = HOURS_PER_MONTH * _S_PER_HOUR
    costs: dict[str, Figure] = {}
    if prices.has_cloud:
        assert prices.cloud_input_usd_per_1m is not None
        assert prices.cloud_output_usd_per_1m is not None
        per_request = (
            tokens.prompt * prices.cloud_input_usd_per_1m + tokens.output * prices.cloud_output_usd_per_1m
        ) / _MILLION
        value = traffic.mean_requests_per_s * seconds * per_request
        how = f"{traffic.mean_requests_per_s:.4g}/s x {seconds:.0f} s x ${per_request:.3g} a request"
        costs["cloud_usd_per_month"] = Figure(value, "USD", FigureSource.GIVEN, how)
    price = prices.usd_per_replica_hour
    if price is None:
        return costs
    month = total * price.value * HOURS_PER_MONTH
    how = f"{total} replicas x ${price.value:g} x {HOURS_PER_MONTH:g} h ({price.how})"
    costs["usd_per_month"] = Figure(month, "USD", price.source, how)
    good = traffic.mean_requests_per_s * request.promise.attainment * tokens.output * seconds
    costs["usd_per_1m_good_tokens"] = Figure(
        month / good * _MILLION,
        "USD",
        price.source,
        f"${month:.4g} over {traffic.mean_requests_per_s:.4g}/s x {request.promise.attainment:.0%} x "
        f"{tokens.output:g} tokens x {seconds:.0f} s",
    )
    if break_even is None or not prices.has_cloud:
        return costs
    capacity = busy * top.goodput.value
    volume, utilisation = break_even(
        usd_per_hour=total * price.value,
        prompt_tokens_per_s=capacity * tokens.prompt,
        output_tokens_per_s=capacity * tokens.output,
        prices=prices,
    )
    how = f"${total * price.value:g} an hour over the cloud's price of this mix of tokens"
    costs["break_even_tokens_per_month"] = Figure(volume, "tokens", FigureSource.GIVEN, how)
    reach = "" if utilisation <= 1 else ": more than they can serve, the cloud stays cheaper at any volume"
    how = f"of what {busy} replicas at {top.goodput.value:.3g} requests/s can serve{reach}"
    costs["break_even_utilisation"] = Figure(utilisation, "of capacity", top.goodput.source, how)
    return costs
