"""Energy that the machine's own counters saw between two moments.

Whole CPU packages (RAPL) and whole NVIDIA devices (NVML): other programs on them count too, and memory, disks and the
losses of the power supply do not. On most systems only root may read RAPL; that is told, not worked round.

    start() --sample() at least every `max_gap_s`--> stop() -> EnergyReading
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lightship.evaluation.nvml import NvmlDevices, Unavailable
from lightship.ports.clock import Clock

POWERCAP = Path("/sys/class/powercap")
# Top-level zones of RAPL: `intel-rapl:0`. `intel-rapl:0:1` are parts of them, `intel-rapl-mmio:0` the same over again.
_ZONE = re.compile(r"intel-rapl:\d+")
_PACKAGE = re.compile(r"package-\d+")
# More watts than any package draws, by which a counter may be said to have wrapped at most once.
_MAX_PACKAGE_WATTS = 1000.0


@dataclass(frozen=True)
class Counter:
    """A counter that only grows: joules so far, and the joules after which it starts again at zero (None: never)."""

    joules: float
    range_joules: float | None


class EnergySource(Protocol):
    """Counters by name, or why they cannot be read."""

    name: str

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """The counters now."""


class RaplPackages:
    """CPU packages, as the kernel's power capping framework counts them.

    Args:
        root: Folder of the zones.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """

    name = "rapl-package"

    def __init__(self, root: Path = POWERCAP) -> None:
        self._root = root

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """Every package's counter; unavailable when there is none, or one cannot be read."""
        counters: dict[str, Counter] = {}
        path = self._root
        try:
            zones = sorted(zone for zone in self._root.iterdir() if _ZONE.fullmatch(zone.name))
            for zone in zones:
                path = zone / "name"
                name = path.read_text("ascii").strip()
                if not _PACKAGE.fullmatch(name):
                    continue  # psys holds the packages and more
                path = zone / "max_energy_range_uj"
                range_joules = int(path.read_text("ascii")) / 1e6
                path = zone / "energy_uj"
                # two packages may bear one name on machines with several dies; the zone tells them apart
                counters[f"{zone.name} {name}"] = Counter(int(path.read_text("ascii")) / 1e6, range_joules)
        except FileNotFoundError:
            return Unavailable(f"The kernel shows no energy counters here: {path} is not there.")
        except PermissionError:
            return Unavailable(f"{path} may not be read; the kernel lets only root read it unless told otherwise.")
        except (OSError, ValueError) as error:
            return Unavailable(f"{path} cannot be read: {error}.")
        return counters or Unavailable(f"The kernel shows no CPU package under {self._root}.")


class NvmlEnergy:
    """NVIDIA devices, as their driver counts them; or why that cannot be told."""

    name = "nvml"

    def __init__(self, devices: NvmlDevices | Unavailable) -> None:
        self._devices = devices

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """Every device's counter."""
        found = self._devices if isinstance(self._devices, Unavailable) else self._devices.energy_millijoules()
        if isinstance(found, Unavailable):
            return found
        return {f"gpu-{index}": Counter(millijoules / 1e3, None) for index, millijoules in enumerate(found)}


@dataclass(frozen=True)
class EnergyReading:
    """Energy over a span. `joules` is None with a `reason` where any part could not be told: a sum without it is wrong.

    `parts_joules` is by counter, `source` names where they come from, for protocol names.
    """

    joules: float | None
    duration_s: float
    source: str
    reason: str = ""
    parts_joules: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_watts(self) -> float | None:
        """Mean power over the span; None where the energy is not known or the span is empty."""
        return None if self.joules is None or self.duration_s <= 0 else self.joules / self.duration_s


class EnergyMeter:
    """Adds up what the sources' counters grow by, over their ends.

    Args:
        sources: What to read; all must be readable for a figure.
        clock: For the span, and for how long a counter was left alone.
    """

    def __init__(self, sources: Sequence[EnergySource], clock: Clock) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._started_s: float | None = None
        self._last_s = 0.0
        self._last: dict[str, Counter] = {}
        self._joules: dict[str, float] = {}
        self._reason = ""

    @property
    def source(self) -> str:
        """Names of the sources, joined."""
        return "+".join(source.name for source in self._sources)

    @property
    def max_gap_s(self) -> float | None:
        """Longest time between two samples after which no counter can have wrapped twice; None before the start."""
        ranges = [counter.range_joules for counter in self._last.values() if counter.range_joules is not None]
        return min(ranges) / _MAX_PACKAGE_WATTS if ranges else None

    def start(self) -> None:
        """Begins a span, and forgets an earlier one. Effects: reads the counters."""
        self._joules, self._reason = {}, ""
        self._started_s = self._last_s = self._clock.monotonic_s()
        self._last = self._read()

    def sample(self) -> None:
        """Reads the counters in between. Effects: reads the counters."""
        assert self._started_s is not None, "start() comes first"
        gap_s, limit_s = self._clock.monotonic_s() - self._last_s, self.max_gap_s
        now = self._read()
        self._last_s += gap_s
        if self._reason:
            return
        if now.keys() != self._last.keys():
            self._reason = "The energy counters are not the same as at the start."
        elif limit_s is not None and gap_s > limit_s:
            self._reason = f"An energy counter may have wrapped twice: it was not read for {gap_s:.0f} s."
        else:
            for name, counter in now.items():
                self._add(name, self._last[name], counter)
        self._last = now

    def stop(self) -> EnergyReading:
        """Ends the span. Effects: reads the counters."""
        self.sample()
        assert self._started_s is not None
        duration_s = self._last_s - self._started_s
        if self._reason:
            return EnergyReading(None, duration_s, self.source, self._reason)
        if not self._joules:
            return EnergyReading(None, duration_s, self.source, "There is no energy counter to read.")
        return EnergyReading(sum(self._joules.values()), duration_s, self.source, parts_joules=dict(self._joules))

    def _add(self, name: str, before: Counter, after: Counter) -> None:
        growth = after.joules - before.joules
        if growth < 0:  # it started again at zero
            if after.range_joules is None:
                self._reason = f"The energy counter {name} went backwards; was its driver loaded again?"
                return
            growth += after.range_joules
        self._joules[name] = self._joules.get(name, 0.0) + growth

    def _read(self) -> dict[str, Counter]:
        counters: dict[str, Counter] = {}
        for source in self._sources:
            found = source.read()
            if isinstance(found, Unavailable):
                self._reason = self._reason or found.reason
            else:
                counters.update(found)
        return counters
