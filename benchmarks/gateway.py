"""The gateway beside LiteLLM's proxy, SMG (a router in Rust) and no gateway at all: one run, one upstream, in turn.

    python benchmarks/gateway.py [--rounds 3] [--only latency,requests,streams,crowd] [--peers litellm,smg]
                                 [--skip-install] [--json FILE]

Two cores: each gateway has core 1 to itself, a trivial upstream and the load generator share core 0. The peers are
installed into environments of their own below build/peers. Ours has everything on (keys, limits, budgets, routing,
ladder, cache, metrics, access log to a file); the peers what they have without a database: a key, limits that are
never met, metrics. Every round starts each gateway anew and measures

    latency     whole answers at 200 requests/s (LiteLLM: 50, since it does not reach 200); added = minus the upstream's
    requests    whole answers per second, closed loop at 16 and at 64 users, the better one
    streams     events per second of streams that come as fast as they go, 8 and 32 users, the better one; and processor
                time per event at a pace at which every event is read and written by itself
    crowd       1,000 streams at a time, 10 events/s each: errors, and memory of all processes of the gateway

Figures are medians over the rounds with their range; ratios are taken within a round. Ends with 1 when one falls short
of its target.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import resource
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import uvloop

import quiet_machine
from gateway_load import ClosedLoopResult, Tally, closed_loop, fixed_rate, many_streams
from gateway_subjects import GENERATOR_CORE, Running, Subject, running, subjects, upstream
from lightship.artifacts.machine import this_machine

PARTS = ("latency", "requests", "streams", "crowd")
RATE, SLOW_RATE = 200.0, 50.0
BURST_EVENTS = 256
CROWD, CROWD_EVENTS, CROWD_STEP_MS = 1000, 30, 100
PACED, PACED_EVENTS, PACED_STEP_MS = 200, 300, 10
# Above this the generator, and not the gateway, may be what is measured.
MOST_GENERATOR_SHARE = 0.85
MIB = 2**20


@dataclass
class Figures:
    """What the rounds found: figure -> gateway -> a value per round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: str, name: str, value: float) -> None:
        """One value of this round."""
        self.values[figure][name].append(value)

    def note_errors(self, name: str, part: str, errors: dict[str, int]) -> None:
        """Requests that failed, by reason."""
        if errors:
            self.errors.setdefault(f"{name} {part}", {}).update(errors)

    def of(self, figure: str, name: str) -> list[float]:
        """A value per round; empty when it was not measured."""
        return self.values.get(figure, {}).get(name, [])

    def ratios(self, figure: str, name: str, other: str) -> list[float]:
        """Of two gateways, within each round."""
        pairs = zip(self.of(figure, name), self.of(figure, other), strict=False)
        return [value / against for value, against in pairs if against]


async def measure_latency(subject: Running, figures: Figures) -> None:
    """At a fixed rate."""
    requests = subject.requests()
    rate = SLOW_RATE if subject.name == "litellm" else RATE
    tally = await fixed_rate(requests, requests.whole, rate=rate, warmup_s=1.0, seconds=5.0)
    figures.add("latency p50, ms", subject.name, tally.quantile_ms(0.5))
    figures.add("latency p99, ms", subject.name, tally.quantile_ms(0.99))
    figures.note_errors(subject.name, "latency", tally.errors)


async def measure_requests(subject: Running, figures: Figures) -> None:
    """As many as go."""
    requests = subject.requests()
    found: list[ClosedLoopResult] = []
    for concurrency in (16,) if subject.name == "litellm" else (16, 64):
        before_s = subject.cpu_s()
        result = await closed_loop(requests, requests.whole, concurrency=concurrency, warmup_s=0.5, seconds=3.0)
        figures.add("cpu per request, us", subject.name, _us(subject.cpu_s() - before_s, result.num_complete))
        figures.note_errors(subject.name, "requests", result.errors)
        found.append(result)
    best = max(found, key=lambda result: result.requests_per_s)
    figures.add("requests/s", subject.name, best.requests_per_s)
    _check_generator(subject, "requests", best, figures)


async def measure_streams(subject: Running, figures: Figures) -> None:
    """Events as fast as they go, and at a pace."""
    requests = subject.requests()

    def burst() -> bytes:
        return requests.stream(f"burst {BURST_EVENTS}", BURST_EVENTS)

    found = [
        await closed_loop(requests, burst, concurrency=users, warmup_s=0.5, seconds=2.5, min_events=BURST_EVENTS)
        for users in ((8,) if subject.name == "litellm" else (8, 32))
    ]
    best = max(found, key=lambda result: result.events_per_s)
    figures.add("events/s", subject.name, best.events_per_s)
    for result in found:
        figures.note_errors(subject.name, "streams", result.errors)
    _check_generator(subject, "streams", best, figures)
    if subject.name in {"bare", "litellm"}:
        return
    before_s = subject.cpu_s()
    tally, _ = await many_streams(
        requests, num_streams=PACED, num_events=PACED_EVENTS, step_ms=PACED_STEP_MS, ramp_s=0.3
    )
    figures.add("cpu per paced event, us", subject.name, _us(subject.cpu_s() - before_s, tally.num_events))
    figures.note_errors(subject.name, "paced streams", tally.errors)


async def measure_crowd(subject: Running, figures: Figures) -> None:
    """A thousand streams at a time."""
    if subject.name == "litellm" and figures.of("crowd errors", "litellm"):
        return  # once is enough: it takes a minute
    most_bytes = 0

    async def watch() -> None:
        nonlocal most_bytes
        while True:
            most_bytes = max(most_bytes, subject.resident_bytes())
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    tally, most_open = Tally(), 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(90):
            tally, most_open = await many_streams(
                subject.requests(), num_streams=CROWD, num_events=CROWD_EVENTS, step_ms=CROWD_STEP_MS, ramp_s=1.0
            )
    watching.cancel()
    figures.add("crowd errors", subject.name, CROWD - tally.num_complete)
    figures.add("crowd streams at a time", subject.name, most_open)
    figures.add("crowd memory, MiB", subject.name, most_bytes / MIB)
    figures.note_errors(subject.name, "crowd", tally.errors)


MEASURES = dict(zip(PARTS, (measure_latency, measure_requests, measure_streams, measure_crowd), strict=True))


def _us(seconds: float, count: int) -> float:
    return seconds / count * 1e6 if count else 0.0


def _check_generator(subject: Running, part: str, result: ClosedLoopResult, figures: Figures) -> None:
    if subject.name != "bare" and result.generator_cpu_share > MOST_GENERATOR_SHARE:
        figures.notes.append(
            f"{subject.name} {part}: the load generator took {result.generator_cpu_share:.0%} of its core"
        )


async def measure(gateways: list[Subject], parts: list[str], rounds: int) -> Figures:
    """All rounds; who begins changes from round to round."""
    figures = Figures()
    os.sched_setaffinity(0, {GENERATOR_CORE})
    gc.freeze()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        async with upstream(folder) as url:
            for number in range(rounds):
                bare = Running("bare", url, None)
                await _measure_one(bare, [part for part in parts if part != "crowd"], figures, number)
                shift = number % len(gateways)
                for gateway in gateways[shift:] + gateways[:shift]:
                    async with running(gateway, url, folder) as subject:
                        await _measure_one(subject, parts, figures, number)
    return figures


async def _measure_one(subject: Running, parts: list[str], figures: Figures, number: int) -> None:
    before = quiet_machine.usage(subject.pid or 0)
    for part in parts:
        await MEASURES[part](subject, figures)
    if subject.pid is not None:
        share = quiet_machine.foreign_share(before, quiet_machine.usage(subject.pid))
        figures.add("share of the machine others took (upstream included)", subject.name, share)
    print(f"round {number + 1}: {subject.name}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Target:
    """One figure of ours and what it has to reach."""

    part: str
    text: str
    target: str
    values: Callable[[Figures], list[float]]
    is_met: Callable[[float], bool]
    needs: str = ""


def _added(figure: str) -> Callable[[Figures], list[float]]:
    def added(figures: Figures) -> list[float]:
        pairs = zip(figures.of(figure, "ours"), figures.of(figure, "bare"), strict=False)
        return [value - bare for value, bare in pairs]

    return added


TARGETS = [
    Target("latency", "added latency p50 at 200/s, ms", "at most 0.5", _added("latency p50, ms"), lambda v: v <= 0.5),
    Target("latency", "added latency p99 at 200/s, ms", "at most 2", _added("latency p99, ms"), lambda v: v <= 2.0),
    Target("requests", "requests/s over LiteLLM's", "at least 30",
           lambda f: f.ratios("requests/s", "ours", "litellm"), lambda v: v >= 30.0, "litellm"),
    Target("requests", "requests/s over SMG's", "at least 0.6",
           lambda f: f.ratios("requests/s", "ours", "smg"), lambda v: v >= 0.6, "smg"),
    Target("streams", "streamed events/s over SMG's", "at least 1",
           lambda f: f.ratios("events/s", "ours", "smg"), lambda v: v >= 1.0, "smg"),
    Target("crowd", "errors of 1,000 streams at a time", "0", lambda f: f.of("crowd errors", "ours"), lambda v: v == 0),
    Target("crowd", "memory at 1,000 streams, MiB", "at most 143 (150 MB)",
           lambda f: f.of("crowd memory, MiB", "ours"), lambda v: v * MIB <= 150e6),
]  # fmt: skip


def print_table(figures: Figures, names: list[str]) -> None:
    """Every figure of every gateway."""
    width = max(len(figure) for figure in figures.values)
    print(f"{'':{width}} " + " ".join(f"{name:>26}" for name in names))
    for figure, by_name in figures.values.items():
        cells = []
        for name in names:
            values = by_name.get(name, [])
            shown = f"{_short(median(values))} [{_short(min(values))}, {_short(max(values))}]" if values else "-"
            cells.append(f"{shown:>26}")
        print(f"{figure:{width}} " + " ".join(cells))
    for where, errors in figures.errors.items():
        print(f"errors, {where}: {errors}")
    for note in figures.notes:
        print(f"note: {note}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def print_targets(figures: Figures, parts: list[str], names: list[str]) -> bool:
    """Whether every target that could be tried is met; worst over rounds for errors, the median for the rest."""
    are_met = True
    for target in TARGETS:
        if target.part not in parts:
            continue
        values = target.values(figures)
        if not values:
            print(f"skip {target.text}: {target.needs or 'ours'} was not measured (target {target.target})")
            continue
        value = max(values) if target.target == "0" else median(values)
        is_met = target.is_met(value)
        are_met &= is_met
        spread = f"{_short(min(values))} to {_short(max(values))} over {len(values)} rounds"
        print(f"{'ok  ' if is_met else 'MISS'} {target.text}: {_short(value)}, {spread} (target {target.target})")
    return are_met


def main() -> int:
    """Prints all figures, and ours beside their targets."""
    parser = argparse.ArgumentParser(description="The gateway beside LiteLLM, SMG and the bare upstream.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure")
    parser.add_argument("--peers", default="litellm,smg", help="which peers; empty for none")
    parser.add_argument("--skip-install", action="store_true", help="leave out peers that are not installed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    parts = [part for part in PARTS if part in args.only.split(",")]
    if not parts:
        parser.error(f"--only: choose from {', '.join(PARTS)}")
    if len(os.sched_getaffinity(0)) < 2:
        print("NOT TRIED: it takes two cores")
        return 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers = [name for name in args.peers.split(",") if name]
    gateways = subjects(["ours", *peers], may_install=not args.skip_install)
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": this_machine().description,
        "python": platform.python_version(),
        "versions": {gateway.name: gateway.version for gateway in gateways},
    }
    print(" | ".join(str(value) for value in about.values()))
    figures = uvloop.run(measure(gateways, parts, args.rounds))
    names = ["bare", *(gateway.name for gateway in gateways)]
    print_table(figures, names)
    are_met = print_targets(figures, parts, names)
    if args.json:
        document = {**about, "figures": figures.values, "errors": figures.errors, "notes": figures.notes}
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if are_met else 1


if __name__ == "__main__":
    sys.exit(main())
