"""Goodput of a real worker against what a simulation fitted to other loads predicts; exit 1 beyond 15 %.

    python benchmarks/simulated_prediction.py [--data FOLDER] [--rounds 4] [--state FILE] [--json FILE] [--unbounded]

The built-in model's int8 variant is served by its real worker. One round replays slices of the Azure conversation trace
(lengths times 0.25, arrivals scaled) at shares of the predicted capacity, each slice another part of the trace, the one
at capacity twice. Before, between and after the replays stand short calibrations, made as `lightship calibrate` makes
them: single requests, requests in step, mixed loads. The costs are fitted to the calibrations of all rounds and to
nothing else. Each replay is then simulated: the same arrivals, the same numbers of tokens, the same SLO. Goodput is the
number of requests within the SLO over all rounds.

The worker takes as many requests at a time as the SLO has time for and refuses more, as a deployment's limits do; what
is refused counts as not good. With `--unbounded` it queues hundreds. Goodput above capacity is then no property of the
engine any more but the time until the queue is too long, which grows without bound as the load nears capacity: a tenth
of capacity more or less makes several times as many good requests.

A virtual machine's speed drifts by a third within minutes, and near capacity that alone decides. So each replay is
simulated at the machine's speed of its time: that of the calibrations right before and right after it, one factor on
all costs. How far the same slice differs from itself is printed beside the errors.

Worker, client and everything else share the machine's cores, so a run in which other programs took part of them says
nothing about the prediction: it is made again, at most three times, and how often that was is printed. Whether a run
counts is decided from the processor's accounts alone, before anything is judged. With `--state` every run is kept, so
that rounds can be made one by one (`--rounds 1`, then 2, ...); a round that was cut short is made again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec

from evidence import DEFAULT_DATA
from lightship.cli.open_subject import build_named
from lightship.cli.prepare import surroundings
from lightship.cli.worker_settings import openvino_settings
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.model_info import read_model_info
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.cost_model import work_duration_s
from lightship.engines.simulated.fitting import fit_costs
from lightship.engines.simulated.simulation import SimulatedRequest, simulate
from lightship.evaluation.performance.calibration import CalibrationPlan, run_calibration
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.open_loop import ClientLateError, LagLimits
from lightship.evaluation.performance.open_loop_protocol import OpenLoopProtocol, measure_open_loop
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.performance.trace_formats import read_trace
from lightship.evaluation.performance.traces import Trace, TraceSelection
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    ProfileOrigin,
    ProfileSource,
    StepCosts,
)
from lightship.spec.load import parse_spec
from prediction_runs import Calibration, Discarded, Replay, Run, Setting, State
from quiet_machine import foreign_share, usage

VARIANT = "int8"
TRACE = Path("traces") / "azure_2023_conversation.csv.gz"
# Of the trace: 19,366 requests in 58 minutes.
TRACE_REQUESTS_PER_S = 5.56
LENGTH_SCALE = 0.25
MAX_PROMPT_TOKENS, MAX_OUTPUT_TOKENS = 700, 200
# Shares of capacity of a round's replays and where in the trace their slices begin; the one at capacity comes twice.
REPLAYS = ((0.5, 0.0), (0.8, 150.0), (1.0, 300.0), (1.0, 300.0), (1.3, 450.0))
FIRST_SLICE_S, ROUND_S = 100.0, 600.0
RUN_S, DRAIN_S = 15.0, 60.0
# Requests at a time: some 40 decode in a full batch of this trace's mix; the others wait for less than the SLO allows.
MAX_LIVE, OF_THEM_WAITING = 48, 8
# The spec's default, and one that an overloaded worker still keeps for many requests.
SLOS = (Slo(ttft_ms=400, tpot_ms=40), Slo(ttft_ms=1000, tpot_ms=100))
TOLERANCE = 0.15
# Good requests over all rounds below which a ratio of two counts is noise: 1 / sqrt(50) is 14 %.
MIN_GOOD = 50
# Share of the machine's time that other programs may take in a run that counts. An engine under load leaves a tenth of
# two cores idle, so where this runs before all others (nice, chrt), that much taken by them does not slow it.
MAX_FOREIGN_SHARE = 0.10
MAX_ATTEMPTS = 4
# How late requests may leave: an eighth of the tighter TTFT limit, because the client shares its cores with the engine.
# Latencies count from the schedule all the same.
LAG = LagLimits(p99_s=0.050, max_s=0.200)
LIMITS = HopTimeouts(connect_s=5.0, first_token_s=120.0, next_token_s=60.0, total_s=200.0)
# Fits of costs and speeds in turn; they settle after two.
NUM_FITS = 3


@dataclass
class Load:
    """Counts over the rounds of one share of capacity under one SLO."""

    share: float
    slo: str
    num_requests: int = 0
    measured: int = 0
    predicted: int = 0

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / max(1, self.measured) - 1

    @property
    def is_judged(self) -> bool:
        """Whether there are enough good requests on either side to compare."""
        return max(self.measured, self.predicted) >= MIN_GOOD


class Bench:
    """Makes rounds on one worker; every run has a seed of its own, so that no prompt is in the prefix cache."""

    def __init__(
        self,
        worker: WorkerProcess,
        model: str,
        limits: EngineLimits,
        data: Path,
        state: State,
        *,
        max_foreign: float,
    ) -> None:
        self._max_foreign = max_foreign
        assert worker.pid is not None
        self._process_group = worker.pid
        self._base_url = worker.base_url
        self._model = model
        self._limits = limits
        self._data = data
        self._state = state
        self._is_warm = False

    async def round(self, number: int) -> None:
        """Replays with calibrations before, between and after them."""
        if not self._is_warm:  # nor is the processor: at first it runs faster than it can for long
            await self._calibration(number, 0)
            self._is_warm = True
        first = await self._made_in_quiet(partial(self._calibration, number))
        if self._state.setting is None:
            assert isinstance(first, Calibration)
            costs, _ = fit_costs(first.observations)
            capacity = capacity_requests_per_s(profile_of(costs, self._limits), self._data)
            self._state.add(Setting(self._limits, capacity))
        for share, offset_s in REPLAYS:
            start_s = FIRST_SLICE_S + number * ROUND_S + offset_s
            await self._made_in_quiet(partial(self._replay, number, share, start_s))
            await self._made_in_quiet(partial(self._calibration, number))

    async def _made_in_quiet(self, make: Callable[[int], Awaitable[Calibration | Replay]]) -> Run:
        """The first run that was quiet; `make` is told its seed."""
        for _ in range(MAX_ATTEMPTS):
            before = usage(self._process_group)
            try:
                run = await make(1 + self._state.num_runs)
            except ClientLateError as error:
                self._state.add(Discarded(str(error)))
                continue
            foreign = foreign_share(before, usage(self._process_group))
            if foreign <= self._max_foreign:
                run.foreign = round(foreign, 3)
                self._state.add(run)
                return run
            self._state.add(Discarded(f"other programs took {foreign:.0%} of the machine"))
        raise SystemExit("NOT TRIED: other programs take too much of this machine to judge a prediction")

    async def _calibration(self, number: int, seed: int) -> Calibration:
        """What a calibration sees, as `lightship calibrate` makes one, in about twenty seconds."""
        plan = CalibrationPlan(
            prompt_tokens=(16, 64, 160, 480, 800),
            num_repeats=1,
            concurrencies=(1, 2, 4, 8, 32, 128),
            mixed_concurrencies=(8, 48),
            mixed_requests_per_user=6,
            max_warm_up_s=0.0 if self._is_warm else 15.0,
            seed=seed,
        )
        clock = SystemClock()
        async with HttpCompletions(self._base_url) as endpoint:
            trial = next(draw_prompts(texts(), num_chars=512, seed=seed))
            traits = await probe_endpoint(endpoint, self._model, prompt=trial, clock=clock, limits=LIMITS)
            client = LoadClient(endpoint, self._model, clock=clock, limits=LIMITS, has_fixed_length=True)
            run = await run_calibration(
                client, plan, self._limits, texts=texts(), chars_per_token=traits.chars_per_token
            )
        return Calibration(number, run.observations)

    async def _replay(self, number: int, share: float, start_s: float, seed: int) -> Replay:
        """One slice of the trace on the worker."""
        assert self._state.setting is not None
        time_scale = share * self._state.setting.capacity_requests_per_s / TRACE_REQUESTS_PER_S
        trace = trace_slice(self._data, start_s=start_s, duration_s=RUN_S * time_scale, time_scale=time_scale)
        protocol = OpenLoopProtocol(trace, drain_s=DRAIN_S, seed=seed, lag=LAG)
        result = await measure_open_loop(self._base_url, self._model, protocol, SLOS[0], SystemClock(), texts=texts())
        records = result.run.records
        requests = [
            (plan.arrival_s, record.num_prompt_tokens or plan.num_prompt_tokens, plan.num_output_tokens)
            for plan, record in zip(protocol.requests(), records, strict=True)
        ]
        good = {slo.name: [bool(slo.is_met_by(record)) for record in records] for slo in SLOS}
        ttft_ms, tpot_ms = [record.ttft_ms for record in records], [record.tpot_ms for record in records]
        return Replay(number, share, requests, ttft_ms, tpot_ms, good)


def texts() -> list[str]:
    """What prompts are made of."""
    return [document.scored_text for document in builtin_texts().documents]


def trace_slice(data: Path, *, start_s: float, duration_s: float, time_scale: float = 1.0) -> Trace:
    """A part of the trace with its lengths scaled."""
    selection = TraceSelection(
        start_s=start_s,
        duration_s=duration_s,
        time_scale=time_scale,
        length_scale=LENGTH_SCALE,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_output_tokens=MAX_OUTPUT_TOKENS,
    )
    return read_trace(data / TRACE, selection=selection)


def profile_of(costs: StepCosts, limits: EngineLimits) -> EngineProfile:
    """A profile to simulate with."""
    source = ProfileSource(origin=ProfileOrigin.FITTED, description="benchmark")
    return EngineProfile(name=VARIANT, costs=costs, limits=limits, source=source)


def capacity_requests_per_s(profile: EngineProfile, data: Path) -> float:
    """Requests per second of the trace's mix when all come at once."""
    requests = trace_slice(data, start_s=0.0, duration_s=60.0).requests
    limits = msgspec.structs.replace(profile.limits, max_waiting_requests=len(requests))
    profile = msgspec.structs.replace(profile, limits=limits)
    at_once = [SimulatedRequest(0.0, one.num_prompt_tokens, one.num_output_tokens) for one in requests]
    ends = [outcome.last_token_s for outcome in simulate(profile, at_once)]
    return len(at_once) / max(end for end in ends if end is not None)


def fitted(calibrations: Sequence[Calibration]) -> tuple[StepCosts, list[float]]:
    """Costs on the machine at its mean speed, and the slowness of the machine in each calibration: times over costs."""
    slowness = [1.0] * len(calibrations)
    for _ in range(NUM_FITS):
        observations = [
            msgspec.structs.replace(one, duration_s=one.duration_s / factor)
            for calibration, factor in zip(calibrations, slowness, strict=True)
            for one in calibration.observations
        ]
        costs, fit = fit_costs(observations)
        slowness = [
            sum(one.duration_s for one in calibration.observations)
            / sum(work_duration_s(costs, one.work) for one in calibration.observations)
            for calibration in calibrations
        ]
    print(
        f"fit: half of {fit.num_observations} observations within {fit.median_error:.0%}; the machine took "
        f"{min(slowness):.2f} to {max(slowness):.2f} times the mean",
        flush=True,
    )
    return costs, slowness


def judged(state: State, num_rounds: int) -> tuple[list[Load], list[tuple[int, int]]]:
    """Good requests of each load under each SLO, as they were and as the simulation has them; and those of each pair of
    replays of the same slice, under the first SLO."""
    assert state.setting is not None
    runs = [run for number in range(num_rounds) for run in state.runs_of(number)]
    calibrations = [run for run in runs if isinstance(run, Calibration)]
    costs, slowness = fitted(calibrations)
    loads = {(share, slo.name): Load(share, slo.name) for share, _ in REPLAYS for slo in SLOS}
    twice: dict[tuple[int, float], list[int]] = {}
    num_before = 0
    for run in runs:
        if isinstance(run, Calibration):
            num_before += 1
            continue
        factor = math.sqrt(slowness[num_before - 1] * slowness[num_before])
        at_its_time = StepCosts(**{name: getattr(costs, name) * factor for name in StepCosts.__struct_fields__})
        outcomes = simulate(profile_of(at_its_time, state.setting.limits), [SimulatedRequest(*r) for r in run.requests])
        for slo in SLOS:
            load = loads[run.share, slo.name]
            load.num_requests += len(run.requests)
            load.measured += sum(run.good[slo.name])
            load.predicted += sum(one.meets(ttft_s=slo.ttft_ms / 1000, tpot_s=slo.tpot_ms / 1000) for one in outcomes)
        twice.setdefault((run.round, run.share), []).append(sum(run.good[SLOS[0].name]))
    return list(loads.values()), [(counts[0], counts[1]) for counts in twice.values() if len(counts) == 2]


def report(loads: Sequence[Load], twice: Sequence[tuple[int, int]], num_discarded: int) -> bool:
    """Prints a line for each load; whether all that are judged are within the tolerance."""
    for load in loads:
        mark = "  " if not load.is_judged else "ok" if abs(load.error) <= TOLERANCE else "NO"
        print(
            f"{mark} {load.share:.0%} of capacity, {load.slo}: measured {load.measured}, predicted {load.predicted} "
            f"good of {load.num_requests} ({load.error:+.0%})"
        )
    errors = [abs(load.error) for load in loads if load.is_judged]
    pairs = ", ".join(f"{first} and {second}" for first, second in twice)
    print(f"the same slice at capacity, good requests: {pairs}")
    print(
        f"{sum(error <= TOLERANCE for error in errors)} of {len(errors)} loads within {TOLERANCE:.0%}, median error "
        f"{statistics.median(errors):.1%}, largest {max(errors):.1%}; {num_discarded} runs made again"
    )
    return all(error <= TOLERANCE for error in errors)


@asynccontextmanager
async def worker_of(settings: OpenVinoWorkerConfig) -> AsyncIterator[WorkerProcess]:
    """A worker with these settings."""
    adapter = OpenVinoAdapter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter.write_config(settings, folder / "worker.json")
        worker = WorkerProcess(
            name="predicted",
            command=adapter.worker_command(folder / "worker.json"),
            base_url=settings.address,
            log_path=folder / "worker.log",
        )
        await worker.start(startup_timeout_s=60)
        try:
            yield worker
        finally:
            await worker.stop(drain_timeout_s=5)


async def measure(data: Path, state: State, *, num_rounds: int, max_foreign: float, is_bounded: bool) -> None:
    """Makes the rounds that are missing. Effects: a worker; lines in the state."""
    missing = [number for number in range(num_rounds) if not state.is_complete(number)]
    if not missing:
        return
    spec = parse_spec("", environment={}, overrides=[]).spec
    variant = build_named(spec, [VARIANT], surroundings())[VARIANT]
    settings = openvino_settings(spec, variant, port=free_port())
    if is_bounded:
        settings = msgspec.structs.replace(
            settings, max_sequences=MAX_LIVE - OF_THEM_WAITING, max_waiting_requests=OF_THEM_WAITING
        )
    limits = EngineLimits(
        max_batched_tokens=settings.max_batched_tokens,
        # GenAI itself bounds tokens only, so what the worker lets in runs
        max_sequences=min(settings.max_batched_tokens, settings.max_sequences + settings.max_waiting_requests),
        max_waiting_requests=0 if is_bounded else settings.max_waiting_requests,
        num_kv_blocks=read_model_info(settings).num_kv_blocks,
        context_length=variant.manifest.context_length,
    )
    async with worker_of(settings) as worker:
        bench = Bench(worker, spec.model.name, limits, data, state, max_foreign=max_foreign)
        for number in missing:
            await bench.round(number)


def main() -> int:
    """Runs it; 1 where a prediction is off by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--rounds", type=int, default=4, help="how many there are to be in the end (default: 4)")
    parser.add_argument("--unbounded", action="store_true", help="let the worker queue hundreds of requests")
    parser.add_argument("--state", type=Path, help="keep runs there and continue with them")
    parser.add_argument("--json", type=Path, help="also write the counts there")
    parser.add_argument(
        "--max-foreign",
        type=float,
        default=MAX_FOREIGN_SHARE,
        help=f"share of the machine that other programs may take in a run that counts (default: {MAX_FOREIGN_SHARE})",
    )
    args = parser.parse_args()
    if not (args.data / TRACE).is_file():
        sys.exit(f"NOT TRIED: {args.data / TRACE} is not there")
    with tempfile.TemporaryDirectory() as folder:
        state = State(args.state or Path(folder) / "state.jsonl", replays_per_round=len(REPLAYS))
        asyncio.run(
            measure(
                args.data, state, num_rounds=args.rounds, max_foreign=args.max_foreign, is_bounded=not args.unbounded
            )
        )
        num_discarded = sum(isinstance(run, Discarded) for run in state.runs)
        loads, twice = judged(state, args.rounds)
    if args.json:
        args.json.write_text(
            json.dumps({"loads": [asdict(one) for one in loads], "twice": twice, "made_again": num_discarded})
        )
    return 0 if report(loads, twice, num_discarded) else 1


if __name__ == "__main__":
    sys.exit(main())
