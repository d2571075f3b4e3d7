"""Open-loop measurements of an endpoint: a workload, its schedule, one run, and the figures that come out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from lightship.errors import MeasurementError
from lightship.evaluation.performance.arrivals import Arrivals
from lightship.evaluation.performance.client import (
    CompletionEndpoint,
    EndpointTraits,
    HttpCompletions,
    LoadClient,
    probe_endpoint,
)
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.load_result import LoadResult, load_figures, summarize_load
from lightship.evaluation.performance.open_loop import (
    DEFAULT_LAG_LIMITS,
    LagLimits,
    OpenLoop,
    PlannedRequest,
    run_open_loop,
)
from lightship.evaluation.performance.protocol import MAX_CACHED_SHARE
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.trace_prompts import TokenLength, TracePrompts
from lightship.evaluation.performance.traces import Trace, TraceRequest
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.progress import Progress, SilentProgress

# Tokens of the short trial prompts that show how many characters make a token.
_SHORT_TRIAL_TOKENS = 32
# Trials of each length: one text may be unlike the others.
_NUM_TRIALS = 3
# Characters per token that a tokenizer of text may have; outside, the counts are of something else.
_CHARS_PER_TOKEN_RANGE = (0.2, 40.0)
# What a first guess of characters per token may be off by before the trials correct it.
_FIRST_GUESS = TokenLength(chars_per_token=3.0)
# Tokens of the longest trial prompt: enough to tell a token's length to a percent, short enough to cost nothing.
_MAX_TRIAL_TOKENS = 2048


@dataclass(frozen=True)
class SyntheticWorkload:
    """Requests of one size, no two alike, in a pattern of arrivals."""

    arrivals: Arrivals
    num_prompt_tokens: int
    num_output_tokens: int

    def __post_init__(self) -> None:
        for what, length in (("prompt", self.num_prompt_tokens), ("output", self.num_output_tokens)):
            if length < 1:
                raise MeasurementError(f"requests need at least one {what} token, got {length}")

    @property
    def name(self) -> str:
        """Text for protocol names, such as `poisson/p64-o32/r10`."""
        pattern, _, rate = self.arrivals.name.partition("/")
        return f"{pattern}/p{self.num_prompt_tokens}-o{self.num_output_tokens}/{rate}"

    def requests(self, *, duration_s: float, seed: int) -> tuple[TraceRequest, ...]:
        """The requests of a run."""
        offsets = self.arrivals.offsets_s(duration_s=duration_s, seed=seed)
        return tuple(TraceRequest(offset_s, self.num_prompt_tokens, self.num_output_tokens) for offset_s in offsets)


@dataclass(frozen=True)
class OpenLoopProtocol:
    """What is sent and when.

    Args:
        workload: A pattern, or a recorded trace.
        duration_s: Length of the window in which requests count; None for a trace: to its end.
        warmup_s: Time before it, of the same load. Of a trace it is the beginning.
        drain_s: Time after it for answers under way.
        seed: Which arrivals and texts are drawn. Use another one for each run on the same worker, or its prefix cache
            knows the prompts.
        lag: How late the client may be.
    """

    workload: SyntheticWorkload | Trace
    duration_s: float | None = None
    warmup_s: float = 0.0
    drain_s: float = 30.0
    seed: int = 0
    lag: LagLimits = DEFAULT_LAG_LIMITS

    def __post_init__(self) -> None:
        if self.duration_s is None and isinstance(self.workload, SyntheticWorkload):
            raise MeasurementError("a pattern of arrivals has no end of its own", hint="Give a duration.")
        _ = self.bounds  # refuses a run without a window now rather than when it is made

    @property
    def bounds(self) -> OpenLoop:
        """The run's bounds in time.

        Raises: MeasurementError: nothing is left to measure.
        """
        return OpenLoop(self.warmup_s, self.end_s, self.drain_s, self.lag)

    @property
    def window_s(self) -> float:
        """Length of the window."""
        if self.duration_s is not None:
            return self.duration_s
        assert isinstance(self.workload, Trace)
        return self.workload.duration_s - self.warmup_s

    @property
    def end_s(self) -> float:
        """End of the schedule."""
        return self.warmup_s + self.window_s

    @property
    def name(self) -> str:
        """Protocol text of measurements; equal exactly when figures may be compared.

        >>> from lightship.evaluation.performance.arrivals import PoissonArrivals
        >>> OpenLoopProtocol(SyntheticWorkload(PoissonArrivals(10), 64, 32), duration_s=30, warmup_s=5).name
        'open-loop-1/poisson/p64-o32/r10/5+30s/seed0'
        """
        if isinstance(self.workload, Trace):
            part = self.workload.selection.name
            what = f"trace-{self.workload.name}" + (f"/{part}" if part else "")
        else:
            what = self.workload.name
        warmup = f"{self.warmup_s:g}+" if self.warmup_s else ""
        return f"open-loop-1/{what}/{warmup}{self.window_s:g}s/seed{self.seed}"

    def judged_name(self, slo: Slo) -> str:
        """Protocol text of figures that also depend on the SLO."""
        return f"{self.name}/{slo.name}"

    def requests(self) -> tuple[TraceRequest, ...]:
        """What is sent, in order of arrival."""
        if isinstance(self.workload, Trace):
            return tuple(request for request in self.workload.requests if request.arrival_s < self.end_s)
        return self.workload.requests(duration_s=self.end_s, seed=self.seed)

    @property
    def block_tokens(self) -> float:
        """Tokens of a prefix block; of no matter for a pattern, whose prompts share none."""
        return self.workload.block_tokens if isinstance(self.workload, Trace) else 1.0


@dataclass(frozen=True)
class OpenLoopResult:
    """Figures of one run, and how near the sent lengths came to the wanted ones.

    `wanted_prompt_tokens` and `wanted_output_tokens` are means over the answered requests, to be held against
    `load.mean_prompt_tokens` and `load.mean_output_tokens`. `has_fixed_length` is False when the endpoint refused
    `ignore_eos`: then answers end where the model wants. `run` has every record.
    """

    protocol: OpenLoopProtocol
    slo: Slo
    has_fixed_length: bool
    token_length: TokenLength
    load: LoadResult
    wanted_prompt_tokens: float
    wanted_output_tokens: float
    run: LoadRun


async def measure_open_loop(
    base_url: str,
    model: str,
    protocol: OpenLoopProtocol,
    slo: Slo,
    clock: Clock,
    *,
    texts: Sequence[str],
    headers: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> OpenLoopResult:
    """What the endpoint makes of the workload.

    Args:
        base_url: Root of the endpoint, with or without `/v1`.
        model: Name to ask for.
        protocol: What to send.
        slo: Limits that make a request good; `NO_SLO` where nobody judges.
        clock: Time for schedule and records.
        texts: Where prompts are made from; not the texts that quality is measured on in the same worker.
        headers: Extra request headers, such as an API key.
        progress: Told when the run begins and ends.

    Raises:
        ClientLateError: the client could not keep the schedule.
        MeasurementError: the endpoint cannot be measured, or its prefix cache answered prompts that share nothing.
    Effects: loads the endpoint for at most `warmup_s` + `duration_s` + `drain_s`, and a few single requests before.
    """
    longest_s = protocol.end_s + protocol.drain_s
    limits = HopTimeouts(connect_s=5.0, first_token_s=longest_s, next_token_s=longest_s, total_s=longest_s)
    async with HttpCompletions(base_url, connect_timeout_s=limits.connect_s, headers=headers) as endpoint:
        with (progress or SilentProgress()).task(f"{protocol.name} on {model}") as task:
            task.advance(done=0, total=1, note=f"{protocol.end_s:g} s")
            result = await run_protocol(endpoint, model, protocol, slo, clock, texts=texts, limits=limits)
            task.advance(done=1, total=1)
    return result


async def run_protocol(
    endpoint: CompletionEndpoint,
    model: str,
    protocol: OpenLoopProtocol,
    slo: Slo,
    clock: Clock,
    *,
    texts: Sequence[str],
    limits: HopTimeouts,
) -> OpenLoopResult:
    """See `measure_open_loop`; the endpoint is open already."""
    requests = protocol.requests()
    traits, length = await _trials(endpoint, model, requests, protocol.seed, clock=clock, texts=texts, limits=limits)
    prompts = TracePrompts(texts, length=length, block_tokens=protocol.block_tokens, seed=protocol.seed)
    client = LoadClient(endpoint, model, clock=clock, limits=limits, has_fixed_length=traits.has_fixed_length)
    run = await run_open_loop(client, protocol.bounds, _planned(requests, prompts), clock=clock)
    result = summarize_load(run, slo)
    if isinstance(protocol.workload, SyntheticWorkload) and result.cached_share > MAX_CACHED_SHARE:
        raise MeasurementError(
            f"{result.cached_share:.0%} of the prompt tokens came from the prefix cache although no two prompts of "
            "this run are alike: the endpoint knows them from an earlier run, so TTFT would be the cache's",
            where=f"model {model}, seed {protocol.seed}",
            hint="Take another seed or restart the worker.",
        )
    measured = [request for request in requests if protocol.warmup_s <= request.arrival_s < protocol.end_s]
    answered = [request for request, record in zip(measured, run.records, strict=True) if record.error is None]
    return OpenLoopResult(
        protocol=protocol,
        slo=slo,
        has_fixed_length=traits.has_fixed_length,
        token_length=length,
        load=result,
        wanted_prompt_tokens=fmean(request.num_prompt_tokens for request in answered) if answered else 0.0,
        wanted_output_tokens=fmean(request.num_output_tokens for request in answered) if answered else 0.0,
        run=run,
    )


def _planned(requests: Sequence[TraceRequest], prompts: TracePrompts) -> Iterator[PlannedRequest]:
    for index, request in enumerate(requests):
        yield PlannedRequest(request.arrival_s, prompts.prompt(request, index=index), request.num_output_tokens)


async def _trials(
    endpoint: CompletionEndpoint,
    model: str,
    requests: Sequence[TraceRequest],
    seed: int,
    *,
    clock: Clock,
    texts: Sequence[str],
    limits: HopTimeouts,
) -> tuple[EndpointTraits, TokenLength]:
    """What single requests show: whether `ignore_eos` is honoured, and how long a token is in this model's eyes.

    Raises: MeasurementError: a trial failed, or the token counts are not those of the text.
    """
    wanted = min(_MAX_TRIAL_TOKENS, round(fmean(request.num_prompt_tokens for request in requests)))
    trial = TracePrompts(texts, length=_FIRST_GUESS, block_tokens=1, seed=-1 - seed)  # no prompt of the run
    sizes = [_SHORT_TRIAL_TOKENS] * _NUM_TRIALS + [max(wanted, 4 * _SHORT_TRIAL_TOKENS)] * _NUM_TRIALS
    prompts = [trial.prompt(TraceRequest(0, size, 1), index=index) for index, size in enumerate(sizes)]
    traits = await probe_endpoint(endpoint, model, prompt=prompts[0], clock=clock, limits=limits)
    client = LoadClient(endpoint, model, clock=clock, limits=limits, has_fixed_length=traits.has_fixed_length)
    found: list[tuple[int, int]] = []
    for prompt in prompts:
        record = await client.complete(prompt, max_tokens=1)
        if record.error is not None:
            raise MeasurementError(
                f"a trial request of {len(prompt)} characters failed ({record.error}): {record.error_detail}",
                where=f"model {model}",
            )
        found.append((len(prompt), record.num_prompt_tokens))
    return traits, fit_token_length(found)


def fit_token_length(trials: Sequence[tuple[int, int]]) -> TokenLength:
    """The least-squares line through (characters, tokens) of trial prompts of at least two lengths.

    Raises: MeasurementError: the counts are not those of a tokenizer.
    """
    mean_chars, mean_tokens = fmean(chars for chars, _ in trials), fmean(tokens for _, tokens in trials)
    spread = sum((chars - mean_chars) ** 2 for chars, _ in trials)
    slope = sum((chars - mean_chars) * (tokens - mean_tokens) for chars, tokens in trials) / spread
    low, high = _CHARS_PER_TOKEN_RANGE
    if not 1 / high <= slope <= 1 / low:
        raise MeasurementError(
            f"the endpoint's prompt token counts do not follow the text: {list(trials)} (characters, tokens)",
            hint="Its usage must state the tokens of the prompt.",
        )
    return TokenLength(chars_per_token=1 / slope, overhead_tokens=mean_tokens - slope * mean_chars)


def open_loop_measurements(
    result: OpenLoopResult, *, variant_digest: str, target: Target, machine: str, measured_unix_s: float
) -> list[Measurement]:
    """One measurement per metric; latencies are medians, with p95 and p99 in `details`.

    Goodput and attainment are left out where nobody judges (`NO_SLO`).
    """
    suffix = "" if result.has_fixed_length else "/free-length"
    judged = {Metric.GOODPUT_REQUESTS_PER_S, Metric.SLO_ATTAINMENT}
    return [
        Measurement(
            metric=figure.metric,
            value=figure.value,
            variant_digest=variant_digest,
            target=target,
            protocol=(result.protocol.judged_name(result.slo) if figure.metric in judged else result.protocol.name)
            + suffix,
            num_items=figure.num_items,
            interval=figure.interval,
            measured_unix_s=measured_unix_s,
            machine=machine,
            details={**_run_details(result), **figure.details},
        )
        for figure in load_figures(result.load)
        if result.slo != NO_SLO or figure.metric not in judged
    ]


def _run_details(result: OpenLoopResult) -> dict[str, float]:
    load = result.load
    assert load.offered_requests_per_s is not None
    assert load.lag_ms is not None
    return {
        "offered_requests_per_s": load.offered_requests_per_s,
        "answered_requests_per_s": load.answered_requests_per_s.per_s,
        "window_s": load.window_s,
        "errors": float(sum(load.errors.values())),
        "undecided": float(load.num_undecided),
        "mean_prompt_tokens": load.mean_prompt_tokens,
        "mean_output_tokens": load.mean_output_tokens,
        "wanted_prompt_tokens": result.wanted_prompt_tokens,
        "wanted_output_tokens": result.wanted_output_tokens,
        "cached_share": load.cached_share,
        "lag_p99_ms": load.lag_ms.p99,
        "lag_max_ms": load.lag_ms.highest,
    }
