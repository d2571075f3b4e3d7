"""The performance protocol: which loads, how long, and the measurements that come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.closed_loop import ClosedLoop, run_closed_loop
from lightship.evaluation.performance.load_result import LoadResult, load_figures, summarize_load
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import Slo
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.progress import Progress, SilentProgress

# Share of prompt tokens found in the prefix cache above which TTFT would be the cache's figure. Engines report a shared
# first token or template block as cached, which stays below this.
MAX_CACHED_SHARE = 0.25
# Characters of the trial prompt from which characters per token are taken.
_TRIAL_CHARS = 256


@dataclass(frozen=True)
class PerformanceProtocol:
    """A closed-loop load at each concurrency, one after the other.

    Args:
        label: Short name for people.
        num_prompt_tokens: Prompt length aimed at; the achieved mean stands in the result.
        num_output_tokens: Tokens of each answer.
        concurrencies: Users, one run per entry.
        duration_s: Window of each run.
        time_cap_s: Hard end of each run, warm-up included.
        max_requests: Bound on measured requests of each run.
        num_runs: Times all of it is done, each on a worker of its own; see `repeats`.
        seed: Which prompts are drawn.
    """

    label: str
    num_prompt_tokens: int
    num_output_tokens: int
    concurrencies: tuple[int, ...]
    duration_s: float
    time_cap_s: float
    max_requests: int
    num_runs: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """Protocol text of measurements; equal exactly when figures may be compared.

        >>> QUICK.name
        'closed-loop-1/quick/p64-o32/c1-8-32/3x1s'
        """
        users = "-".join(str(concurrency) for concurrency in self.concurrencies)
        lengths = f"p{self.num_prompt_tokens}-o{self.num_output_tokens}"
        return f"closed-loop-1/{self.label}/{lengths}/c{users}/{self.num_runs}x{self.duration_s:g}s"

    def goodput_name(self, slo: Slo) -> str:
        """Protocol text of figures that also depend on the SLO."""
        return f"{self.name}/{slo.name}"


# Nine seconds of load and a little warm-up, in three runs: short enough to measure each variant while a user waits for
# `up`, and more than one run, because what differs between runs is the larger part of the noise on a shared machine.
QUICK = PerformanceProtocol(
    label="quick",
    num_prompt_tokens=64,
    num_output_tokens=32,
    concurrencies=(1, 8, 32),
    duration_s=1.0,
    time_cap_s=15.0,
    max_requests=5000,
    num_runs=3,
)

# Enough to tell apart what differs by a tenth or more; the engine is started once. For sorting many candidates.
SCREENING = PerformanceProtocol(
    label="screening",
    num_prompt_tokens=64,
    num_output_tokens=32,
    concurrencies=(1, 8, 32),
    duration_s=3.0,
    time_cap_s=20.0,
    max_requests=5000,
)

# For a machine of one's own and a decision that lasts: about a minute per variant and concurrency.
THOROUGH = PerformanceProtocol(
    label="thorough",
    num_prompt_tokens=64,
    num_output_tokens=32,
    concurrencies=(1, 8, 32),
    duration_s=10.0,
    time_cap_s=60.0,
    max_requests=50_000,
    num_runs=5,
)
PROTOCOLS = {protocol.label: protocol for protocol in (SCREENING, QUICK, THOROUGH)}


@dataclass(frozen=True)
class PerformanceResult:
    """Figures at each concurrency. `has_fixed_length` is False when the endpoint refused `ignore_eos`."""

    protocol: PerformanceProtocol
    slo: Slo
    has_fixed_length: bool
    loads: tuple[LoadResult, ...]


async def measure_performance(
    base_url: str,
    model: str,
    protocol: PerformanceProtocol,
    slo: Slo,
    clock: Clock,
    *,
    texts: Sequence[str],
    headers: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> PerformanceResult:
    """Latency, throughput and SLO attainment of the endpoint at every concurrency of the protocol.

    Args:
        base_url: Root of the endpoint, with or without `/v1`.
        model: Name to ask for.
        protocol: What to send.
        slo: Limits that make a request good.
        clock: Time for records and windows.
        texts: Where prompts are drawn from; not the texts that quality is measured on in the same worker.
        headers: Extra request headers, such as an API key.
        progress: Told after each concurrency.

    Raises: MeasurementError: the endpoint cannot be measured, or its prefix cache answered the prompts.
    Effects: loads the endpoint, for at most `time_cap_s` per concurrency.
    """
    limits = HopTimeouts(
        connect_s=5.0, first_token_s=protocol.time_cap_s, next_token_s=protocol.time_cap_s, total_s=protocol.time_cap_s
    )
    loads: list[LoadResult] = []
    with (progress or SilentProgress()).task(f"speed of {model}") as task:
        async with HttpCompletions(base_url, connect_timeout_s=limits.connect_s, headers=headers) as endpoint:
            trial = next(draw_prompts(texts, num_chars=_TRIAL_CHARS, seed=protocol.seed))
            traits = await probe_endpoint(endpoint, model, prompt=trial, clock=clock, limits=limits)
            num_chars = max(1, round(protocol.num_prompt_tokens * traits.chars_per_token))
            # +1: not the trial's stream, whose first prompt the engine has seen
            prompts = draw_prompts(texts, num_chars=num_chars, seed=protocol.seed + 1)
            client = LoadClient(endpoint, model, clock=clock, limits=limits, has_fixed_length=traits.has_fixed_length)
            for index, concurrency in enumerate(protocol.concurrencies):
                task.advance(done=index, total=len(protocol.concurrencies), note=f"{concurrency} at a time")
                load = ClosedLoop(
                    concurrency=concurrency,
                    num_output_tokens=protocol.num_output_tokens,
                    duration_s=protocol.duration_s,
                    time_cap_s=protocol.time_cap_s,
                    max_requests=protocol.max_requests,
                )
                result = summarize_load(await run_closed_loop(client, load, prompts, clock=clock), slo)
                _refuse_cached_prompts(result, model)
                loads.append(result)
            task.advance(done=len(loads), total=len(loads))
    return PerformanceResult(protocol, slo, traits.has_fixed_length, tuple(loads))


def _refuse_cached_prompts(result: LoadResult, model: str) -> None:
    if result.cached_share > MAX_CACHED_SHARE:
        raise MeasurementError(
            f"{result.cached_share:.0%} of the prompt tokens came from the prefix cache, so time to first token would "
            "be the cache's",
            where=f"model {model}, concurrency {result.concurrency}",
            hint="Restart the worker or give the protocol another seed.",
        )


def performance_measurements(
    result: PerformanceResult, *, variant_digest: str, target: Target, machine: str, measured_unix_s: float
) -> list[Measurement]:
    """One measurement per metric and concurrency. Latencies are medians, with p95 and p99 in `details`."""
    suffix = "" if result.has_fixed_length else "/free-length"
    judged = {Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT}
    return [
        Measurement(
            metric=figure.metric,
            value=figure.value,
            variant_digest=variant_digest,
            target=target,
            protocol=(result.protocol.goodput_name(result.slo) if figure.metric in judged else result.protocol.name)
            + suffix,
            num_items=figure.num_items,
            interval=figure.interval,
            measured_unix_s=measured_unix_s,
            machine=machine,
            concurrency=load.concurrency,
            details={**_run_details(load), **figure.details},
        )
        for load in result.loads
        for figure in load_figures(load)
    ]


def _run_details(load: LoadResult) -> dict[str, float]:
    return {
        "window_s": load.window_s,
        "errors": float(sum(count for kind, count in load.errors.items())),
        "undecided": float(load.num_undecided),
        "mean_prompt_tokens": load.mean_prompt_tokens,
        "mean_output_tokens": load.mean_output_tokens,
        "cached_share": load.cached_share,
    }
