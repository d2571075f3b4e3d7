"""A million requests through the gateway's own admission and ladder in virtual time; exit 1 when a promise is broken.

    python benchmarks/overload_simulated.py [--requests 1000000] [--seed 0] [--json FILE]

The `Dispatcher` that serves is driven by a virtual clock; only the engine is a model: on one device, a rung's time per
output token grows linearly with the requests under way, and prompts are computed one after another. Arrivals are
Poisson with a rate that steps through quiet times, peaks and a long overload, from three tenants and three classes of
requests.

What must hold:

    oscillation   the level moves at most twice a minute while the load is steady
    starvation    every class and tenant is served in every overload; no request waits past its limit
    budget        degraded answers never exceed the budget at any moment
    fairness      two tenants that both want more than they get, get output tokens within 10 % of each other
    benefit       goodput in overload is at least 1.8 times that of the same policy without lower rungs
    accounting    every request has one outcome, and nothing is under way at the end
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightship.gateway.dispatch.config import (
    DispatchConfig,
    LadderConfig,
    PriorityClass,
    QualityBudgetConfig,
    RungFacts,
)
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.dispatch.ticket import Answered, Refuse, Start, Ticket
from lightship.ports.engine import CallTerms, Degrade

MODEL = "m"
TTFT_S, TPOT_S = 0.4, 0.04
# Seconds per output token: alone, and for each other request on the device; per prompt token.
ENGINES = ((0.004, 0.00125, 0.0001), (0.002, 0.0005, 0.00004))
LOSSES = (0.0, 0.03)
MEAN_PROMPT, MEAN_OUTPUT = 300, 50
# Requests/s in shares of what the top rung can serve, and for how long.
PHASES = ((0.5, 600.0), (1.2, 600.0), (0.7, 600.0), (2.4, 1200.0), (0.4, 600.0), (5.0, 300.0), (0.6, 600.0))
CLASSES = {
    "interactive": PriorityClass(importance=2),
    "strict": PriorityClass(importance=2, degrade=Degrade.NEVER),
    "batch": PriorityClass(importance=0, degrade=Degrade.PREFERRED, max_wait_s=5.0),
}
MIX = (("interactive", "big", 0.45), ("interactive", "small", 0.35), ("strict", "big", 0.1), ("batch", "batch", 0.1))


@dataclass
class Seen:
    """What came of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    good: Counter[int] = field(default_factory=Counter)
    arrived: Counter[int] = field(default_factory=Counter)
    tokens: dict[tuple[int, str, str], int] = field(default_factory=lambda: defaultdict(int))
    served: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    level_moves: Counter[int] = field(default_factory=Counter)
    degraded: int = 0
    budget_broken: int = 0
    longest_wait_over_s: float = 0.0


class Device:
    """The model of an engine: what a request that starts now will see."""

    def __init__(self) -> None:
        self.num = 0
        self.prefill_free_s = 0.0

    def serve(self, rung: int, terms: CallTerms, num_output: int, now_s: float) -> tuple[float, float]:
        """(first byte, end) of a request that starts now."""
        alone_s, other_s, prompt_s = ENGINES[rung]
        self.num += 1
        self.prefill_free_s = max(self.prefill_free_s, now_s) + terms.num_prompt_tokens * prompt_s
        tpot_s = alone_s + other_s * (self.num - 1)
        first_s = self.prefill_free_s + tpot_s
        return first_s, first_s + tpot_s * (num_output - 1)


def top_capacity_per_s() -> float:
    """Requests/s of the top rung with so many under way that the time per token is just what was promised."""
    alone_s, other_s, _ = ENGINES[0]
    num = 1 + (TPOT_S - alone_s) / other_s
    return num / (TPOT_S * MEAN_OUTPUT)


def config(*, has_ladder: bool) -> DispatchConfig:
    """The policy that is tried."""
    rungs = tuple(
        RungFacts(
            variant_name=f"r{position}",
            quality_loss=loss,
            quality_loss_low=loss * 0.8,
            quality_loss_high=loss * 1.2,
            goodput_requests_per_s=40.0 * (1 + 1.5 * position),
            concurrency=32,
        )
        for position, loss in enumerate(LOSSES[: 1 + has_ladder])
    )
    budget = QualityBudgetConfig(degraded_share=0.8, mean_loss=0.03, window_s=3600.0)
    ladder = LadderConfig(rungs=rungs, ttft_s=TTFT_S, tpot_s=TPOT_S, budget=budget)
    return DispatchConfig(ladders={MODEL: ladder}, priorities=CLASSES, max_queued=512)


def arrivals(num_requests: int, rng: random.Random) -> Iterator[tuple[float, int, Ticket, int]]:
    """(time, phase, ticket, output tokens), as the phases say, over and over."""
    now_s, index = 0.0, 0
    capacity = top_capacity_per_s()
    ends_s = PHASES[0][1]
    for _ in range(num_requests):
        share = PHASES[index % len(PHASES)][0]
        now_s += rng.expovariate(share * capacity)
        while now_s > ends_s:
            index += 1
            ends_s += PHASES[index % len(PHASES)][1]
        name, tenant, _ = rng.choices(MIX, weights=[weight for _, _, weight in MIX])[0]
        one = CLASSES[name]
        num_output = max(1, round(rng.expovariate(1 / MEAN_OUTPUT)))
        terms = CallTerms(
            tenant=tenant,
            priority=name,
            importance=one.importance,
            degrade=one.degrade,
            num_prompt_tokens=max(1, round(rng.expovariate(1 / MEAN_PROMPT))),
            max_output_tokens=num_output,
            max_wait_s=TTFT_S if one.max_wait_s is None else one.max_wait_s,
            ttft_s=TTFT_S if one.max_wait_s is None else 1e9,
        )
        yield now_s, index, Ticket(MODEL, 0, False, terms, now_s), num_output


def run(num_requests: int, *, seed: int, has_ladder: bool) -> tuple[Seen, float]:
    """What came of that many requests, and how long the virtual time was."""
    seen = Seen()
    dispatcher = Dispatcher(config(has_ladder=has_ladder), is_up=lambda model, rung: True)
    device, events = Device(), Events()
    state = dispatcher.ladders[MODEL]
    source = arrivals(num_requests, random.Random(seed))
    upcoming = next(source, None)
    now_s = 0.0
    while upcoming is not None or events.heap or dispatcher.num_waiting:
        wake_s = dispatcher.next_wake_s()
        candidates = [upcoming[0] if upcoming else None, events.heap[0][0] if events.heap else None, wake_s]
        now_s = max(now_s, min(time_s for time_s in candidates if time_s is not None))
        before = state.level.step
        if events.heap and events.heap[0][0] <= now_s:
            events.handle(dispatcher, device, seen, now_s)
        elif upcoming is not None and upcoming[0] <= now_s:
            _, phase, ticket, num_output = upcoming
            seen.arrived[phase] += 1
            ticket.handle = (phase, num_output)
            decision = dispatcher.offer(ticket, now_s)
            take(decision, device, events, seen, now_s)
            upcoming = next(source, None)
        if dispatcher.num_waiting or dispatcher.next_wake_s() is not None:
            for decision in dispatcher.advance(now_s):
                take(decision, device, events, seen, now_s)
        if state.level.step != before and upcoming is not None:
            seen.level_moves[upcoming[1]] += 1
        budget = state.budget
        if budget is not None and budget.num_degraded > 0.8 * max(budget.num_requests, 1000) + 1:
            seen.budget_broken += 1
    seen.outcomes["in flight at the end"] = dispatcher.num_in_flight + dispatcher.num_waiting
    return seen, now_s


class Events:
    """First bytes and ends to come."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, str, Ticket, float]] = []
        self._count = 0

    def add(self, time_s: float, kind: str, ticket: Ticket, first_s: float) -> None:
        """One event."""
        self._count += 1
        heapq.heappush(self.heap, (time_s, self._count, kind, ticket, first_s))

    def handle(self, dispatcher: Dispatcher, device: Device, seen: Seen, now_s: float) -> None:
        """The next one happens."""
        _, _, kind, ticket, first_s = heapq.heappop(self.heap)
        if kind == "first":
            dispatcher.first_byte(ticket, now_s)
            return
        phase, num_output = ticket.handle
        device.num -= 1
        tpot_s = (now_s - first_s) / (num_output - 1) if num_output > 1 else None
        dispatcher.finish(ticket, now_s, Answered(first_s - ticket.started_s, tpot_s, num_output))
        is_good = (tpot_s is None or tpot_s <= TPOT_S) and first_s - ticket.arrived_s <= TTFT_S
        seen.good[phase] += is_good
        seen.outcomes["degraded" if ticket.rung else "served"] += 1
        seen.degraded += ticket.rung > 0
        seen.tokens[phase, ticket.terms.priority, ticket.terms.tenant] += num_output
        seen.served[phase, ticket.terms.priority] += 1


def take(decision: object, device: Device, events: Events, seen: Seen, now_s: float) -> None:
    """What becomes of a decision."""
    if isinstance(decision, Refuse):
        seen.outcomes[f"refused: {decision.reason}"] += 1
    elif isinstance(decision, Start):
        ticket = decision.ticket
        waited_s = now_s - ticket.arrived_s
        seen.longest_wait_over_s = max(seen.longest_wait_over_s, waited_s - ticket.terms.max_wait_s)
        first_s, end_s = device.serve(ticket.rung, ticket.terms, ticket.handle[1], now_s)
        events.add(first_s, "first", ticket, first_s)
        events.add(end_s, "end", ticket, first_s)


def main() -> int:
    """Runs it with the ladder and without; 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    started_s = time.perf_counter()
    seen, virtual_s = run(args.requests, seed=args.seed, has_ladder=True)
    without, _ = run(args.requests, seed=args.seed, has_ladder=False)
    print(f"{args.requests} requests, {virtual_s / 3600:.1f} virtual hours, {time.perf_counter() - started_s:.0f} s")
    for phase in range(min(len(PHASES), max(seen.arrived) + 1)):
        share, length_s = PHASES[phase]
        print(
            f"  load {share:.1f}: good {seen.good[phase] / length_s:.1f}/s with the ladder, "
            f"{without.good[phase] / length_s:.1f}/s without; of {seen.arrived[phase] / length_s:.1f}/s; "
            f"{seen.level_moves[phase]} level moves"
        )
    for name, count in seen.outcomes.most_common():
        print(f"  {name}: {count}")
    checks = judged(seen, without, args.requests)
    for name, (holds, words) in checks.items():
        print(f"{'ok' if holds else 'NO'} {name}: {words}")
    if args.json:
        args.json.write_text(json.dumps({name: words for name, (_, words) in checks.items()}))
    return 0 if all(holds for holds, _ in checks.values()) else 1


def tokens_of(seen: Seen, phase: int, tenant: str) -> int:
    """Output tokens of a tenant's important requests."""
    return sum(seen.tokens[phase, name, tenant] for name in ("interactive", "strict"))


def judged(seen: Seen, without: Seen, num_requests: int) -> dict[str, tuple[bool, str]]:
    """Every promise, whether it holds, and its figures."""
    phases = [phase for phase in seen.arrived if phase + 1 in seen.arrived]  # complete ones
    moves = max((seen.level_moves[phase] / (PHASES[phase % len(PHASES)][1] / 60) for phase in phases), default=0.0)
    overloads = [phase for phase in phases if PHASES[phase % len(PHASES)][0] > 1]
    least = min((seen.served[phase, name] for phase in overloads for name in CLASSES), default=0)
    heavy = [phase for phase in overloads if PHASES[phase % len(PHASES)][0] > 3]
    shares = [tokens_of(seen, phase, "big") / max(1, tokens_of(seen, phase, "small")) for phase in heavy]
    worst = max((max(share, 1 / max(share, 1e-9)) for share in shares), default=1.0)
    deep = [phase for phase in overloads if PHASES[phase % len(PHASES)][0] > 2]
    gains = [seen.good[phase] / max(1, without.good[phase]) for phase in deep]
    total = sum(seen.outcomes.values())
    left = seen.outcomes["in flight at the end"]
    return {
        "oscillation": (moves <= 2, f"at most {moves:.2f} moves of the level a minute (2)"),
        "starvation": (
            least > 0 and seen.longest_wait_over_s <= 1e-6,
            f"least served of a class in an overload {least}; waits over the limit {seen.longest_wait_over_s:.3f} s",
        ),
        "budget": (seen.budget_broken == 0, f"broken at {seen.budget_broken} moments; {seen.degraded} degraded"),
        "fairness": (worst <= 1.1, f"tokens of two tenants within a factor {worst:.3f} (1.1)"),
        "benefit": (min(gains, default=0) >= 1.8, f"goodput {min(gains, default=0):.2f} times that without (1.8)"),
        "accounting": (total == num_requests and not left, f"{total - left} outcomes, {left} left over"),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
