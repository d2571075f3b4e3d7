"""What this machine is, as far as plans depend on it: cores, instruction sets, caches, memory, control group, GPUs.

Texts of the kernel are read by pure functions; `detect_hardware` is what reads files and asks the driver.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightship.artifacts.machine import parse_machine

_KIB = 1024
_SIZE_FACTORS = {"": 1, "K": _KIB, "M": _KIB**2, "G": _KIB**3}
# A limit of cgroup v1 that is this large is its way to say that there is none (LONG_MAX rounded down to a page).
_NO_LIMIT_BYTES = 2**62
_NVML_MODULE = "pynvml"


@dataclass(frozen=True)
class Cache:
    """One kind of cache: bytes of each, and how many of them this machine has."""

    level: int
    kind: str
    num_bytes: int
    count: int


@dataclass(frozen=True)
class NumaNode:
    """Processors that share a memory controller."""

    number: int
    num_cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver tells."""

    name: str
    memory_bytes: int
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class Hardware:
    """What a plan can count on here.

    Args:
        num_cores: Physical cores that are online.
        num_cpus: Logical processors: more than cores where each runs several threads.
        num_usable_cpus: Those this process may run on.
        cpu_quota: Processors' worth of time that its control group may use; None where it sets no limit.
        memory_bytes: Of the machine.
        memory_limit_bytes: Of the control group; None where it sets no limit.
        bandwidth_bytes_per_s: Measured reading with all cores; None where it was not measured.
        flops_per_s: Measured float32 arithmetic; None likewise.
        gpus: NVIDIA GPUs.
        gpu_note: Why none are known, or "".
    """

    cpu_model: str
    architecture: str
    instruction_sets: tuple[str, ...]
    num_cores: int
    num_cpus: int
    num_usable_cpus: int
    memory_bytes: int
    cpu_quota: float | None = None
    memory_limit_bytes: int | None = None
    caches: tuple[Cache, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    bandwidth_bytes_per_s: float | None = None
    flops_per_s: float | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = field(default="")

    @property
    def threads_per_core(self) -> int:
        """Hardware threads of one core."""
        return max(1, self.num_cpus // max(1, self.num_cores))

    @property
    def usable_cores(self) -> float:
        """Cores that compute at the same time: bound by the affinity, the control group and the physical cores."""
        cores = min(self.num_cores, self.num_usable_cpus)
        return min(float(cores), self.cpu_quota) if self.cpu_quota is not None else float(cores)

    @property
    def usable_memory_bytes(self) -> int:
        """Memory that all processes here may take together."""
        return min([self.memory_bytes, *([self.memory_limit_bytes] if self.memory_limit_bytes else [])])


def parse_cpu_list(text: str) -> frozenset[int]:
    """Numbers in the kernel's list format.

    >>> sorted(parse_cpu_list("0-2,8"))
    [0, 1, 2, 8]
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low.strip().isdigit():
            numbers |= set(range(int(low), int(high or low) + 1))
    return frozenset(numbers)


def parse_size(text: str) -> int:
    """Bytes of a cache's size as sysfs writes it; 0 for something else.

    >>> parse_size("32768K")
    33554432
    """
    found = re.fullmatch(r"\s*(\d+)([KMG]?)\s*", text)
    return int(found[1]) * _SIZE_FACTORS[found[2]] if found else 0


def parse_cpu_max(text: str) -> float | None:
    """Processors' worth of time in cgroup v2's `cpu.max`; None without a limit.

    >>> parse_cpu_max("150000 100000")
    1.5

    Source: kernel documentation, admin-guide/cgroup-v2, "CPU Interface Files".
    """
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.strip().isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def parse_memory_limit(text: str) -> int | None:
    """Bytes in cgroup v2's `memory.max` or v1's `memory.limit_in_bytes`; None without a limit."""
    value = text.strip()
    if not value.isdigit() or int(value) >= _NO_LIMIT_BYTES:
        return None
    return int(value)


def parse_cgroups(text: str) -> dict[str, str]:
    """Path of this process by controller in `/proc/self/cgroup`; "" is the unified hierarchy of v2.

    >>> parse_cgroups("0::/kubepods/pod1")
    {'': '/kubepods/pod1'}
    """
    paths: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths |= dict.fromkeys(parts[1].split(","), parts[2])
    return paths


def parse_memory_total(meminfo: str) -> int:
    """Bytes of `MemTotal` in `/proc/meminfo` or a node's `meminfo`; 0 where it is missing."""
    found = re.search(r"MemTotal:\s*(\d+) kB", meminfo)
    return int(found[1]) * _KIB if found else 0


def count_caches(entries: Iterable[tuple[int, str, int, str]]) -> tuple[Cache, ...]:
    """Caches by kind, from one (level, type, bytes, shared CPU list) for each index of each processor."""
    unique = {(level, kind, num_bytes, parse_cpu_list(shared)) for level, kind, num_bytes, shared in entries}
    kinds = sorted({(level, kind, num_bytes) for level, kind, num_bytes, _ in unique})
    return tuple(Cache(*key, count=sum(entry[:3] == key for entry in unique)) for key in kinds)


def count_cores(siblings: Iterable[str]) -> int:
    """Physical cores, from each processor's list of thread siblings."""
    return len({parse_cpu_list(text) for text in siblings})


def detect_hardware(root: Path = Path("/"), *, nvml: Any = None) -> Hardware:
    """This machine, as far as its system tells; bandwidth and arithmetic are not measured here.

    Args:
        root: Where `proc` and `sys` are, for tests.
        nvml: NVIDIA's Python binding, for tests; imported when not given.

    Effects: reads files of the kernel; loads the driver's library for a moment.
    """
    cpus = root / "sys/devices/system/cpu"
    online = sorted(parse_cpu_list(_text(cpus / "online"))) or list(range(os.cpu_count() or 1))
    cpuinfo, meminfo = _text(root / "proc/cpuinfo"), _text(root / "proc/meminfo")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else len(online)
    machine = parse_machine(
        cpuinfo,
        meminfo,
        num_cores=usable,
        architecture=platform.machine(),
        fallback_model=platform.processor(),
    )
    siblings = [text for cpu in online if (text := _text(cpus / f"cpu{cpu}/topology/thread_siblings_list"))]
    gpus, gpu_note = _gpus(nvml)
    quota, memory_limit = _limits(root)
    return Hardware(
        cpu_model=machine.cpu_model,
        architecture=machine.architecture,
        instruction_sets=machine.instruction_sets,
        num_cores=count_cores(siblings) or len(online),
        num_cpus=len(online),
        num_usable_cpus=min(usable, len(online)),
        memory_bytes=parse_memory_total(meminfo),
        cpu_quota=quota,
        memory_limit_bytes=memory_limit,
        caches=count_caches(entry for cpu in online for entry in _cache_entries(cpus / f"cpu{cpu}/cache")),
        numa_nodes=_numa_nodes(root / "sys/devices/system/node"),
        gpus=gpus,
        gpu_note=gpu_note,
    )


def _cache_entries(folder: Path) -> Iterable[tuple[int, str, int, str]]:
    for index in sorted(folder.glob("index[0-9]*")):
        level, kind = _text(index / "level").strip(), _text(index / "type").strip()
        if level.isdigit():
            yield int(level), kind, parse_size(_text(index / "size")), _text(index / "shared_cpu_list")


def _numa_nodes(folder: Path) -> tuple[NumaNode, ...]:
    nodes = []
    for node in folder.glob("node[0-9]*"):
        cpus = parse_cpu_list(_text(node / "cpulist"))
        nodes.append(NumaNode(int(node.name[4:]), len(cpus), parse_memory_total(_text(node / "meminfo"))))
    return tuple(sorted(nodes, key=lambda node: node.number))


def _limits(root: Path) -> tuple[float | None, int | None]:
    """Quota of processors and limit of memory: the tightest along the path of this process, v2 before v1.

    Inside a container the path often names a folder outside its view; then the limits stand in the root.
    """
    paths = parse_cgroups(_text(root / "proc/self/cgroup"))
    base = root / "sys/fs/cgroup"
    quotas = [parse_cpu_max(_text(folder / "cpu.max")) for folder in _ancestors(base, paths.get("", "/"))]
    for folder in _ancestors(base / "cpu", paths.get("cpu", "/")):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        quotas.append(parse_cpu_max(f"{quota.strip()} {period.strip()}"))
    memory = [parse_memory_limit(_text(folder / "memory.max")) for folder in _ancestors(base, paths.get("", "/"))]
    v1 = _ancestors(base / "memory", paths.get("memory", "/"))
    memory += [parse_memory_limit(_text(folder / "memory.limit_in_bytes")) for folder in v1]
    return (
        min((quota for quota in quotas if quota is not None), default=None),
        min((limit for limit in memory if limit is not None), default=None),
    )


def _ancestors(base: Path, path: str) -> list[Path]:
    own = base / path.strip("/")
    folders = [own, *own.parents]
    return folders[: folders.index(base) + 1] if base in folders else [base]


def _gpus(nvml: Any) -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA's GPUs, or why there are none."""
    try:
        nvml = nvml or importlib.import_module(_NVML_MODULE)
    except ImportError:
        return (), "NVIDIA GPUs were not looked for: nvidia-ml-py is not installed (pip install 'lightship[nvidia]')"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), f"no NVIDIA GPU: the management library cannot be used ({error})"
    try:
        driver = _decoded(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = tuple(_gpu(nvml, handle, driver) for handle in handles)
    except nvml.NVMLError as error:
        return (), f"NVIDIA GPUs cannot be listed ({error})"
    finally:
        nvml.nvmlShutdown()
    return gpus, "" if gpus else "this machine has no NVIDIA GPU"


def _gpu(nvml: Any, handle: Any, driver: str) -> Gpu:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(_decoded(nvml.nvmlDeviceGetName(handle)), total, f"{major}.{minor}", driver)


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text  # older bindings return bytes


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
