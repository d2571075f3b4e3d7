"""The runs of `simulated_prediction.py`, kept in a file so that rounds can be made one by one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lightship.ports.engine_profile import EngineLimits, StepObservation


class Setting(msgspec.Struct, tag="setting"):
    """What holds for all rounds."""

    limits: EngineLimits
    capacity_requests_per_s: float


class Calibration(msgspec.Struct, tag="calibration"):
    """What one calibration saw, and the share of the machine's time that other programs took meanwhile."""

    round: int
    observations: tuple[StepObservation, ...]
    foreign: float = 0.0


class Replay(msgspec.Struct, tag="replay"):
    """One slice: arrival, prompt and output tokens of each request, its times in milliseconds, and for each SLO whether
    it was met."""

    round: int
    share: float
    requests: list[tuple[float, int, int]]
    ttft_ms: list[float | None]
    tpot_ms: list[float | None]
    good: dict[str, list[bool]]
    foreign: float = 0.0


class Discarded(msgspec.Struct, tag="discarded"):
    """A run that other programs took part in, or that the client was too late for."""

    why: str


Run = Calibration | Replay | Setting | Discarded


class State:
    """The runs so far, one JSON line each, in the order in which they were made.

    A round has so many replays, each between two calibrations.
    """

    def __init__(self, path: Path, *, replays_per_round: int) -> None:
        self._path = path
        self._replays_per_round = replays_per_round
        decoder = msgspec.json.Decoder(Run)
        self.runs: list[Run] = (
            [decoder.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        )
        self.num_runs = len(self.runs)

    def add(self, run: Run) -> None:
        """Effects: appends a line."""
        self.runs.append(run)
        self.num_runs += 1
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(run) + b"\n")

    @property
    def setting(self) -> Setting | None:
        """What the first calibration gave."""
        return next((run for run in self.runs if isinstance(run, Setting)), None)

    def runs_of(self, number: int) -> list[Calibration | Replay]:
        """A round's runs in their order; those of a round that was cut short are replaced by its next attempt."""
        made = [run for run in self.runs if isinstance(run, Calibration | Replay) and run.round == number]
        return made[-(2 * self._replays_per_round + 1) :]

    def is_complete(self, number: int) -> bool:
        """Whether the round has all its replays, each between two calibrations."""
        kinds = [type(run) for run in self.runs_of(number)]
        return kinds == [Calibration, *([Replay, Calibration] * self._replays_per_round)]
