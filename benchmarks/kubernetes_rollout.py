"""Requests that fail while a Deployment is rolled over and scaled down, simulated event by event.

What is modelled: probes that look only every so often, Pods that load for a while, a watch that brings news late and in
order, the deletion of a Pod (preStop sleep, SIGTERM, drain, SIGKILL), and gateways that pick the least loaded Pod they
know of and try another one as long as no byte came. What is not: breakers, health probes of the gateway and its queue,
which only help. A request fails when its Pod ends under it after the first byte, or when no Pod takes it.

One replica is rolled over only: to scale it down is to put it to sleep, which no gateway does while there are requests.

    python benchmarks/kubernetes_rollout.py [--seeds 20] [--requests-per-s 20] [--json]

Four lifecycles are put side by side: the one that is rendered, and three that lack a part of it. Exit code 1 when the
rendered one loses a request, or when the one without any protection loses none: then the simulation shows nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

# Mean lifetimes of what is drawn; medians of log-normal distributions, in seconds.
_FIRST_BYTE_MEDIAN_S, _FIRST_BYTE_SIGMA = 0.4, 0.6
_RETRY_RESERVE = 10


@dataclass(frozen=True)
class Lifecycle:
    """The values a Deployment is rendered with, and how the gateway behaves."""

    name: str
    pre_stop_s: float
    drains: bool
    drain_s: float
    grace_s: float
    max_attempts: int


@dataclass(frozen=True)
class World:
    """What does not depend on the rendered values."""

    replicas: int
    gateways: int
    requests_per_s: float
    load_s: float
    startup_period_s: float
    startup_threshold: int
    readiness_period_s: float
    propagation_median_s: float
    propagation_sigma: float
    request_median_s: float
    request_sigma: float
    longest_request_s: float
    retry_share: float


@dataclass(eq=False)
class Pod:
    """One Pod. It takes connections from `listens_from_s` to `listens_until_s`."""

    name: str
    listens_from_s: float
    listens_until_s: float = math.inf
    in_flight: set[Request] = field(default_factory=set)
    is_gone: bool = False


@dataclass(eq=False)
class Request:
    """One request, with what was drawn for it, so that another try takes as long."""

    gateway: Gateway
    first_byte_s: float
    total_s: float
    tried: set[Pod] = field(default_factory=set)
    sent_s: float = 0.0
    num_attempts: int = 0
    is_over: bool = False


@dataclass(eq=False)
class Gateway:
    """What one gateway knows. News come in order, so `heard_s` never goes back."""

    known: list[Pod] = field(default_factory=list)
    heard_s: float = 0.0


class Simulation:
    """One run."""

    def __init__(self, lifecycle: Lifecycle, world: World, *, seed: int) -> None:
        self.lifecycle = lifecycle
        self.world = world
        self.counts: Counter[str] = Counter()
        self.now_s = 0.0
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0
        self._is_arriving = True
        self._gateways = [Gateway() for _ in range(world.gateways)]
        self._old = [Pod(f"old-{number}", 0.0) for number in range(world.replicas)]
        self._new: list[Pod] = []
        for gateway in self._gateways:
            gateway.known = list(self._old)

    def run(self) -> Counter[str]:
        """The counts after one rolling update of all Pods and one scale-down by a Pod."""
        self._at(0.0, self._arrive)
        self._at(30.0, self._replace_next)
        while self._events:
            self.now_s, _, act = heapq.heappop(self._events)
            act()
        return self.counts

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (max(time_s, self.now_s), self._num_events, act))

    def _lognormal(self, median: float, sigma: float) -> float:
        return median * math.exp(self._random.gauss(0.0, sigma))

    # Requests

    def _arrive(self) -> None:
        if not self._is_arriving:
            return
        world = self.world
        self._at(self.now_s + self._random.expovariate(world.requests_per_s), self._arrive)
        total_s = min(self._lognormal(world.request_median_s, world.request_sigma), world.longest_request_s)
        first_byte_s = min(self._lognormal(_FIRST_BYTE_MEDIAN_S, _FIRST_BYTE_SIGMA), total_s)
        self.counts["requests"] += 1
        self._try(Request(self._random.choice(self._gateways), first_byte_s, total_s))

    def _try(self, request: Request) -> None:
        left = [pod for pod in request.gateway.known if pod not in request.tried]
        if not left:
            self._fail(request, "no replica left")
            return
        request.num_attempts += 1
        pod = min(left, key=lambda one: (len(one.in_flight), self._random.random()))
        request.tried.add(pod)
        if pod.is_gone or not pod.listens_from_s <= self.now_s < pod.listens_until_s:
            self.counts["refused connections"] += 1
            self._retry(request, "refused")
            return
        request.sent_s = self.now_s
        pod.in_flight.add(request)
        attempt = request.num_attempts
        self._at(self.now_s + request.total_s, lambda: self._end(request, pod, attempt))

    def _retry(self, request: Request, why: str) -> None:
        has_budget = self.counts["retries"] < self.world.retry_share * self.counts["requests"] + _RETRY_RESERVE
        if request.num_attempts >= self.lifecycle.max_attempts or not has_budget:
            self._fail(request, why)
            return
        self.counts["retries"] += 1
        self._try(request)

    def _end(self, request: Request, pod: Pod, attempt: int) -> None:
        if request.is_over or attempt != request.num_attempts or request not in pod.in_flight:
            return
        pod.in_flight.discard(request)
        request.is_over = True
        self.counts["served"] += 1

    def _fail(self, request: Request, why: str) -> None:
        request.is_over = True
        self.counts["failed"] += 1
        self.counts[f"failed: {why}"] += 1

    def _end_pod(self, pod: Pod) -> None:
        pod.is_gone = True
        cut, pod.in_flight = pod.in_flight, set()
        for request in cut:
            if self.now_s < request.sent_s + request.first_byte_s:
                self._retry(request, "cut before the first byte")
            else:
                self._fail(request, "cut while answering")

    # The cluster

    def _tell(self, act: Callable[[Gateway], None]) -> None:
        """Every gateway hears of it after a while of its own."""
        for gateway in self._gateways:
            delay_s = self._lognormal(self.world.propagation_median_s, self.world.propagation_sigma)
            gateway.heard_s = max(gateway.heard_s, self.now_s + delay_s)
            self._at(gateway.heard_s, lambda gateway=gateway: act(gateway))  # type: ignore[misc]

    def _replace_next(self) -> None:
        """One new Pod; when it is ready, an old one goes (surge 1, unavailable 0)."""
        if not self._old:
            self._at(self.now_s + 20.0, self._scale_down)
            return
        world = self.world
        loaded_s = self.now_s + world.load_s * self._random.uniform(0.7, 1.4)
        started_s = _next_tick(loaded_s, since_s=self.now_s, period_s=world.startup_period_s)
        if started_s - self.now_s > world.startup_period_s * world.startup_threshold:
            raise SystemExit("the startup budget is shorter than loading takes: the Pod would be killed")
        ready_s = _next_tick(started_s, since_s=started_s, period_s=world.readiness_period_s)
        pod = Pod(f"new-{len(self._new)}", loaded_s)
        self._new.append(pod)
        self._at(ready_s, lambda: self._become_ready(pod))

    def _become_ready(self, pod: Pod) -> None:
        self._tell(lambda gateway: gateway.known.append(pod))
        self._at(self.now_s + self._random.uniform(0.05, 0.5), lambda: self._delete(self._old.pop()))
        self._at(self.now_s + 1.0, self._replace_next)

    def _scale_down(self) -> None:
        if len(self._new) > 1:  # a rung is put to sleep only when nobody asks for it
            self._delete(self._new.pop())
        self._at(self.now_s + self.lifecycle.grace_s + self.world.longest_request_s, self._stop_arriving)

    def _stop_arriving(self) -> None:
        self._is_arriving = False

    def _delete(self, pod: Pod) -> None:
        lifecycle = self.lifecycle
        self.counts["deleted Pods"] += 1
        self._tell(lambda gateway: gateway.known.remove(pod) if pod in gateway.known else None)
        begins_s = self.now_s + self._random.uniform(0.0, 1.0)  # until the kubelet hears of it
        term_s, kill_s = begins_s + lifecycle.pre_stop_s, begins_s + lifecycle.grace_s
        pod.listens_until_s = term_s
        ends_s = min(term_s + lifecycle.drain_s, kill_s) if lifecycle.drains else term_s
        self._at(ends_s, lambda: self._end_pod(pod))


def _next_tick(time_s: float, *, since_s: float, period_s: float) -> float:
    """The first look at or after a time, of those that happen every period."""
    return since_s + max(1, math.ceil((time_s - since_s) / period_s)) * period_s


def main() -> int:
    """Runs all lifecycles on the same seeds, and prints what failed."""
    options = _arguments()
    world = World(**{one.name: getattr(options, one.name) for one in dataclasses.fields(World)})
    ours = Lifecycle("rendered", options.pre_stop_s, True, options.drain_s, options.grace_s, options.max_attempts)
    if not ours.grace_s > ours.pre_stop_s + ours.drain_s:
        raise SystemExit("--grace-s must be above --pre-stop-s and --drain-s together")
    if ours.drain_s < world.longest_request_s:
        raise SystemExit("--drain-s must be at least --longest-request-s")
    replace = dataclasses.replace
    lifecycles = [
        ours,
        replace(ours, name="no preStop, no retries", pre_stop_s=0.0, max_attempts=1),
        replace(ours, name="no drain", drains=False),
        replace(ours, name="no preStop, no drain, no retries", pre_stop_s=0.0, drains=False, max_attempts=1),
    ]
    results = {}
    for lifecycle in lifecycles:
        total: Counter[str] = Counter()
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            total += Simulation(lifecycle, world, seed=seed).run()
        results[lifecycle.name] = total
    _show(results, options, ours)
    num_failed, num_naive = results[ours.name]["failed"], results[lifecycles[-1].name]["failed"]
    if not options.json:
        mark = {True: "ok  ", False: "MISS"}
        total = results[ours.name]["requests"]
        print(f"\n{mark[not num_failed]} rendered: {num_failed} of {total} requests failed (0)")
        print(f"{mark[num_naive > 0]} without any protection: {num_naive} failed (above 0, or nothing is shown)")
    return int(num_failed > 0 or num_naive == 0)


def _show(results: dict[str, Counter[str]], options: argparse.Namespace, ours: Lifecycle) -> None:
    if options.json:
        print(json.dumps({"options": vars(options), "results": results}, indent=2))
        return
    last = options.first_seed + options.seeds - 1
    print(f"seeds {options.first_seed}..{last}; {options.replicas} replicas, {options.gateways} gateways,", end=" ")
    print(f"{options.requests_per_s:g} requests/s, each at most {options.longest_request_s:g} s")
    print(f"rendered: preStop {ours.pre_stop_s:g} s, drain {ours.drain_s:g} s, grace {ours.grace_s:g} s, ", end="")
    print(f"{ours.max_attempts} attempts; {results[ours.name]['deleted Pods']} Pods deleted\n")
    print(f"{'lifecycle':34}{'requests':>10}{'failed':>8}{'refused':>9}{'retries':>9}  why they failed")
    for name, counts in results.items():
        why = ", ".join(f"{key[8:]} {count}" for key, count in sorted(counts.items()) if key.startswith("failed: "))
        numbers = (counts["requests"], counts["failed"], counts["refused connections"], counts["retries"])
        print(f"{name:34}{numbers[0]:>10}{numbers[1]:>8}{numbers[2]:>9}{numbers[3]:>9}  {why or '-'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each lifecycle")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--gateways", type=int, default=2)
    numbers = {
        "requests-per-s": 20.0,
        "load-s": 60.0,
        "startup-period-s": 5.0,
        "readiness-period-s": 2.0,
        "propagation-median-s": 0.5,
        "propagation-sigma": 0.9,
        "request-median-s": 6.0,
        "request-sigma": 0.9,
        "longest-request-s": 95.0,
        "retry-share": 0.1,
        "pre-stop-s": 15.0,
        "drain-s": 110.0,
        "grace-s": 150.0,
    }
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"default {default:g}")
    parser.add_argument("--startup-threshold", type=int, default=88, help="failed startup probes until a restart")
    parser.add_argument("--max-attempts", type=int, default=3, help="of the gateway, for one request")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.seeds, options.replicas, options.gateways, options.max_attempts) < 1:
        parser.error("--seeds, --replicas, --gateways and --max-attempts must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
