"""`lightship serve-simulated`: the OpenAI API in front of a cost model, for tests without hardware."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.faults import FaultKind, FaultPlan, FaultRule, parse_fault
from lightship.engines.simulated.presets import load_preset
from lightship.engines.simulated.worker import run_worker
from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineProfile, decode_profile

_DEFAULT_PRESET = "toy"
_KINDS = ", ".join(kind.value for kind in FaultKind)


def run_serve_simulated(args: argparse.Namespace) -> int:
    """Serves until it is told to stop; the exit status."""
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
