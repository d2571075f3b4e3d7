"""The engine profiles that a scenario names: shipped, from `lightship calibrate`, from a data sheet, or written out."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lightship.engines.simulated.presets import load_preset
from lightship.errors import UsageError
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    ProfileOrigin,
    ProfileSource,
    StepCosts,
    decode_profile,
)
from lightship.simulation.scenario import ProfileRef, Roofline

# A profile is some kilobytes.
_MAX_FILE_BYTES = 2**20


def resolve_profile(ref: ProfileRef, *, name: str, folder: Path) -> EngineProfile:
    """The profile of a rung.

    Args:
        name: Of the rung, for messages.
        folder: That a file's name is relative to.

    Raises: UsageError: no such preset or file, or one that is no profile.
    Effects: may read a file.
    """
    profile = _found(ref, name=name, folder=folder)
    if ref.limits is not None:
        profile = msgspec.structs.replace(profile, limits=ref.limits)
    return profile if ref.speed == 1 else faster(profile, ref.speed)


def _found(ref: ProfileRef, *, name: str, folder: Path) -> EngineProfile:
    if ref.preset is not None:
        return load_preset(ref.preset)
    if ref.file is not None:
        path = folder / ref.file
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise UsageError("too large for an engine profile", where=str(path))
            document = path.read_bytes()
        except OSError as error:
            hint = "`lightship calibrate URL --model NAME -o FILE` makes one."
            raise UsageError(f"the profile cannot be read: {error.strerror}", where=str(path), hint=hint) from error
        return decode_profile(document, where=str(path))
    if ref.roofline is not None:
        words = "Worked out from a machine's data sheet; nothing was measured."
        return EngineProfile(
            name=name,
            costs=roofline_costs(ref.roofline),
            limits=EngineLimits(),
            source=ProfileSource(origin=ProfileOrigin.ASSUMED, description=words),
        )
    assert ref.costs is not None, "the scenario was checked"
    source = ProfileSource(origin=ProfileOrigin.ASSUMED, description="Written out in the scenario.")
    return EngineProfile(name=name, costs=ref.costs, limits=EngineLimits(), source=source)


def roofline_costs(roofline: Roofline) -> StepCosts:
    """Costs of steps that read all weights once and do two operations per parameter and token.

    A sum where the roofline takes the larger of the two: memory and arithmetic seldom overlap wholly, so it is cautious
    by at most a factor of two at the point where both are equal.

    >>> roofline_costs(Roofline(num_parameters=1e9, weight_bytes=2e9, bandwidth_bytes_per_s=1e11, flops_per_s=1e13,
    ...                         efficiency=0.5)).step_s
    0.04

    Source: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.
    """
    bandwidth = roofline.bandwidth_bytes_per_s * roofline.efficiency
    token_s = 2 * roofline.num_parameters / (roofline.flops_per_s * roofline.efficiency)
    return StepCosts(
        step_s=roofline.weight_bytes / bandwidth,
        prefill_token_s=token_s,
        decode_token_s=token_s,
        context_token_s=roofline.kv_bytes_per_token / bandwidth,
    )


def faster(profile: EngineProfile, speed: float) -> EngineProfile:
    """The profile of an engine that takes 1 / `speed` of the time for everything; its origin is an assumption then."""
    costs = StepCosts(**{name: getattr(profile.costs, name) / speed for name in StepCosts.__struct_fields__})
    source = msgspec.structs.replace(
        profile.source,
        origin=ProfileOrigin.ASSUMED,
        description=f"Taken to be {speed:g} times as fast as: {profile.source.description}",
    )
    return msgspec.structs.replace(profile, costs=costs, source=source, fit=None)
