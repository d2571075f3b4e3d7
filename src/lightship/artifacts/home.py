"""Where this user's data lives, and the few names below it that several parts of the program share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def data_home(environment: Mapping[str, str]) -> Path:
    """The data directory, absolute: `LIGHTSHIP_HOME`, else `XDG_DATA_HOME/lightship`, else `~/.local/share/lightship`.

    An empty variable counts as unset, and a relative `XDG_DATA_HOME` is not used, as its specification asks.

    Does not: create the directory.
    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    user_home = Path(environment.get("HOME") or Path.home())
    if chosen := environment.get("LIGHTSHIP_HOME"):
        # A shell expands `~`; a service file or a container's environment does not.
        return (user_home / chosen[2:] if chosen.startswith("~/") else Path(chosen)).absolute()
    xdg = environment.get("XDG_DATA_HOME", "")
    base = Path(xdg) if Path(xdg).is_absolute() else user_home / ".local" / "share"
    return base.absolute() / "lightship"


def artifact_root(home: Path) -> Path:
    """Folder of the store of variants."""
    return home / "artifacts"


def measurement_path(home: Path) -> Path:
    """File of the store of measurements."""
    return home / "measurements.sqlite"


def hub_cache(home: Path) -> Path:
    """Folder of checkpoints fetched from a hub."""
    return home / "hub"


def digest_cache_path(home: Path) -> Path:
    """File that remembers digests of files outside the store."""
    return home / "digests.json"


def evaluations_folder(home: Path) -> Path:
    """Folder of the task runs that were kept."""
    return home / "evaluations"


def journal_folder(home: Path) -> Path:
    """Folder of task runs under way."""
    return home / "journals"


def keys_path(home: Path) -> Path:
    """File of the gateway's API keys."""
    return home / "keys.sqlite"


def report_folder(home: Path, model_name: str) -> Path:
    """Folder of a model's report."""
    return home / "reports" / model_name
