"""Energy from a made-up tree of kernel files, wrap-around included, and its way into measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightship.evaluation.energy import POWERCAP, Counter, EnergyMeter, NvmlEnergy, RaplPackages
from lightship.evaluation.energy_per_load import EnergyPerLoad, energy_figures
from lightship.evaluation.nvml import Unavailable
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.testing.recording_progress import RecordingProgress


@dataclass
class HandClock:
    """Time that the test moves."""

    now_s: float = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


@dataclass
class Zones:
    """A tree like /sys/class/powercap."""

    root: Path

    def write(self, zone: str, name: str, energy_uj: int | str, *, max_range_uj: int = 262_143_328_850) -> None:
        folder = self.root / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{max_range_uj}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    return Zones(tmp_path)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_energy_meter_one_package_is_the_difference(zones: Zones, clock: HandClock) -> None:
    zones.write("intel-rapl:0", "package-0", 1_000_000)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    zones.write("intel-rapl:0", "package-0", 31_500_000)
    clock.now_s += 2
    reading = meter.stop()
    assert (reading.joules, reading.mean_watts) == pytest.approx((30.5, 15.25))
    assert reading.duration_s == 2
    assert reading.source == "rapl-package"


def test_energy_meter_packages_are_summed_and_their_parts_and_doubles_left_out(zones: Zones, clock: HandClock) -> None:
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        zones.write(zone, name, 0)
    (zones.root / "intel-rapl").mkdir()
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    for zone, name, joules in (
        ("intel-rapl:0", "package-0", 5),
        ("intel-rapl:1", "package-1", 7),
        ("intel-rapl:2", "psys", 100),
        ("intel-rapl:0:0", "core", 100),
        ("intel-rapl:0:1", "dram", 100),
        ("intel-rapl-mmio:0", "package-0", 100),
    ):
        zones.write(zone, name, joules * 1_000_000)
    clock.now_s += 1
    reading = meter.stop()
    assert reading.joules == pytest.approx(12)
    assert reading.parts_joules == {"intel-rapl:0 package-0": 5, "intel-rapl:1 package-1": 7}


def test_energy_meter_counter_that_started_again_is_continued(zones: Zones, clock: HandClock) -> None:
    zones.write("intel-rapl:0", "package-0", 262_000_000_000)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    zones.write("intel-rapl:0", "package-0", 6_671_150)
    clock.now_s += 10
    # 143.32885 J up to the end of the range and 6.67115 J after it
    assert meter.stop().joules == pytest.approx(150.0)


def test_energy_meter_long_span_is_added_up_over_samples(zones: Zones, clock: HandClock) -> None:
    """The counter goes round twice, which only the samples in between can show."""
    zones.write("intel-rapl:0", "package-0", 0, max_range_uj=100_000_000_000)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    assert meter.max_gap_s == pytest.approx(100)  # 100 kJ at 1000 W
    for energy_uj in (60_000_000_000, 20_000_000_000, 80_000_000_000, 40_000_000_000):
        clock.now_s += 90
        zones.write("intel-rapl:0", "package-0", energy_uj, max_range_uj=100_000_000_000)
        meter.sample()
    reading = meter.stop()
    assert (reading.joules, reading.duration_s) == pytest.approx((240_000, 360))


def test_energy_meter_left_alone_too_long_gives_no_figure(zones: Zones, clock: HandClock) -> None:
    zones.write("intel-rapl:0", "package-0", 0)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    clock.now_s += 300  # 262 kJ at 1000 W last 262 s
    reading = meter.stop()
    assert reading.joules is None
    assert reading.mean_watts is None
    assert "wrapped twice" in reading.reason


def test_energy_meter_second_span_starts_anew(zones: Zones, clock: HandClock) -> None:
    zones.write("intel-rapl:0", "package-0", 0)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    clock.now_s += 1000
    assert meter.stop().joules is None
    meter.start()
    zones.write("intel-rapl:0", "package-0", 3_000_000)
    clock.now_s += 1
    assert meter.stop().joules == pytest.approx(3)


def test_energy_meter_file_only_root_may_read_gives_the_reason(
    zones: Zones, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every file can be read, so the refusal is made here."""
    zones.write("intel-rapl:0", "package-0", 0)
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", refuse)
    meter = EnergyMeter([RaplPackages(zones.root)], clock)
    meter.start()
    reading = meter.stop()
    assert reading.joules is None
    assert "intel-rapl:0/energy_uj may not be read" in reading.reason


@pytest.mark.parametrize("content", ["", "many", "1.5"])
def test_rapl_packages_damaged_file_is_named(zones: Zones, content: str) -> None:
    zones.write("intel-rapl:0", "package-0", content)
    found = RaplPackages(zones.root).read()
    assert isinstance(found, Unavailable)
    assert "energy_uj cannot be read" in found.reason


def test_rapl_packages_system_without_them_says_so(zones: Zones) -> None:
    found = RaplPackages(zones.root / "nowhere").read()
    assert isinstance(found, Unavailable)
    assert "shows no energy counters" in found.reason
    zones.write("intel-rapl:0", "psys", 0)
    found = RaplPackages(zones.root).read()
    assert isinstance(found, Unavailable)
    assert "no CPU package" in found.reason


def test_rapl_packages_of_this_machine_can_be_read() -> None:
    found = RaplPackages(POWERCAP).read()
    if isinstance(found, Unavailable):
        pytest.skip(f"NOT TESTED: {found.reason}")
    assert all(counter.joules >= 0 for counter in found.values())


@dataclass
class FakeSource:
    """Counters that the test sets."""

    name: str
    counters: Mapping[str, Counter] | Unavailable = field(default_factory=dict)

    def read(self) -> Mapping[str, Counter] | Unavailable:
        return self.counters


def test_energy_meter_one_source_missing_gives_no_sum(clock: HandClock) -> None:
    """Half of the energy would look like a very good figure."""
    package = FakeSource("rapl-package", {"p": Counter(1.0, None)})
    meter = EnergyMeter([package, NvmlEnergy(Unavailable("No driver."))], clock)
    meter.start()
    package.counters = {"p": Counter(5.0, None)}
    reading = meter.stop()
    assert (reading.joules, reading.reason, reading.source) == (None, "No driver.", "rapl-package+nvml")


def test_energy_meter_device_that_comes_goes_or_restarts_gives_no_figure(clock: HandClock) -> None:
    gpu = FakeSource("nvml", {"gpu-0": Counter(10.0, None)})
    meter = EnergyMeter([gpu], clock)
    for later, reason in (
        ({"gpu-0": Counter(3.0, None)}, "went backwards"),
        ({"gpu-1": Counter(30.0, None)}, "not the same as at the start"),
        (Unavailable("Driver gone."), "Driver gone"),
    ):
        gpu.counters = {"gpu-0": Counter(10.0, None)}
        meter.start()
        gpu.counters = later
        reading = meter.stop()
        assert reading.joules is None
        assert reason in reading.reason


def test_energy_meter_without_sources_says_so(clock: HandClock) -> None:
    meter = EnergyMeter([], clock)
    meter.start()
    assert meter.stop().reason == "There is no energy counter to read."


def output_rate(users: int, tokens_per_s: float) -> Measurement:
    return Measurement(
        metric=Metric.DECODE_TOKENS_PER_S,
        value=tokens_per_s,
        variant_digest="sha256:int8",
        target=Target("openvino", "2026.4.1", "CPU", "avx2", 2),
        protocol="closed-loop",
        num_items=9,
        interval=Interval(tokens_per_s / 2, tokens_per_s * 2, 0.95),
        measured_unix_s=1.0,
        machine="m",
        concurrency=users,
    )


def test_energy_per_load_each_load_has_its_own_reading_and_progress_is_passed_on(clock: HandClock) -> None:
    package = FakeSource("rapl-package", {"p": Counter(0.0, None)})
    recorded = RecordingProgress()
    progress = EnergyPerLoad(recorded, EnergyMeter([package], clock))

    def pass_time(duration_s: float, joules: float) -> None:
        clock.now_s += duration_s
        assert isinstance(package.counters, dict)
        package.counters = {"p": Counter(package.counters["p"].joules + joules, None)}

    with progress.task("speed") as task:
        pass_time(5, 1000)  # before the first load
        task.advance(done=0, total=2, note="1 at a time")
        pass_time(2, 20)
        task.advance(done=1, total=2, note="8 at a time")
        pass_time(4, 120)
        task.advance(done=2, total=2)
        pass_time(5, 1000)
    assert [(one.joules, one.duration_s) for one in progress.readings] == [(20, 2), (120, 4)]
    assert (recorded.titles, recorded.advances) == (["speed"], [(0, 2), (1, 2), (2, 2)])
    # 10 W at 5 tokens/s are 2 J each; 30 W at 60 tokens/s are 0.5 J each, and the rate's bounds change places
    found = energy_figures([output_rate(1, 5.0), output_rate(8, 60.0)], progress.readings, (1, 8))
    assert [(one.concurrency, one.value) for one in found.measurements] == [(1, 2.0), (8, 0.5)]
    assert found.measurements[1].interval == Interval(0.25, 1.0, 0.95)
    assert found.measurements[1].protocol == "energy-1/rapl-package/closed-loop"
    assert found.measurements[1].details == {"mean_watts": 30.0, "duration_s": 4.0}
    assert found.notes == ()


def test_energy_figures_unreadable_counter_is_told_once(clock: HandClock) -> None:
    meter = EnergyMeter([NvmlEnergy(Unavailable("No driver."))], clock)
    readings = []
    for _ in range(2):
        meter.start()
        clock.now_s += 1
        readings.append(meter.stop())
    found = energy_figures([output_rate(1, 5.0), output_rate(8, 60.0)], readings, (1, 8))
    assert (found.measurements, found.notes) == ((), ("No energy: No driver.",))


def test_energy_figures_readings_that_fit_no_load_give_no_figure(clock: HandClock) -> None:
    found = energy_figures([output_rate(1, 5.0)], [], (1,))
    assert found.measurements == ()
    assert "0 readings of 1 loads" in found.notes[0]
