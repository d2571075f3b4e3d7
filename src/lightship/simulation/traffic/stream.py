"""The requests of one region, one after the other, in bounded memory.

What comes does not depend on what becomes of it: the same seed gives the same requests whatever the service is like, so
that two services are compared on the same load (common random numbers).
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from lightship.errors import UsageError
from lightship.evaluation.performance.trace_formats import read_trace
from lightship.evaluation.performance.traces import Trace, TraceSelection
from lightship.simulation.scenario import RequestKind, TraceRef, TrafficSpec
from lightship.simulation.traffic.lengths import drawer_of
from lightship.simulation.traffic.rates import RateCurve, curve_of

# Seconds for which the rate is taken to be constant: short against every curve, long against the gaps.
_PIECE_S = 5.0


class Arrival(NamedTuple):
    """One request: when it comes, of which kind, and how long prompt and answer are."""

    at_s: float
    kind: RequestKind
    num_prompt_tokens: int
    num_output_tokens: int


def stream_of(traffic: TrafficSpec, *, duration_s: float, seed: str, folder: Path) -> Iterator[Arrival]:
    """The requests of one region, in order of arrival.

    Args:
        seed: Text that decides; unlike any other region's.
        folder: That a trace's name is relative to.

    Raises: MeasurementError: a trace that cannot be read. UsageError: traffic without a single request.
    Effects: may read a file.
    """
    curve = curve_of(traffic, duration_s=duration_s, seed=seed)
    if curve is None:
        assert traffic.trace is not None, "the scenario was checked"
        trace = read_trace(
            folder / traffic.trace.file, format_name=traffic.trace.format, selection=_part(traffic.trace)
        )
        return _replayed(trace, traffic, duration_s=duration_s, seed=seed)
    return _drawn(curve, traffic, duration_s=duration_s, seed=seed)


def _part(ref: TraceRef) -> TraceSelection:
    return TraceSelection(
        start_s=ref.start_s,
        duration_s=ref.duration_s,
        time_scale=ref.time_scale,
        length_scale=ref.length_scale,
        max_prompt_tokens=ref.max_prompt_tokens,
        max_output_tokens=ref.max_output_tokens,
    )


def poisson_times(curve: RateCurve, *, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Arrivals of a Poisson process whose rate follows the curve, constant over short pieces.

    A process without memory may begin anew at the border of each piece.
    """
    now_s, end_s = 0.0, 0.0
    while end_s < duration_s:
        now_s, end_s = end_s, min(end_s + _PIECE_S, duration_s)
        rate = curve.at((now_s + end_s) / 2)
        if rate <= 0:
            continue
        while (now_s := now_s + rng.expovariate(rate)) < end_s:
            yield now_s


def _drawn(curve: RateCurve, traffic: TrafficSpec, *, duration_s: float, seed: str) -> Iterator[Arrival]:
    rng = random.Random(f"{seed}/lengths")
    kinds = traffic.kinds
    drawers = [(drawer_of(kind.prompt_tokens, rng), drawer_of(kind.output_tokens, rng)) for kind in kinds]
    bounds = list(accumulate(kind.share for kind in kinds))
    total, last = bounds[-1], len(kinds) - 1
    for at_s in poisson_times(curve, duration_s=duration_s, rng=random.Random(f"{seed}/arrivals")):
        position = min(last, bisect(bounds, rng.random() * total)) if last else 0
        prompt, output = drawers[position]
        yield Arrival(at_s, kinds[position], prompt(), output())


def _replayed(trace: Trace, traffic: TrafficSpec, *, duration_s: float, seed: str) -> Iterator[Arrival]:
    assert traffic.trace is not None
    if not traffic.trace.repeats and trace.requests[0].arrival_s >= duration_s:
        raise UsageError(f"no request of the trace comes within {duration_s:g} s", where=traffic.trace.file)
    rng = random.Random(f"{seed}/kinds")
    weights = [kind.share for kind in traffic.kinds]
    start_s = 0.0
    while start_s < duration_s:
        for request in trace.requests:
            at_s = start_s + request.arrival_s
            if at_s >= duration_s:
                return
            kind = rng.choices(traffic.kinds, weights)[0]
            yield Arrival(at_s, kind, request.num_prompt_tokens, request.num_output_tokens)
        if not traffic.trace.repeats:
            return
        start_s += trace.duration_s
