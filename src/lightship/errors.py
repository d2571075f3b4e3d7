"""Every error a user can cause or meet, with its exit code.

    LightshipError
    ├── UsageError (2)             a command line or environment that makes no sense
    ├── SpecError (2)              lightship.yaml: unknown key, wrong value, not supported yet
    ├── CheckpointError (3)        missing, damaged or unreadable checkpoint
    │   ├── UnsafeCheckpointError      pickle weights or remote code
    │   └── UnsupportedModelError      an architecture no engine here can run
    ├── ArtifactError (4)          store of variants or measurements
    │   ├── DigestMismatchError        content is not what its manifest says
    │   └── StorageFullError           the disk is full
    ├── ToolchainError (5)         an isolated environment or a job in it failed
    ├── EngineError (6)            an engine did not start, or ended
    ├── NetworkError (7)           a hub or endpoint cannot be reached
    │   └── PortInUseError             the address to listen on is taken
    └── MeasurementError (8)       an evaluation that cannot give an honest figure

An API answer to a client is not one of these: see `wire.errors.ApiError`.
"""

from __future__ import annotations


class LightshipError(Exception):
    """What happened, where, and what to do about it.

    Args:
        what: One sentence without trailing full stop.
        where: File, spec path, address or component; omitted when `what` already says it.
        hint: What the user can do, as an instruction.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}. {self.hint}" if self.hint else located


class UsageError(LightshipError):
    """A command line or environment that makes no sense."""

    exit_code = 2


class SpecError(LightshipError):
    """The spec is not acceptable; `where` is the path inside it."""

    exit_code = 2


class CheckpointError(LightshipError):
    """A checkpoint is missing, damaged or unreadable."""

    exit_code = 3


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that would run code when loaded: pickle weights or remote code."""


class UnsupportedModelError(CheckpointError):
    """An architecture that no engine here can run."""


class ArtifactError(LightshipError):
    """The store of variants or measurements cannot do what was asked."""

    exit_code = 4


class DigestMismatchError(ArtifactError):
    """The content of a variant is not what its manifest says."""


class StorageFullError(ArtifactError):
    """The disk is full; nothing half-written was left."""


class ToolchainError(LightshipError):
    """An isolated environment could not be made, or a job in it failed."""

    exit_code = 5


class EngineError(LightshipError):
    """An engine did not start, or ended while it was needed."""

    exit_code = 6


class NetworkError(LightshipError):
    """A hub or endpoint cannot be reached."""

    exit_code = 7


class PortInUseError(NetworkError):
    """The address to listen on is taken."""


class MeasurementError(LightshipError):
    """An evaluation that cannot give an honest figure."""

    exit_code = 8
