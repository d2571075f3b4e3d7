"""Settings of one simulated worker, as a JSON file that names everything the worker will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from lightship.engines.base import WorkerConfig
from lightship.engines.simulated.faults import FaultPlan
from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineLimits, EngineProfile


class SimulatedWorkerConfig(WorkerConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one simulated worker. `max_waiting_requests` is used in place of the profile's.

    Args:
        folder: Not used; a simulated engine has no files.
        profile: Costs and limits.
        load_delay_s: Time from the start to ready.
        mean_answer_tokens: Mean length of answers that end by themselves.
        faults: Which requests fail, and how.
        is_fault_admin: Whether `/simulated/faults` may read and change `faults` while the worker runs.
    """

    profile: EngineProfile
    folder: str = ""
    load_delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    mean_answer_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 128
    faults: FaultPlan = FaultPlan()
    is_fault_admin: bool = False

    @property
    def limits(self) -> EngineLimits:
        """The limits that hold."""
        return msgspec.structs.replace(self.profile.limits, max_waiting_requests=self.max_waiting_requests)


def encode_config(config: SimulatedWorkerConfig) -> bytes:
    """The config as JSON for people and for `read_config`."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def read_config(path: Path) -> SimulatedWorkerConfig:
    """The settings in a file.

    Raises: UsageError: it cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=SimulatedWorkerConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"not a worker config: {error}", where=str(path)) from error
