"""NVIDIA's management library behind a small interface: memory in use and energy so far, per device.

Loaded only when asked for, since most machines have no such device; what is missing is told with its reason. The Python
binding is `nvidia-ml-py`, whose module is called pynvml.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightship.ports.clock import Clock

# The module's API is functions that raise `NVMLError`; there is nothing to type against.
_MODULE = "pynvml"
# Time between two readings: a reading takes well under a millisecond, and an engine's memory moves with its steps.
_SAMPLE_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Unavailable:
    """Something that cannot be measured here, and why, as a sentence."""

    reason: str


@dataclass(frozen=True)
class UsedMemory:
    """GPU memory in use. `is_of_processes` is False where the driver tells only what the whole device uses."""

    num_bytes: int
    is_of_processes: bool


class NvmlDevices:
    """The devices of this machine while the library is open."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def used_memory(self, process_ids: Collection[int]) -> UsedMemory | Unavailable:
        """Memory that these processes use on all devices, or else all that the devices use.

        In containers the driver tells neither the inner process ids nor always a figure per process.
        """
        try:
            users = [
                user for handle in self._handles for user in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ]
            of_processes = [user.usedGpuMemory for user in users if user.pid in process_ids]
            if of_processes and None not in of_processes:
                return UsedMemory(sum(of_processes), is_of_processes=True)
            devices = [self._nvml.nvmlDeviceGetMemoryInfo(handle).used for handle in self._handles]
        except self._nvml.NVMLError as error:
            return Unavailable(f"The driver does not tell the GPU memory in use: {error}.")
        return UsedMemory(sum(devices), is_of_processes=False)

    def energy_millijoules(self) -> list[int] | Unavailable:
        """What each device has consumed since its driver was loaded. Volta and newer tell it."""
        try:
            return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles]
        except self._nvml.NVMLError as error:
            return Unavailable(f"The driver does not tell the GPU's energy: {error}.")


@contextmanager
def nvml_devices(nvml: Any = None) -> Iterator[NvmlDevices | Unavailable]:
    """The NVIDIA devices of this machine, or why there are none.

    Args:
        nvml: The module, for tests; imported when not given.

    Effects: loads the driver's library, and lets go of it at the end.
    """
    try:
        nvml = nvml or importlib.import_module(_MODULE)
    except ImportError:
        yield Unavailable("nvidia-ml-py is not installed (pip install 'lightship[nvidia]').")
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        yield Unavailable(f"NVIDIA's management library cannot be used: {error}.")
        return
    try:
        devices: NvmlDevices | Unavailable
        try:
            devices = NvmlDevices(nvml)
        except nvml.NVMLError as error:
            devices = Unavailable(f"NVIDIA's devices cannot be listed: {error}.")
        else:
            if nvml.nvmlDeviceGetCount() == 0:
                devices = Unavailable("This machine has no NVIDIA device.")
        yield devices
    finally:
        nvml.nvmlShutdown()


class PeakGpuMemory:
    """The highest of many readings: the library keeps no peak of its own, so what lies between two is not seen."""

    def __init__(self, devices: NvmlDevices) -> None:
        self._devices = devices
        self._peak: UsedMemory | Unavailable = Unavailable("The GPU memory was never read.")

    def sample(self, process_ids: Collection[int]) -> None:
        """Reads once; call it often while the load runs."""
        used = self._devices.used_memory(process_ids)
        if isinstance(used, Unavailable) or isinstance(self._peak, Unavailable):
            self._peak = used if isinstance(self._peak, Unavailable) else self._peak
        elif used.is_of_processes == self._peak.is_of_processes:
            self._peak = max(self._peak, used, key=lambda one: one.num_bytes)
        else:  # a figure of the whole device is no peak of the processes, and wins as the more careful one
            self._peak = used if not used.is_of_processes else self._peak

    @property
    def peak(self) -> UsedMemory | Unavailable:
        """The highest reading so far, or why there is none."""
        return self._peak

    async def keep_sampling(self, process_ids: Callable[[], Collection[int]], clock: Clock) -> None:
        """Samples until it is cancelled; `process_ids` is asked each time, as an engine starts helpers late.

        Concurrency: belongs into the task group that runs the load.
        """
        while True:
            self.sample(process_ids())
            await clock.sleep(_SAMPLE_INTERVAL_S)
