"""What `lightship bench` would find of each rung: goodput in a closed loop, on the model of its engine.

The ladder's facts are measured on a running worker at one concurrency for all rungs. Here the same is done in virtual
time where a scenario does not give them: as many users as the top rung serves within the promise, each sending its next
request when the last is answered.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from lightship.ports.engine_profile import EngineProfile
from lightship.simulation.engine.skipping import SkippingEngine
from lightship.simulation.scenario import RequestKind, Scenario, Slo
from lightship.simulation.traffic.lengths import drawer_of

# Users that are tried; between two of them goodput hardly changes.
_CONCURRENCIES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Requests of each user that count, after those that fill the batch.
_ROUNDS, _WARM_UP_ROUNDS = 12, 3
_LEAST_REQUESTS = 200


class Measured(msgspec.Struct, frozen=True):
    """A rung in a closed loop: good requests per second, and the share of requests that were good."""

    concurrency: int
    goodput_requests_per_s: float
    attainment: float
    requests_per_s: float


def closed_loop(
    profile: EngineProfile, kinds: Sequence[RequestKind], slo: Slo, *, concurrency: int, seed: int
) -> Measured:
    """What so many users see of one replica."""
    rng = random.Random(f"{seed}/closed-loop/{concurrency}")
    drawers = [(drawer_of(kind.prompt_tokens, rng), drawer_of(kind.output_tokens, rng)) for kind in kinds]
    weights = [kind.share for kind in kinds]
    engine = SkippingEngine(profile)
    usable = profile.limits.usable_context
    num_counted = max(_LEAST_REQUESTS, _ROUNDS * concurrency)
    num_warm_up = _WARM_UP_ROUNDS * concurrency
    sent: dict[int, tuple[float, int]] = {}
    firsts: dict[int, float] = {}
    num_sent = num_ended = num_good = 0
    begun_s = now_s = 0.0

    def send() -> None:
        nonlocal num_sent
        prompt, output = rng.choices(drawers, weights)[0]
        num_output = min(output(), usable - 1)
        num_prompt = min(prompt(), usable - num_output)
        sent[num_sent] = (now_s, num_output)
        engine.submit(num_sent, num_prompt_tokens=num_prompt, num_output_tokens=num_output, now_s=now_s)
        num_sent += 1

    for _ in range(concurrency):
        send()
    while num_ended < num_warm_up + num_counted:
        now_s = engine.next_event_s
        progress = engine.advance()
        firsts.update(dict.fromkeys(progress.first, now_s))
        for handle in progress.finished:
            sent_s, num_output = sent.pop(handle)
            first_s = firsts.pop(handle)
            num_ended += 1
            if num_ended == num_warm_up:
                begun_s = now_s
            tpot_s = (now_s - first_s) / (num_output - 1) if num_output > 1 else 0.0
            is_good = first_s - sent_s <= slo.ttft_s and tpot_s <= slo.tpot_s
            num_good += is_good and num_ended > num_warm_up
            send()
    passed_s = now_s - begun_s
    num_all = num_ended - num_warm_up
    return Measured(concurrency, num_good / passed_s, num_good / num_all, num_all / passed_s)


def best_concurrency(profile: EngineProfile, kinds: Sequence[RequestKind], slo: Slo, *, seed: int) -> Measured:
    """The most users that one replica serves within the promise; one user where it keeps it for nobody."""
    best = closed_loop(profile, kinds, slo, concurrency=1, seed=seed)
    for concurrency in _CONCURRENCIES[1:]:
        if concurrency > profile.limits.max_sequences:
            break
        found = closed_loop(profile, kinds, slo, concurrency=concurrency, seed=seed)
        if found.attainment < slo.attainment:
            break
        best = found
    return best


def with_measured_rungs(scenario: Scenario, profiles: Sequence[EngineProfile]) -> tuple[Scenario, list[str]]:
    """The scenario with a concurrency and a goodput for every rung, and notes on what was found.

    The load is the mix of the first region. What the scenario gives stays.
    """
    ladder = scenario.ladder
    notes: list[str] = []
    if all(rung.concurrency for rung in ladder):
        return scenario, notes
    kinds = next(iter(scenario.regions.values())).traffic.kinds
    given = ladder[0].concurrency
    top = best_concurrency(profiles[0], kinds, scenario.slo, seed=scenario.seed)
    if top.attainment < scenario.slo.attainment:
        notes.append(
            f"{ladder[0].name} keeps the promise for {top.attainment:.0%} of the requests of a single user: it cannot "
            "be met with this engine, whatever the number of replicas"
        )
    concurrency = given or top.concurrency
    rungs = []
    for rung, profile in zip(ladder, profiles, strict=True):
        if rung.concurrency:
            rungs.append(rung)
            continue
        found = closed_loop(profile, kinds, scenario.slo, concurrency=concurrency, seed=scenario.seed)
        # as `bench` would: where nothing is good, what it serves at all still orders the rungs
        goodput = found.goodput_requests_per_s or found.requests_per_s
        rungs.append(msgspec.structs.replace(rung, concurrency=concurrency, goodput_requests_per_s=goodput))
        notes.append(f"{rung.name}: {goodput:.3g} good requests/s of one replica with {concurrency} users")
    return msgspec.structs.replace(scenario, ladder=tuple(rungs)), notes
