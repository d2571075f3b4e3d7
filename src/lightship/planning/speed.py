"""How fast a replica of a rung is within the promise: as measured, else by the roofline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightship.artifacts.roofline import MachineSpeed, WeightBits
from lightship.planning.latency import (
    StepModel,
    best_measured,
    most_in_flight,
    operate,
    tokens_ratio,
)
from lightship.planning.memory import MemoryPlan
from lightship.planning.records import MachineToPlan, PlanRequest, RungToPlan
from lightship.ports.deployment import Figure, FigureSource


@dataclass(frozen=True)
class RungSpeed:
    """One replica of a rung at the most requests that keep the promise.

    Args:
        places: Requests it serves at a time.
        ttft_ms: From when it has a place.
        goodput: Requests per second.
        service_s: Time one request is under way.
    """

    name: str
    places: Figure
    ttft_ms: Figure
    tpot_ms: Figure
    goodput: Figure
    service_s: float


@dataclass(frozen=True)
class TooSlow:
    """A promise that a rung cannot keep even alone, and by how much."""

    name: str
    reason: str
    is_beyond_roofline: bool


def step_model(rung: RungToPlan, machine: MachineToPlan, memory: MemoryPlan, efficiency: float) -> StepModel:
    """What the times of a replica's steps follow from; several devices count as one that is as many times as fast."""
    bits = 8 * rung.weight_bytes.value / rung.shape.num_weights
    parts = rung.settings.tensor_parallel * rung.settings.pipeline_parallel if rung.settings.is_gpu else 1
    flops = machine.flops.get(rung.arithmetic, machine.flops["half"])
    speed = MachineSpeed(parts * machine.bandwidth.value, parts * flops.value)
    return StepModel(rung.shape, WeightBits(bits, bits, bits), speed, memory.kv_token_bytes.value, efficiency)


def reached_efficiency(request: PlanRequest, memories: Sequence[MemoryPlan]) -> Figure:
    """The share of the roofline that measured rungs reach, for those that were not measured: the least of them.

    The request's own where the user gave one, or nothing was measured. Above 1 where a measured rung beats the
    roofline: then the machine's speed was measured too low, and the roofline of all rungs is corrected by as much.
    """
    if request.efficiency.source is FigureSource.GIVEN:
        return request.efficiency
    reached = []
    for rung, memory in zip(request.rungs, memories, strict=True):
        measured = best_measured(rung.loads, request.promise)
        if measured is not None:
            steps = step_model(rung, request.machine, memory, 1.0)
            best = operate(steps, measured.tokens, measured.concurrency).requests_per_s
            reached.append((measured.goodput_requests_per_s / best, rung.name, measured, best))
    if not reached:
        return request.efficiency
    share, name, measured, best = min(reached, key=lambda one: one[0])
    how = (
        f"{name} was measured with {measured.goodput_requests_per_s:.4g} requests/s at {measured.concurrency} at a "
        f"time, where the roofline is {best:.4g}"
    )
    if share > 1:
        how += ": more than it, so the machine was busy when its speed was measured for this plan"
    return Figure(share, "of the roofline", FigureSource.MEASURED, how)


def plan_speed(rung: RungToPlan, request: PlanRequest, memory: MemoryPlan) -> RungSpeed | TooSlow:
    """The rung's speed within the promise, or why it cannot keep it.

    A measured load counts where its attainment was kept; its goodput is stretched to the planned tokens by the ratio of
    the two by the roofline.
    """
    steps = step_model(rung, request.machine, memory, request.efficiency.value)
    measured = best_measured(rung.loads, request.promise)
    if measured is not None:
        ratio = tokens_ratio(steps, measured.tokens, request.tokens, measured.concurrency)
        goodput = measured.goodput_requests_per_s / ratio
        how = f"measured at {measured.concurrency} requests at a time, {measured.attainment:.0%} within the promise"
        source = FigureSource.MEASURED
        stretched = f"{measured.goodput_requests_per_s:.4g}/s {how}"
        if abs(ratio - 1) > 1e-3:
            stretched += (
                f", / {ratio:.3g} for {request.tokens.prompt:g}+{request.tokens.output:g} tokens in place of "
                f"{measured.tokens.prompt:.0f}+{measured.tokens.output:.0f} (by the roofline)"
            )
        return RungSpeed(
            rung.name,
            Figure(measured.concurrency, "requests", source, how),
            Figure(measured.ttft_ms, "ms", source, how),
            Figure(measured.tpot_ms, "ms", source, how),
            Figure(goodput, "requests/s", source, stretched),
            measured.concurrency / goodput,
        )
    held = int(memory.kv_tokens.value // max(1.0, request.tokens.prompt + request.tokens.output))
    limit = min(rung.settings.max_sequences, held)
    found = most_in_flight(steps, request.tokens, request.promise, limit=limit)
    if found is None:
        return _too_slow(rung, request, memory, held)
    how = _how(rung, request, steps)
    is_assumed = request.efficiency.source is FigureSource.ASSUMED
    source = FigureSource.ASSUMED if is_assumed else FigureSource.ROOFLINE
    copies = rung.settings.data_parallel if rung.settings.is_gpu else 1
    places_how = (
        f"most that keep {request.promise.ttft_ms:g} ms and {request.promise.tpot_ms:g} ms, of at most {limit} "
        f"(max_sequences {rung.settings.max_sequences}, cache for {held})"
    )
    return RungSpeed(
        rung.name,
        Figure(copies * found.num_in_flight, "requests", source, places_how),
        Figure(found.ttft_ms, "ms", source, f"a prompt of {request.tokens.prompt:g} tokens and a step; {how}"),
        Figure(found.tpot_ms, "ms", source, f"a step of {found.num_in_flight} and prompts in between; {how}"),
        Figure(
            copies * found.requests_per_s,
            "requests/s",
            source,
            f"{found.num_in_flight} / {found.service_s:.3g} s; {how}",
        ),
        found.service_s,
    )


def _how(rung: RungToPlan, request: PlanRequest, steps: StepModel) -> str:
    speed = steps.speed
    return (
        f"roofline of {speed.bandwidth_bytes_per_s / 1e9:.4g} GB/s ({request.machine.bandwidth.source}) and "
        f"{speed.flops_per_s / 1e12:.4g} TFLOP/s, {request.efficiency.value:.0%} of it reached "
        f"({request.efficiency.source})"
    )


def _too_slow(rung: RungToPlan, request: PlanRequest, memory: MemoryPlan, held: int) -> TooSlow:
    """Which limit is broken by one request alone: at the roofline itself, or only at the share engines reach of it."""
    promise = request.promise
    if held < 1:
        tokens = request.tokens.prompt + request.tokens.output
        reason = f"its cache holds {memory.kv_tokens.value:.0f} tokens, and one request has {tokens:g}"
        return TooSlow(rung.name, reason, is_beyond_roofline=True)
    bound = max(1.0, request.efficiency.value)
    best = operate(step_model(rung, request.machine, memory, bound), request.tokens, 1)
    expected = operate(step_model(rung, request.machine, memory, request.efficiency.value), request.tokens, 1)
    is_beyond = not best.keeps(promise)
    shown = best if is_beyond else expected
    share = "at the roofline itself" if is_beyond else f"at {request.efficiency.value:.0%} of the roofline"
    broken = [
        f"{name} {value:.4g} ms where {limit:g} ms are promised"
        for name, value, limit in (
            ("TTFT", shown.ttft_ms, promise.ttft_ms),
            ("TPOT", shown.tpot_ms, promise.tpot_ms),
        )
        if value > limit
    ]
    return TooSlow(rung.name, f"one request alone has, {share}, {' and '.join(broken)}", is_beyond)
