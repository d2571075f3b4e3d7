"""What `lightship bench` was asked for, as values. Refuses flags that contradict each other; sends nothing."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightship.errors import MeasurementError, UsageError
from lightship.evaluation.performance.arrivals import (
    Arrivals,
    BurstArrivals,
    ConstantArrivals,
    PoissonArrivals,
    RampArrivals,
)
from lightship.evaluation.performance.open_loop_protocol import OpenLoopProtocol, SyntheticWorkload
from lightship.evaluation.performance.protocol import PerformanceProtocol
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.search import NextRun, SearchPlan
from lightship.evaluation.performance.trace_formats import read_trace
from lightship.evaluation.performance.traces import TraceSelection

_DEFAULT_DURATION_S = 30.0
_DEFAULT_WARMUP_S = 5.0
_DEFAULT_DRAIN_S = 30.0
_DEFAULT_BURST_SIZE = 10
_DEFAULT_PROMPT_TOKENS, _DEFAULT_OUTPUT_TOKENS = 64, 32
_DEFAULT_ATTAINMENT = 0.95
_DEFAULT_SEARCH_TIME_S = 1800.0
# Bounds of a search: no endpoint that one client can load is outside.
_RATE_RANGE = (0.01, 10_000.0)
_MAX_USERS = 10_000
# Requests of a closed loop; far more than one client can send in an hour.
_MAX_REQUESTS = 10_000_000

_TRACE_FLAGS = ("format", "start", "time_scale", "length_scale", "max_prompt_tokens", "max_output_tokens")
_PATTERN_FLAGS = (
    "arrivals",
    "rate",
    "rate_to",
    "burst_size",
    "burstiness",
    "concurrency",
    "prompt_tokens",
    "output_tokens",
    "search",
)
# Flags that belong to one pattern of arrivals alone.
_FLAGS_OF = {"rate_to": {"ramp"}, "burst_size": {"burst"}, "burstiness": {"poisson"}, "concurrency": {"closed"}}


@dataclass(frozen=True)
class BenchPlan:
    """One `lightship bench`: an open loop or a closed one (`protocol` says which), or a search over it."""

    url: str
    model: str
    protocol: OpenLoopProtocol | PerformanceProtocol
    slo: Slo
    search: SearchPlan | None
    settings: Mapping[str, Any]
    headers: Mapping[str, str]
    text: Path | None
    output: Path | None
    vllm_json: Path | None

    def at_load(self, step: NextRun, number: int) -> OpenLoopProtocol | PerformanceProtocol:
        """The protocol of one run of a search. Runs differ in their seed, so that none finds another's prompts."""
        seed = self.protocol.seed + number
        if isinstance(self.protocol, PerformanceProtocol):
            users = (round(step.load),)
            cap_s = self.protocol.time_cap_s - self.protocol.duration_s + step.duration_s
            return replace(self.protocol, concurrencies=users, duration_s=step.duration_s, time_cap_s=cap_s, seed=seed)
        workload = self.protocol.workload
        assert isinstance(workload, SyntheticWorkload)
        arrivals = at_rate(workload.arrivals, step.load)
        return replace(
            self.protocol, workload=replace(workload, arrivals=arrivals), duration_s=step.duration_s, seed=seed
        )


def at_rate(arrivals: Arrivals, requests_per_s: float) -> Arrivals:
    """The same pattern at another rate."""
    match arrivals:
        case ConstantArrivals() | PoissonArrivals():
            return replace(arrivals, requests_per_s=requests_per_s)
        case BurstArrivals():
            return replace(arrivals, every_s=arrivals.num_requests / requests_per_s)
        case _:
            raise UsageError("a ramp has no single rate to search for")


def plan_bench(
    args: argparse.Namespace,
    environment: Mapping[str, str],
    *,
    url: str,
    model: str,
    fresh_seed: int,
    default_slo: Slo = NO_SLO,
) -> BenchPlan:
    """What the command line asks for.

    Args:
        args: The parsed flags.
        url: The endpoint's address; "" for a worker that is not started yet.
        model: The model to ask for.
        environment: Where the API key stands.
        fresh_seed: The seed where none is given. A new one each time, because a prefix cache knows the prompts of an
            earlier run with the same seed.
        default_slo: The limits where no flag sets one.

    Raises: UsageError: flags that are missing, contradict each other, or make no sense. MeasurementError: the trace.
    Effects: reads the trace.
    """
    slo = _slo(args)
    slo = default_slo if slo == NO_SLO else slo
    if args.search is None:
        _refuse(args, ("attainment", "search_time"), "only with --search")
    elif slo == NO_SLO:
        raise UsageError("a search needs an SLO", hint="Give --slo-ttft-ms, --slo-tpot-ms or --slo-e2e-ms.")
    if args.text is not None and not args.text.is_file():
        raise UsageError("there is no such file", where=f"--text {args.text}")
    for flag, path in (("-o", args.output), ("--vllm-json", args.vllm_json)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(
                "the file cannot be written there", where=f"{flag} {path}", hint="Name a file in a folder."
            )
    try:
        seed = _or(args.seed, fresh_seed)
        protocol = _trace_protocol(args, seed) if args.trace is not None else _pattern_protocol(args, seed)
        search = _search_plan(args, protocol)
    except MeasurementError as error:
        if error.where is not None:
            raise
        raise UsageError(error.what, hint=error.hint) from error  # a number on the command line, not an endpoint
    return BenchPlan(
        url=url,
        model=model,
        protocol=protocol,
        slo=slo,
        search=search,
        settings=_settings(args),
        headers=_headers(args, environment),
        text=args.text,
        output=args.output,
        vllm_json=args.vllm_json,
    )


def _slo(args: argparse.Namespace) -> Slo:
    limits = {"ttft_ms": args.slo_ttft_ms, "tpot_ms": args.slo_tpot_ms, "e2e_ms": args.slo_e2e_ms}
    for name, limit_ms in limits.items():
        if limit_ms is not None and not (math.isfinite(limit_ms) and limit_ms > 0):
            raise UsageError(f"must be above 0, got {limit_ms:g}", where=f"--slo-{name.replace('_', '-')}")
    return Slo(**{name: math.inf if limit_ms is None else limit_ms for name, limit_ms in limits.items()})


def _trace_protocol(args: argparse.Namespace, seed: int) -> OpenLoopProtocol:
    _refuse(args, _PATTERN_FLAGS, "not with --trace, which has its own arrivals and lengths")
    time_scale = _or(args.time_scale, 1.0)
    warmup_s = _or(args.warmup, 0.0)
    run_s = None if args.duration is None else warmup_s + args.duration
    selection = TraceSelection(
        start_s=_or(args.start, 0.0),
        duration_s=None if run_s is None else run_s * time_scale,
        time_scale=time_scale,
        length_scale=_or(args.length_scale, 1.0),
        max_prompt_tokens=args.max_prompt_tokens,
        max_output_tokens=args.max_output_tokens,
    )
    trace = read_trace(args.trace, format_name=args.format, selection=selection)
    return OpenLoopProtocol(trace, warmup_s=warmup_s, drain_s=_or(args.drain, _DEFAULT_DRAIN_S), seed=seed)


def _pattern_protocol(args: argparse.Namespace, seed: int) -> OpenLoopProtocol | PerformanceProtocol:
    _refuse(args, _TRACE_FLAGS, "only with --trace")
    is_closed = args.concurrency is not None or args.search == "concurrency"
    pattern = args.arrivals or ("closed" if is_closed else "poisson")
    for flag, patterns in _FLAGS_OF.items():
        if getattr(args, flag) is not None and pattern not in patterns:
            raise UsageError(f"only with --arrivals {', '.join(sorted(patterns))}", where=_flag(flag))
    if args.search is not None and (args.search == "concurrency") != (pattern == "closed"):
        raise UsageError(f"--search {args.search} does not go with --arrivals {pattern}")
    num_prompt_tokens = _or(args.prompt_tokens, _DEFAULT_PROMPT_TOKENS)
    num_output_tokens = _or(args.output_tokens, _DEFAULT_OUTPUT_TOKENS)
    workload = SyntheticWorkload(ConstantArrivals(1.0), num_prompt_tokens, num_output_tokens)  # checks the lengths
    duration_s = _or(args.duration, _DEFAULT_DURATION_S)
    drain_s = _or(args.drain, _DEFAULT_DRAIN_S)
    if pattern != "closed":
        return OpenLoopProtocol(
            replace(workload, arrivals=_arrivals(args, pattern)),
            duration_s=duration_s,
            warmup_s=_or(args.warmup, _DEFAULT_WARMUP_S),
            drain_s=drain_s,
            seed=seed,
        )
    _refuse(args, ("rate",), "a closed loop has none: its users send when they are answered")
    _refuse(args, ("warmup",), "not with a closed loop, whose users warm up by themselves")
    num_users = _or(args.concurrency, 1 if args.search else None)
    if num_users is None:
        raise UsageError("a closed loop needs a number of users", hint="Give --concurrency.")
    if not 1 <= num_users <= _MAX_USERS:
        raise UsageError(f"must be 1 to {_MAX_USERS}, got {num_users}", where="--concurrency")
    if not (math.isfinite(duration_s) and duration_s > 0 and math.isfinite(drain_s) and drain_s >= 0):
        raise UsageError(f"a run of {duration_s:g} s with {drain_s:g} s of drain")
    return PerformanceProtocol(
        label="bench",
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=num_output_tokens,
        concurrencies=(num_users,),
        duration_s=duration_s,
        time_cap_s=duration_s + 2 * drain_s,  # the warm-up takes an answer, and so does the end
        max_requests=_MAX_REQUESTS,
        seed=seed,
    )


def _arrivals(args: argparse.Namespace, pattern: str) -> Arrivals:
    rate = _or(args.rate, 1.0 if args.search else None)
    if rate is None:
        raise UsageError("no load is named", hint="Give --rate, --concurrency, --trace or --search.")
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"must be above 0, got {rate:g}", where="--rate")
    match pattern:
        case "constant":
            return ConstantArrivals(rate)
        case "poisson":
            return PoissonArrivals(rate, burstiness=_or(args.burstiness, 1.0))
        case "burst":
            size = _or(args.burst_size, _DEFAULT_BURST_SIZE)
            return BurstArrivals(size, every_s=size / rate)
    if args.rate_to is None or args.search:
        raise UsageError("a ramp needs --rate and --rate-to, and no --search")
    return RampArrivals(rate, args.rate_to)


def _search_plan(args: argparse.Namespace, protocol: OpenLoopProtocol | PerformanceProtocol) -> SearchPlan | None:
    if args.search is None:
        return None
    is_users = args.search == "concurrency"
    lowest, highest = (1.0, float(_MAX_USERS)) if is_users else _RATE_RANGE
    return SearchPlan(
        attainment=_or(args.attainment, _DEFAULT_ATTAINMENT),
        first=float(_or(args.concurrency if is_users else args.rate, 1)),
        lowest=lowest,
        highest=highest,
        duration_s=protocol.duration_s or _DEFAULT_DURATION_S,
        is_whole=is_users,
        max_total_s=_or(args.search_time, _DEFAULT_SEARCH_TIME_S),
    )


def _headers(args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    if args.api_key_env is None:
        return {}
    key = environment.get(args.api_key_env, "").strip()
    if not key:
        raise UsageError("the environment variable is not set", where=f"--api-key-env {args.api_key_env}")
    return {"authorization": f"Bearer {key}"}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, for the result. The name of the key's variable is no secret, the key is not here."""
    hidden = {"run", "topic", "subject", "model", "file", "overrides", "output", "vllm_json", "json"}
    found = {name: value for name, value in vars(args).items() if name not in hidden and value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in sorted(found.items())}


def _refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise UsageError(reason, where=_flag(name))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
