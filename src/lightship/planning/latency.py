"""How fast one replica is: by the roofline of each engine step, or as measured where there are measurements. Pure.

A decode step is bound by the bytes it reads or the operations it does, a prompt likewise (`artifacts/roofline.py`).
With n requests under way, each of them waits in every step for the whole batch, and in between for the prompts of
those that come: n prompts in the time of one request's decode steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightship.artifacts.model_shape import ModelShape
from lightship.artifacts.roofline import MachineSpeed, WeightBits, decode_step_s, prefill_s

_MS = 1000.0
# No engine runs more sequences than this in one step.
_MOST_SEQUENCES = 65_536


@dataclass(frozen=True)
class Promise:
    """The SLO: both limits, and the share of requests that must keep them."""

    ttft_ms: float
    tpot_ms: float
    attainment: float


@dataclass(frozen=True)
class Tokens:
    """Mean tokens of a request."""

    prompt: float
    output: float

    @property
    def num_later(self) -> float:
        """Output tokens after the first, which the prompt's computation yields."""
        return max(0.0, self.output - 1)


@dataclass(frozen=True)
class StepModel:
    """What the time of a replica's steps follows from.

    Args:
        speed: Of all devices of the replica together, at their peak.
        kv_bytes: Bytes of the cache per token.
        efficiency: Share of the peak that the engine reaches, above 0; above 1 corrects a speed measured too low.
    """

    shape: ModelShape
    bits: WeightBits
    speed: MachineSpeed
    kv_bytes: float
    efficiency: float = 1.0

    def prompt_s(self, tokens: Tokens) -> float:
        """Time to compute one prompt."""
        num_tokens = max(1, round(tokens.prompt))
        return (
            prefill_s(self.shape, self.bits, self.speed, prompt_tokens=num_tokens, kv_bytes=self.kv_bytes)
            / self.efficiency
        )

    def decode_s(self, num_sequences: int, tokens: Tokens) -> float:
        """Time of one decode step of so many sequences, half way through their output."""
        context = tokens.prompt + tokens.output / 2
        step_s = decode_step_s(
            self.shape, self.bits, self.speed, num_sequences=num_sequences, context=context, kv_bytes=self.kv_bytes
        )
        return step_s / self.efficiency


@dataclass(frozen=True)
class Operation:
    """A replica with so many requests under way."""

    num_in_flight: int
    ttft_ms: float
    tpot_ms: float
    requests_per_s: float

    def keeps(self, promise: Promise) -> bool:
        """Whether both limits are kept."""
        return self.ttft_ms <= promise.ttft_ms and self.tpot_ms <= promise.tpot_ms

    @property
    def service_s(self) -> float:
        """Time that one request is under way."""
        return self.num_in_flight / self.requests_per_s


def operate(steps: StepModel, tokens: Tokens, num_in_flight: int) -> Operation:
    """How a replica does with so many requests at all times.

    A request's first token waits for the step under way and its prompt; each later one for a step, and for its part of
    the prompts of the others.
    """
    prompt_s, step_s = steps.prompt_s(tokens), steps.decode_s(num_in_flight, tokens)
    others = num_in_flight - 1
    tpot_s = step_s + others * prompt_s / tokens.num_later if tokens.num_later else 0.0
    ttft_s = prompt_s + (step_s if others else 0.0)
    if not tokens.num_later:
        ttft_s += others * prompt_s
    service_s = ttft_s + tokens.num_later * tpot_s
    return Operation(num_in_flight, _MS * ttft_s, _MS * tpot_s, num_in_flight / service_s)


def most_in_flight(steps: StepModel, tokens: Tokens, promise: Promise, *, limit: int) -> Operation | None:
    """The operation with the most requests under way that keeps the promise; None where even one alone breaks it.

    Both latencies grow with the number of requests, so it is found by bisection.

    Args:
        limit: Most that the engine runs at the same time, or its cache holds.
    """
    low, high = 0, max(0, min(limit, _MOST_SEQUENCES))
    while low < high:
        middle = (low + high + 1) // 2
        if operate(steps, tokens, middle).keeps(promise):
            low = middle
        else:
            high = middle - 1
    return operate(steps, tokens, low) if low else None


@dataclass(frozen=True)
class MeasuredLoad:
    """What was measured of a variant on a target with so many requests at a time.

    `tokens` are the means of that load; goodput counts requests that kept the promise of the measurement.
    """

    concurrency: int
    ttft_ms: float
    tpot_ms: float
    goodput_requests_per_s: float
    attainment: float
    tokens: Tokens


def best_measured(loads: Sequence[MeasuredLoad], promise: Promise) -> MeasuredLoad | None:
    """The measured load with the most goodput that keeps the attainment; None where none does."""
    good = [load for load in loads if load.attainment >= promise.attainment and load.goodput_requests_per_s > 0]
    return max(good, key=lambda load: (load.goodput_requests_per_s, -load.concurrency), default=None)


def tokens_ratio(steps: StepModel, measured: Tokens, planned: Tokens, num_in_flight: int) -> float:
    """How many times as long a planned request takes as a measured one, by the roofline of both."""
    return operate(steps, planned, num_in_flight).service_s / operate(steps, measured, num_in_flight).service_s
