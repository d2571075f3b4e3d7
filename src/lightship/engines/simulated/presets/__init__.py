"""Profiles that come with the package, one JSON file each: published figures, approximate, and one made up for tests.

A preset says in its own words where its figures come from. For decisions, fit a profile to your own machine instead.
"""

from __future__ import annotations

from importlib.resources import files

from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineProfile, decode_profile

_SUFFIX = ".json"


def preset_names() -> tuple[str, ...]:
    """Names of all presets."""
    found = [entry.name for entry in files(__name__).iterdir()]
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def load_preset(name: str) -> EngineProfile:
    """The preset of that name.

    Raises: UsageError: there is none; the hint lists those there are.
    """
    known = preset_names()
    if name not in known:
        raise UsageError(f"no preset {name!r}", hint=f"There are {', '.join(known)}.")
    return decode_profile((files(__name__) / f"{name}{_SUFFIX}").read_bytes(), where=f"preset {name}")
