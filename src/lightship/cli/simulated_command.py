"""`lightship serve-simulated`: the OpenAI API in front of a cost model, for tests without hardware."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.faults import FaultKind, FaultPlan, FaultRule, parse_fault
from lightship.engines.simulated.presets import load_preset, preset_names
from lightship.engines.simulated.worker import run_worker
from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineProfile, decode_profile

_DEFAULT_PRESET = "toy"
_KINDS = ", ".join(kind.value for kind in FaultKind)


def add_serve_simulated_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `serve-simulated`."""
    parser = subparsers.add_parser(
        "serve-simulated",
        help="serve a simulated engine: real HTTP, made-up text, and the timing of a profile",
        description="Serves the OpenAI API from a cost model of continuous batching. The text is made up; when it "
        "comes is what the profile says.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--profile", type=Path, metavar="FILE", help="an engine profile, as `calibrate` writes it")
    source.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a profile that comes along (default {_DEFAULT_PRESET}): {', '.join(preset_names())}",
    )
    parser.add_argument("--model", default="simulated", metavar="NAME", help="name of the model (default: simulated)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8085, help="port to listen on; 0 takes a free one (default: 8085)")
    parser.add_argument(
        "--load-delay", type=float, default=0.0, metavar="SECONDS", help="time from the start to ready (default: 0)"
    )
    parser.add_argument(
        "--mean-answer-tokens",
        type=int,
        default=128,
        metavar="TOKENS",
        help="mean length of answers that end by themselves (default: 128)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND[:NAME=VALUE,...]",
        help=f"break some requests on purpose; may be repeated. KIND is {_KINDS}, or a status such as 503. Names: "
        "share, num_requests, delay_s, retry_after_s, after_events. Example: truncate:share=0.1,after_events=3",
    )
    parser.add_argument(
        "--fault-seed", type=int, default=0, metavar="N", help="which requests a share hits (default: 0)"
    )
    parser.add_argument(
        "--fault-admin", action="store_true", help="let GET and POST /simulated/faults show and replace the faults"
    )
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    return run_worker(worker_config(args), exits_with_parent=False)


def worker_config(args: argparse.Namespace) -> SimulatedWorkerConfig:
    """The worker that the command line asks for.

    Raises: UsageError: a flag has a value that makes no sense.
    """
    profile = _profile(args.profile, args.preset)
    for flag, value, low, high in (
        ("--port", args.port, 0, 65_535),
        ("--load-delay", args.load_delay, 0, 3600),
        ("--mean-answer-tokens", args.mean_answer_tokens, 1, 1_000_000),
    ):
        if not low <= value <= high:
            raise UsageError(f"{value} is not from {low} to {high}", where=flag)
    return SimulatedWorkerConfig(
        model_name=args.model,
        variant_name="simulated",
        variant_digest=profile.digest,
        host=args.host,
        port=args.port,
        max_waiting_requests=profile.limits.max_waiting_requests,
        profile=profile,
        load_delay_s=args.load_delay,
        mean_answer_tokens=args.mean_answer_tokens,
        faults=FaultPlan(rules=tuple(_fault(text) for text in args.fault), seed=args.fault_seed),
        is_fault_admin=args.fault_admin,
    )


def _profile(path: Path | None, preset: str | None) -> EngineProfile:
    if path is None:
        return load_preset(preset or _DEFAULT_PRESET)
    try:
        document = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the profile: {error.strerror}", where=str(path)) from error
    return decode_profile(document, where=str(path))


def _fault(text: str) -> FaultRule:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise UsageError(f"not a fault: {error}", where=f"--fault {text}", hint=f"Kinds: {_KINDS}.") from error
