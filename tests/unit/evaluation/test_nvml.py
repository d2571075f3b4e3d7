"""NVIDIA's library through a stand-in module; the real one is asked where it is, and its absence is told."""

# ruff: noqa: N802 - the stand-in has the names of NVIDIA's library
from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import dataclass, field

import pytest

from lightship.evaluation.nvml import NvmlDevices, PeakGpuMemory, Unavailable, UsedMemory, nvml_devices
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time


class NvmlError(Exception):
    """What the stand-in raises."""


@dataclass
class Process:
    """As the library reports one; memory is None where the driver does not tell."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815 - the library's name


@dataclass
class Memory:
    """As the library reports it."""

    used: int


@dataclass
class Gpu:
    """One device of the stand-in."""

    processes: list[Process] = field(default_factory=list)
    used: int = 0
    millijoules: int | None = 0


class FakePynvml:
    """The functions of pynvml that are used; device handles are the devices themselves."""

    NVMLError = NvmlError

    def __init__(self, *gpus: Gpu, has_driver: bool = True) -> None:
        self.gpus = gpus
        self.num_open = 0
        self._has_driver = has_driver

    def nvmlInit(self) -> None:
        if not self._has_driver:
            raise NvmlError("Driver Not Loaded")
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Gpu) -> list[Process]:
        return handle.processes

    def nvmlDeviceGetMemoryInfo(self, handle: Gpu) -> Memory:
        return Memory(handle.used)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Gpu) -> int:
        if handle.millijoules is None:
            raise NvmlError("Not Supported")
        return handle.millijoules


def test_nvml_devices_memory_of_the_processes_is_summed_over_devices() -> None:
    fake = FakePynvml(Gpu([Process(7, 100), Process(8, 50)], used=999), Gpu([Process(7, 30)], used=999))
    with nvml_devices(fake) as devices:
        assert isinstance(devices, NvmlDevices)
        assert devices.used_memory({7}) == UsedMemory(130, is_of_processes=True)
        assert fake.num_open == 1
    assert fake.num_open == 0


@pytest.mark.parametrize("processes", [[Process(7, None)], [Process(1, 100)], []], ids=["hidden", "others", "none"])
def test_nvml_devices_memory_without_a_figure_per_process_is_the_devices(processes: list[Process]) -> None:
    with nvml_devices(FakePynvml(Gpu(processes, used=500), Gpu(used=20))) as devices:
        assert isinstance(devices, NvmlDevices)
        assert devices.used_memory({7}) == UsedMemory(520, is_of_processes=False)


def test_nvml_devices_energy_of_each_device_or_the_reason() -> None:
    with nvml_devices(FakePynvml(Gpu(millijoules=5), Gpu(millijoules=6))) as devices:
        assert isinstance(devices, NvmlDevices)
        assert devices.energy_millijoules() == [5, 6]
    with nvml_devices(FakePynvml(Gpu(millijoules=5), Gpu(millijoules=None))) as devices:
        assert isinstance(devices, NvmlDevices)
        assert devices.energy_millijoules() == Unavailable("The driver does not tell the GPU's energy: Not Supported.")


def test_nvml_devices_no_driver_or_no_device_is_told() -> None:
    with nvml_devices(FakePynvml(has_driver=False)) as devices:
        assert isinstance(devices, Unavailable)
        assert "Driver Not Loaded" in devices.reason
    no_devices = FakePynvml()
    with nvml_devices(no_devices) as devices:
        assert devices == Unavailable("This machine has no NVIDIA device.")
    assert no_devices.num_open == 0


def test_nvml_devices_without_the_binding_names_the_package() -> None:
    if importlib.util.find_spec("pynvml") is not None:
        pytest.skip("NOT TESTED: nvidia-ml-py is installed here")
    with nvml_devices() as devices:
        assert isinstance(devices, Unavailable)
        assert "nvidia-ml-py is not installed" in devices.reason


def test_nvml_devices_real_library_tells_memory() -> None:
    if importlib.util.find_spec("pynvml") is None:
        pytest.skip("NOT TESTED: nvidia-ml-py is not installed, so no real device was asked")
    with nvml_devices() as devices:
        if isinstance(devices, Unavailable):
            pytest.skip(f"NOT TESTED: {devices.reason}")
        used = devices.used_memory(())
        assert isinstance(used, UsedMemory)
        assert used.num_bytes > 0


def test_peak_gpu_memory_keeps_the_highest_sample() -> None:
    gpu = Gpu([Process(7, 100)])
    with nvml_devices(FakePynvml(gpu)) as devices:
        assert isinstance(devices, NvmlDevices)
        peak = PeakGpuMemory(devices)
        for num_bytes in (100, 300, 200):
            gpu.processes = [Process(7, num_bytes)]
            peak.sample({7})
        assert peak.peak == UsedMemory(300, is_of_processes=True)


def test_peak_gpu_memory_never_read_has_none() -> None:
    with nvml_devices(FakePynvml(Gpu())) as devices:
        assert isinstance(devices, NvmlDevices)
        assert PeakGpuMemory(devices).peak == Unavailable("The GPU memory was never read.")


def test_peak_gpu_memory_a_reading_of_the_whole_device_is_never_called_the_processes() -> None:
    gpu = Gpu([Process(7, 900)], used=500)
    with nvml_devices(FakePynvml(gpu)) as devices:
        assert isinstance(devices, NvmlDevices)
        peak = PeakGpuMemory(devices)
        peak.sample({7})
        gpu.processes = []
        peak.sample({7})
        gpu.processes = [Process(7, 900)]
        peak.sample({7})
        assert peak.peak == UsedMemory(500, is_of_processes=False)


def test_peak_gpu_memory_keep_sampling_sees_a_rise_between_start_and_end() -> None:
    gpu = Gpu([Process(7, 1)])

    async def scenario(peak: PeakGpuMemory) -> None:
        clock = LoopClock()
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(peak.keep_sampling(lambda: {7}, clock))
            for num_bytes in (10, 80, 20):
                gpu.processes = [Process(7, num_bytes)]
                await clock.sleep(1.0)
            sampling.cancel()

    with nvml_devices(FakePynvml(gpu)) as devices:
        assert isinstance(devices, NvmlDevices)
        peak = PeakGpuMemory(devices)
        run_in_virtual_time(scenario(peak))
        assert peak.peak == UsedMemory(80, is_of_processes=True)
