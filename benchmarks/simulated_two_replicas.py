"""Two real replicas of each of two rungs behind a real gateway in overload, against the simulation; exit 1 beyond 15 %.

    python benchmarks/simulated_two_replicas.py [--rungs TOP LOWER] [--rounds 3] [--factor 1.8] [--seed 0] [--json FILE]
                                                [--work FOLDER]

Four OpenVINO workers, two for each rung, one core for each pair, as `lightship up` places them; a gateway process in
front; a load client that sends on a schedule whatever happens: a quiet time, an overload, a quiet time. Workers are
warmed up with steps of every size, for they ready a kernel at the first use of each. Before and after every run stand
short calibrations of the very workers; the profiles are fitted to those on either side, for a shared machine's speed
drifts within minutes. Meanwhile the replica's neighbour serves a load like that of the run: cores share the memory's
bandwidth, and a step takes longer beside one that needs it, too. The simulation gets the profiles, the ladder's facts
and the same requests at the same times, and nothing else.

    goodput          requests per second within the whole SLO, as the load client saw it
    degraded share   of the answers, as the gateway counted them

Client and gateway share the two cores with the engines. What the gateway's process took of them during the run is taken
from the engines' speed in the simulation, for no calibration sees it, and in a service it would run elsewhere. The
default rungs are heavy enough that engines take nearly all of the time: a 0.5B-shaped model with random weights, in 16
bits and with int8 weights and activations, made on first use (`--rungs` names variants of the store by digest).
Medians over the rounds are judged. Takes about 20 minutes and wants an idle machine of two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from compressed_speed import random_model, shape_of
from evidence import ROOT
from lightship.artifacts.machine import this_machine
from lightship.cli.calibrate import fitted_profile
from lightship.cli.local_replicas import RungToServe
from lightship.cli.prepare import surroundings
from lightship.cli.running import RunningSystem, ServedModel, running_system
from lightship.compression.recipes import PRESETS
from lightship.engines.process import free_port
from lightship.evaluation.performance.calibration import CalibrationPlan, CalibrationRun, run_calibration
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.open_loop import LagLimits
from lightship.evaluation.performance.open_loop_protocol import OpenLoopProtocol, measure_open_loop
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import ErrorKind, Slo
from lightship.evaluation.performance.traces import Trace, TraceRequest, TraceSelection, select_requests
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.gateway.dispatch.config import RungFacts
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    ProfileOrigin,
    ProfileSource,
    encode_profile,
)
from lightship.ports.variants import Variant
from lightship.simulation.measuring import best_concurrency, closed_loop
from lightship.simulation.reading import scenario_of
from lightship.simulation.result import SimulationResult
from lightship.simulation.scenario import Lengths, RequestKind
from lightship.simulation.scenario import Slo as Promise
from lightship.simulation.traffic.lengths import drawer_of
from lightship.simulation.world import simulate_service
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec
from measured_variants import MeasuredModel
from quiet_machine import Usage, foreign_share, process_ticks, usage

NUM_REPLICAS = 2
TOLERANCE = 0.15
# (seconds, share of the overload's rate)
PHASES = ((6.0, 0.3), (38.0, 1.0), (8.0, 0.3))
PROMPT = Lengths(distribution="lognormal", mean=90, spread=0.6, least=8, most=300)
OUTPUT = Lengths(distribution="lognormal", mean=32, spread=0.5, least=4, most=100)
KIND = RequestKind(prompt_tokens=PROMPT, output_tokens=OUTPUT, has_fixed_length=True)
LOSSES = (0.0, 0.02)
# Times the step with one sequence that a token may take, and times that for the first token.
TPOT_STEPS, TTFT_TPOTS = 2.5, 10.0
LAG = LagLimits(p99_s=0.15, max_s=1.0)
LIMITS = HopTimeouts(connect_s=5.0, first_token_s=120.0, next_token_s=60.0, total_s=200.0)
ENGINE_LIMITS = EngineLimits(context_length=2048)
PLAN = CalibrationPlan(
    prompt_tokens=(16, 128, 300),
    num_repeats=1,
    concurrencies=(1, 4, 16),
    decode_contexts=(32,),
    num_decode_tokens=24,
    mixed_concurrencies=(8, 24),
    mixed_prompt_tokens=(8, 300),
    mixed_output_tokens=(4, 80),
    mixed_requests_per_user=3,
    max_warm_up_s=0.0,
)
# Steps of every size, and next to nothing after them.
WARM_UP = CalibrationPlan(
    prompt_tokens=(16,), num_repeats=1, concurrencies=(), mixed_concurrencies=(1,), mixed_requests_per_user=2
)
WARM_UP_S = 150.0
# Users of a replica beside one that is calibrated.
NUM_NEIGHBOURS = 4


@dataclass
class Outcome:
    """What came of one load, seen or simulated."""

    goodput_per_s: float
    degraded_share: float
    answered: int
    refused: int
    failed: int


@dataclass
class Round:
    """One round: both sides, the median errors of the profiles' fits, and what other programs and the gateway took of
    the machine."""

    measured: Outcome
    simulated: Outcome
    fits: list[float]
    foreign: float
    gateway: float


def texts() -> list[str]:
    """What prompts are made of."""
    return [document.scored_text for document in builtin_texts().documents]


async def calibrated(urls: Sequence[str], model: str, *, seed: int, warm_up_s: float = 0.0) -> list[CalibrationRun]:
    """What calibrations of one rung's replicas see, each beside neighbours that serve a load like that of the run."""
    if warm_up_s:
        await asyncio.gather(*(_warmed_up(url, model, seed=seed, most_s=warm_up_s) for url in urls))
    found = []
    for at, url in enumerate(urls):
        others = [asyncio.create_task(_neighbour(other, model, seed=seed + at)) for other in urls if other != url]
        try:
            found.append(await _observed(url, model, PLAN, seed=seed + 17 * at))
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    return found


async def ready(urls: Sequence[str]) -> None:
    """Returns when all of them take requests: a replica that loads its model takes a core from those that serve."""
    async with asyncio.timeout(120.0), aiohttp.ClientSession() as session:
        for url in urls:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/health/ready") as reply:
                        if reply.status == 200:
                            break
                await asyncio.sleep(0.2)


def profile_of(runs: Sequence[CalibrationRun], *, name: str) -> EngineProfile:
    """The profile that all these runs together give."""
    together = CalibrationRun(
        observations=tuple(one for run in runs for one in run.observations),
        keeps_prefixes=runs[0].keeps_prefixes,
        num_requests=sum(run.num_requests for run in runs),
    )
    source = ProfileSource(origin=ProfileOrigin.FITTED, description="benchmark: the very workers")
    return fitted_profile(together, name=name, limits=ENGINE_LIMITS, source=source)


@contextlib.asynccontextmanager
async def client_of(url: str, model: str, *, seed: int) -> AsyncIterator[tuple[LoadClient, float]]:
    """A client of a worker, and how many characters a token has there."""
    clock = SystemClock()
    async with HttpCompletions(url) as endpoint:
        trial = next(draw_prompts(texts(), num_chars=512, seed=seed))
        traits = await probe_endpoint(endpoint, model, prompt=trial, clock=clock, limits=LIMITS)
        client = LoadClient(endpoint, model, clock=clock, limits=LIMITS, has_fixed_length=True)
        yield client, traits.chars_per_token


async def _observed(url: str, model: str, plan: CalibrationPlan, *, seed: int) -> CalibrationRun:
    async with client_of(url, model, seed=seed) as (client, chars_per_token):
        seeded = replace(plan, seed=seed)
        return await run_calibration(client, seeded, ENGINE_LIMITS, texts=texts(), chars_per_token=chars_per_token)


async def _warmed_up(url: str, model: str, *, seed: int, most_s: float) -> None:
    await _observed(url, model, replace(WARM_UP, max_warm_up_s=most_s), seed=seed)


async def _neighbour(url: str, model: str, *, seed: int) -> None:
    """Users with requests like those of the run, one after the other, until it is cancelled."""
    async with client_of(url, model, seed=seed) as (client, chars_per_token):
        rng = random.Random(seed)
        prompt, output = drawer_of(PROMPT, rng), drawer_of(OUTPUT, rng)
        prompts = draw_prompts(texts(), num_chars=round(PROMPT.most * chars_per_token), seed=seed)

        async def user() -> None:
            while True:
                num_chars = max(1, round(prompt() * chars_per_token))
                await client.complete(next(prompts)[:num_chars], max_tokens=output())

        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_NEIGHBOURS):
                group.create_task(user())


def load_of(rate: float, *, seed: int) -> Trace:
    """The requests of one run: Poisson arrivals whose rate goes through the phases."""
    rng, now_s, end_s, found = random.Random(seed), 0.0, 0.0, []
    prompt, output = drawer_of(PROMPT, rng), drawer_of(OUTPUT, rng)
    for length_s, share in PHASES:
        now_s, end_s = end_s, end_s + length_s
        while (now_s := now_s + rng.expovariate(share * rate)) < end_s:
            found.append(TraceRequest(now_s, prompt(), output()))
    selection = TraceSelection(duration_s=sum(length_s for length_s, _ in PHASES))
    return select_requests(found, selection, name=f"overload-{seed}", format_name="made", block_tokens=512)


async def outcomes_of(system: RunningSystem) -> dict[str, float]:
    """Outcomes that the gateway has counted so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{system.gateway_url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("lightship_requests_total") and "/v1/completions" in line:
            name, _, value = line.rpartition(" ")
            outcome = name.partition('outcome="')[2].partition('"')[0]
            found[outcome] = found.get(outcome, 0.0) + float(value)
    return found


async def measured(system: RunningSystem, spec: Spec, load: Trace, *, seed: int) -> tuple[Outcome, list[TraceRequest]]:
    """What the client and the gateway saw, and the requests with the lengths that they really had."""
    before = await outcomes_of(system)
    slo = Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms)
    protocol = OpenLoopProtocol(load, drain_s=30.0, seed=seed, lag=LAG)
    result = await measure_open_loop(system.gateway_url, spec.model.name, protocol, slo, SystemClock(), texts=texts())
    after = await outcomes_of(system)
    counts = {name: value - before.get(name, 0.0) for name, value in after.items()}
    records = result.run.records
    answered = counts.get("served", 0.0) + counts.get("degraded", 0.0)
    refused = sum(record.error is ErrorKind.STATUS and " 503" in f" {record.error_detail}" for record in records)
    num_failed = sum(record.error is not None for record in records) - refused
    sent = [
        TraceRequest(plan.arrival_s, record.num_prompt_tokens or plan.num_prompt_tokens, plan.num_output_tokens)
        for plan, record in zip(protocol.requests(), records, strict=True)
    ]
    outcome = Outcome(
        goodput_per_s=sum(bool(slo.is_met_by(record)) for record in records) / protocol.window_s,
        degraded_share=counts.get("degraded", 0.0) / max(1.0, answered),
        answered=int(answered),
        refused=refused,
        failed=num_failed,
    )
    return outcome, sent


def simulated(
    requests: Sequence[TraceRequest],
    profiles: Sequence[EngineProfile],
    facts: Sequence[RungFacts],
    spec: Spec,
    *,
    gateway_share: float,
) -> Outcome:
    """What the simulation makes of the same requests, on what the gateway left of the machine."""
    admission = spec.gateway.admission
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ladder = []
        for at, (profile, fact) in enumerate(zip(profiles, facts, strict=True)):
            (folder / f"rung-{at}.json").write_bytes(encode_profile(profile))
            ladder.append(
                {
                    "name": fact.variant_name,
                    "profile": {"file": f"rung-{at}.json", "speed": 1 - gateway_share},
                    "quality_loss": fact.quality_loss,
                    "concurrency": fact.concurrency,
                    "goodput_requests_per_s": fact.goodput_requests_per_s,
                    "scaling": {"initial_replicas": NUM_REPLICAS, "min_replicas": NUM_REPLICAS,
                                "max_replicas": NUM_REPLICAS},
                }
            )  # fmt: skip
        lines = [
            json.dumps({"arrival_s": one.arrival_s, "num_prompt_tokens": one.num_prompt_tokens,
                        "num_output_tokens": one.num_output_tokens})
            for one in requests
        ]  # fmt: skip
        (folder / "load.jsonl").write_text("\n".join(lines), "utf-8")
        scenario = {
            "duration_s": sum(length_s for length_s, _ in PHASES),
            "fidelity": "exact",
            "placement": "shared",
            "slo": {"ttft_s": spec.slo.ttft_ms / 1000, "tpot_s": spec.slo.tpot_ms / 1000,
                    "attainment": spec.slo.attainment},
            "ladder": ladder,
            "regions": {"here": {"client_rtt_s": 0.0, "traffic": {"trace": {"file": "load.jsonl"},
                                                                  "kinds": [{"has_fixed_length": True}]}}},
            "policy": {"down_dwell_s": admission.step_down_after_s, "up_dwell_s": admission.step_up_after_s},
            "admission": {"max_queued": admission.max_queued, "max_concurrency": admission.max_concurrency,
                          "default_output_tokens": admission.default_max_tokens},
        }  # fmt: skip
        result: SimulationResult = simulate_service(scenario_of(scenario, where="benchmark"), folder=folder)
    total = result.total
    return Outcome(
        goodput_per_s=total.goodput_requests_per_s,
        degraded_share=total.degraded_share or 0.0,
        answered=total.outcomes["served"] + total.outcomes["degraded"],
        refused=total.outcomes["rejected"] + total.outcomes["evicted"],
        failed=total.outcomes["failed"],
    )


def urls_of(system: RunningSystem, rung: int) -> list[str]:
    """Where the replicas of a rung answer."""
    return [replica.config.base_url for replica in system.models[0].pools[rung].replicas[:NUM_REPLICAS]]


def spec_of(changes: dict[str, Any]) -> Spec:
    """The spec with two replicas of every rung that are always there."""
    data = {"replicas": {"min": NUM_REPLICAS, "max": NUM_REPLICAS}, **changes}
    return parse_spec(json.dumps(data), origin="benchmark", environment={}, overrides=[]).spec


async def run(variants: Sequence[Variant], *, rounds: int, factor: float, seed: int) -> list[Round]:
    """All rounds on the same workers."""
    around = surroundings()
    model = spec_of({}).model.name
    plain = [
        RungToServe(at, variant, RungFacts(variant_name=variant.manifest.name, variant_digest=variant.manifest.digest))
        for at, variant in enumerate(variants)
    ]
    async with running_system([ServedModel(spec_of({}), tuple(plain))], around, gateway_port=free_port()) as system:
        await ready([url for at in range(len(variants)) for url in urls_of(system, at)])
        profiles = [
            profile_of(await calibrated(urls_of(system, at), model, seed=seed), name=one.manifest.name)
            for at, one in enumerate(variants)
        ]
    step_s = profiles[0].costs.step_s + profiles[0].costs.decode_token_s
    promise = Promise(ttft_s=TTFT_TPOTS * TPOT_STEPS * step_s, tpot_s=TPOT_STEPS * step_s)
    top = best_concurrency(profiles[0], [KIND], promise, seed=seed)
    facts = [
        RungFacts(
            variant_name=one.manifest.name,
            variant_digest=one.manifest.digest,
            quality_loss=loss,
            concurrency=NUM_REPLICAS * top.concurrency,
            goodput_requests_per_s=NUM_REPLICAS
            * closed_loop(profile, [KIND], promise, concurrency=top.concurrency, seed=seed).requests_per_s,
        )
        for one, profile, loss in zip(variants, profiles, LOSSES, strict=True)
    ]
    spec = spec_of({"slo": {"ttft_ms": 1000 * promise.ttft_s, "tpot_ms": 1000 * promise.tpot_s}})
    rate = factor * facts[0].goodput_requests_per_s
    words = ", ".join(f"{one.variant_name} {one.goodput_requests_per_s:.1f}/s" for one in facts)
    print(
        f"ladder: {words} (two replicas, {top.concurrency} at a time each); promise {1000 * promise.ttft_s:.0f} / "
        f"{1000 * promise.tpot_s:.0f} ms; overload {rate:.1f}/s",
        flush=True,
    )
    served = [RungToServe(one.position, one.variant, fact) for one, fact in zip(plain, facts, strict=True)]
    found = []
    async with running_system([ServedModel(spec, tuple(served))], around, gateway_port=free_port()) as system:
        rungs = [urls_of(system, at) for at in range(len(facts))]
        await ready([url for urls in rungs for url in urls])
        before = [await calibrated(urls, model, seed=seed + 500, warm_up_s=WARM_UP_S) for urls in rungs]
        for number in range(rounds):
            next_seed = seed + 1000 * (number + 1)
            ticks, gateway_ticks = tree_usage(), process_ticks(system.gateway.current.pid or 0)
            real, sent = await measured(system, spec, load_of(rate, seed=next_seed), seed=next_seed)
            now = tree_usage()
            foreign = foreign_share(ticks, now)
            gateway = (process_ticks(system.gateway.current.pid or 0) - gateway_ticks) / (now.total - ticks.total)
            after = [await calibrated(urls, model, seed=next_seed + 500) for urls in rungs]
            profiles = [profile_of([*runs, *after[at]], name=facts[at].variant_name) for at, runs in enumerate(before)]
            found.append(one_round(real, sent, profiles, facts, spec, foreign=foreign, gateway=gateway))
            before = after
    return found


def one_round(
    real: Outcome,
    sent: Sequence[TraceRequest],
    profiles: Sequence[EngineProfile],
    facts: Sequence[RungFacts],
    spec: Spec,
    *,
    foreign: float,
    gateway: float,
) -> Round:
    """The simulation of a run, beside it."""
    made = simulated(sent, profiles, facts, spec, gateway_share=gateway)
    fits = [profile.fit.median_error for profile in profiles if profile.fit is not None]
    for name, one in (("measured", real), ("simulated", made)):
        print(
            f"  {name:9}: {one.goodput_per_s:.2f}/s good, {one.degraded_share:.1%} of {one.answered} answers degraded, "
            f"{one.refused} refused, {one.failed} failed of {len(sent)}",
            flush=True,
        )
    print(f"             profiles meet half of their observations within {', '.join(f'{fit:.0%}' for fit in fits)}")
    print(f"             other programs took {foreign:.0%} of the machine, the gateway {gateway:.0%}", flush=True)
    return Round(real, made, fits, foreign, gateway)


def tree_usage() -> Usage:
    """The processor's accounts now; our own are this process and everything it has started."""
    pids, found = [os.getpid()], []
    while pids:
        found += pids
        parents = ",".join(map(str, pids))
        children = subprocess.run(["pgrep", "-P", parents], capture_output=True, text=True, check=False)
        pids = [int(pid) for pid in children.stdout.split()]
    now = usage(os.getpgrp())
    return Usage(now.total, now.busy, sum(process_ticks(pid) for pid in found))


def _go_first() -> None:
    """Effects: where it may, the client goes before engines and gateway; not its children."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(5))


def main() -> int:
    """Runs it; 1 where a median error is beyond the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", nargs=2, metavar="DIGEST", help="variants of the store, top first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=1.8, help="the overload in shares of the top rung's capacity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compressed-speed", help="for the random model")
    args = parser.parse_args()
    around = surroundings()
    if args.rungs:
        variants = [around.store.open(reference) for reference in args.rungs]
    else:
        model = MeasuredModel([f"model.source={random_model(args.work)}", "model.name=random"], around)
        variants = [model.variant(PRESETS["fp16"]), model.variant(shape_of(PRESETS["int8-activations"]))]
    _go_first()
    rounds = asyncio.run(run(variants, rounds=args.rounds, factor=args.factor, seed=args.seed))
    goodput = [statistics.median(getattr(one, side).goodput_per_s for one in rounds) for side in SIDES]
    degraded = [statistics.median(getattr(one, side).degraded_share for one in rounds) for side in SIDES]
    errors = (goodput[1] / max(goodput[0], 1e-9) - 1, degraded[1] / max(degraded[0], 1e-9) - 1)
    if args.json:
        document = {"machine": this_machine().description, "rounds": rounds, "errors": errors}
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
    for name, pair, error in (("goodput", goodput, errors[0]), ("degraded share", degraded, errors[1])):
        mark = "ok  " if abs(error) <= TOLERANCE else "MISS"
        print(f"{mark} {name}: measured {pair[0]:.3g}, simulated {pair[1]:.3g}, {error:+.1%} ({TOLERANCE:.0%})")
    return 0 if max(map(abs, errors)) <= TOLERANCE else 1


SIDES = ("measured", "simulated")

if __name__ == "__main__":
    sys.exit(main())
