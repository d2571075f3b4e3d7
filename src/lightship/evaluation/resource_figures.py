"""What memory, energy and cost come as: measurements, and sentences on what cannot be told. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from lightship.ports.measurements import Measurement


@dataclass(frozen=True)
class ResourceFigures:
    """Measurements, and sentences on what there is none of, or what to know about those there are."""

    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: ResourceFigures) -> ResourceFigures:
        notes = dict.fromkeys((*self.notes, *other.notes))  # each sentence once, in order
        return ResourceFigures((*self.measurements, *other.measurements), tuple(notes))
