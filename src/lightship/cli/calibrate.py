"""`lightship calibrate`: an engine profile from measurements of a live endpoint."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass

import aiohttp
import msgspec

from lightship.artifacts.machine import this_machine
from lightship.cli.progress import progress_for_stderr
from lightship.engines.simulated.fitting import fit_costs
from lightship.errors import MeasurementError, NetworkError, UsageError
from lightship.evaluation.performance.calibration import CalibrationPlan, CalibrationRun, run_calibration
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    ProfileOrigin,
    ProfileSource,
    encode_profile,
)
from lightship.wire.replies import ModelList

_QUESTION_TIMEOUT_S = 10.0
# Above the longest answer of the plan on the slowest machine worth calibrating.
_REQUEST_LIMITS = HopTimeouts(connect_s=5.0, first_token_s=120.0, next_token_s=60.0, total_s=600.0)
# Characters of the trial prompt from which characters per token are taken.
_TRIAL_CHARS = 512
# Share of the observed times by which half of the observations are missed, above which a prediction is a guess.
_POOR_FIT = 0.15


@dataclass(frozen=True)
class _Served:
    context_length: int | None
    variant_digest: str


def run_calibrate(args: argparse.Namespace) -> int:
    """`lightship calibrate` with parsed arguments; returns the exit code.

    Effects: loads the endpoint for minutes, writes the profile.
    """
    if not args.output.parent.is_dir():
        raise UsageError("the folder does not exist", where=str(args.output.parent))
    if not 1 <= args.repeats <= 1000:
        raise UsageError(f"{args.repeats} is not from 1 to 1000", where="--repeats")
    profile = asyncio.run(_measure(args, SystemClock()))
    args.output.write_bytes(encode_profile(profile))
    assert profile.fit is not None
    sys.stderr.write(
        f"wrote {args.output}: half of {profile.fit.num_observations} observations are met within "
        f"{profile.fit.median_error:.0%}, nine in ten within {profile.fit.p90_error:.0%}\n"
    )
    if profile.fit.median_error > _POOR_FIT:
        sys.stderr.write("The fit is poor: predictions will be guesses. Calibrate again on a quiet machine.\n")
    return 0


async def _measure(args: argparse.Namespace, clock: Clock) -> EngineProfile:
    served = await _ask_models(args.url, args.model)
    limits = _limits(args, served)
    texts = [document.text for document in builtin_texts().documents]
    async with HttpCompletions(args.url, connect_timeout_s=_REQUEST_LIMITS.connect_s) as endpoint:
        trial = next(draw_prompts(texts, num_chars=_TRIAL_CHARS, seed=args.seed))
        traits = await probe_endpoint(endpoint, args.model, prompt=trial, clock=clock, limits=_REQUEST_LIMITS)
        if not traits.has_fixed_length:
            raise MeasurementError(
                "the endpoint refuses ignore_eos, so answers have no known length",
                where=args.url,
                hint="Calibrate the engine itself, not something in front of it.",
            )
        client = LoadClient(endpoint, args.model, clock=clock, limits=_REQUEST_LIMITS, has_fixed_length=True)
        run = await run_calibration(
            client,
            CalibrationPlan(seed=args.seed, num_repeats=args.repeats),
            limits,
            texts=texts,
            chars_per_token=traits.chars_per_token,
            progress=progress_for_stderr(),
        )
    return fitted_profile(
        run,
        name=args.name or args.model,
        limits=limits,
        source=ProfileSource(
            origin=ProfileOrigin.FITTED,
            description=f"Fitted to {run.num_requests} requests sent from {this_machine().description}.",
            model_name=args.model,
            variant_digest=served.variant_digest,
            machine=this_machine().fingerprint,
            measured_unix_s=clock.unix_s(),
        ),
    )


def fitted_profile(run: CalibrationRun, *, name: str, limits: EngineLimits, source: ProfileSource) -> EngineProfile:
    """The profile of a calibration run.

    Raises: MeasurementError: the observations cannot tell a cost.
    """
    costs, fit = fit_costs(run.observations)
    limits = msgspec.structs.replace(limits, has_prefix_cache=run.keeps_prefixes)
    return EngineProfile(name=name, costs=costs, limits=limits, source=source, fit=fit)


def _limits(args: argparse.Namespace, served: _Served) -> EngineLimits:
    context_length = args.context_length or served.context_length
    if context_length is None:
        raise UsageError("the endpoint does not say its context length", where=args.url, hint="Give --context-length.")
    try:
        return EngineLimits(
            max_batched_tokens=args.max_batched_tokens,
            max_sequences=args.max_sequences,
            max_waiting_requests=args.max_waiting_requests,
            num_kv_blocks=args.kv_blocks,
            kv_block_tokens=args.kv_block_tokens,
            context_length=context_length,
        )
    except ValueError as error:
        raise UsageError(f"these settings make no sense: {error}") from error


async def _ask_models(url: str, model: str) -> _Served:
    """What `/v1/models` says of the model; nothing where it says nothing."""
    where = url.rstrip("/").removesuffix("/v1") + "/v1/models"
    timeout = aiohttp.ClientTimeout(total=_QUESTION_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(where) as reply:
            body = await reply.read()
            status = reply.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NetworkError(f"cannot reach the endpoint: {error}", where=where) from error
    if status != 200:
        raise NetworkError(f"HTTP {status}", where=where)
    try:
        cards = msgspec.json.decode(body, type=ModelList).data
    except msgspec.DecodeError:
        return _Served(None, "")
    for card in cards:
        if card.id == model:
            return _Served(card.max_model_len, card.variant_digest or "")
    raise UsageError(f"no model {model!r}", where=where, hint=f"It serves {', '.join(card.id for card in cards)}.")
