"""What a machine is, from texts as its kernel writes them, and GPUs from a driver that is passed in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lightship.planning.hardware import (
    Cache,
    Gpu,
    Hardware,
    NumaNode,
    count_caches,
    count_cores,
    detect_hardware,
    parse_cgroups,
    parse_cpu_list,
    parse_cpu_max,
    parse_memory_limit,
    parse_size,
)

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480C
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16

"""
# one core of two threads
CPU_FILES = {
    "online": "0-3",
    **{f"cpu{cpu}/topology/thread_siblings_list": "0,2" if cpu % 2 == 0 else "1,3" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index0/level": "1" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index0/type": "Data" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index0/size": "48K" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index0/shared_cpu_list": "0,2" if cpu % 2 == 0 else "1,3" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index1/level": "3" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index1/type": "Unified" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index1/size": "107520K" for cpu in range(4)},
    **{f"cpu{cpu}/cache/index1/shared_cpu_list": "0-3" for cpu in range(4)},
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, {f"sys/devices/system/cpu/{name}": text for name, text in CPU_FILES.items()})
    write(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO,
            "proc/meminfo": "MemTotal:       16777216 kB",
            "proc/self/cgroup": "0::/kubepods/pod1/box",
            "sys/fs/cgroup/kubepods/cpu.max": "max 100000",
            "sys/fs/cgroup/kubepods/memory.max": "8589934592",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000",
            "sys/fs/cgroup/kubepods/pod1/box/memory.max": "max",
            "sys/devices/system/node/node0/cpulist": "0-1",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       8388608 kB",
            "sys/devices/system/node/node1/cpulist": "2-3",
            "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal:       8388608 kB",
        },
    )
    return tmp_path


class FakeNvml:
    """NVIDIA's binding with two GPUs of one kind; `fault` is what its first call raises."""

    class NVMLError(Exception):
        """As the binding's own."""

    def __init__(self, num_gpus: int = 2, fault: str = "") -> None:
        self.num_gpus, self.fault, self.num_open = num_gpus, fault, 0

    def nvmlInit(self) -> None:  # noqa: N802 - the binding's name
        if self.fault:
            raise self.NVMLError(self.fault)
        self.num_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"570.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.num_gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, _: int) -> str:  # noqa: N802
        return "NVIDIA L4"

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=24_152_899_584)

    def nvmlDeviceGetCudaComputeCapability(self, _: int) -> tuple[int, int]:  # noqa: N802
        return 8, 9


def test_detect_hardware_counts_cores_caches_nodes_and_the_tightest_limits(root: Path) -> None:
    found = detect_hardware(root, nvml=FakeNvml())
    assert (found.cpu_model, found.num_cores, found.num_cpus, found.threads_per_core) == (
        "Intel(R) Xeon(R) Platinum 8480C",
        2,
        4,
        2,
    )
    assert found.instruction_sets == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    assert found.caches == (Cache(1, "Data", 48 * 1024, 2), Cache(3, "Unified", 105 * 2**20, 1))
    assert found.numa_nodes == (NumaNode(0, 2, 8 * 2**30), NumaNode(1, 2, 8 * 2**30))
    assert (found.memory_bytes, found.memory_limit_bytes) == (16 * 2**30, 8 * 2**30)
    assert found.usable_memory_bytes == 8 * 2**30
    assert found.cpu_quota == 1.5


def test_detect_hardware_cgroup_v1_limits_are_read(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc",
            # inside the container the folder of the path is not there: its limits stand in the root
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824",
        },
    )
    found = detect_hardware(root, nvml=FakeNvml())
    assert (found.cpu_quota, found.memory_limit_bytes) == (0.5, 2**30)


def test_detect_hardware_gpus_are_listed_and_the_library_is_let_go(root: Path) -> None:
    nvml = FakeNvml()
    found = detect_hardware(root, nvml=nvml)
    assert found.gpus == (Gpu("NVIDIA L4", 24_152_899_584, "8.9", "570.1"),) * 2
    assert nvml.num_open == 0


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [(FakeNvml(fault="Driver Not Loaded"), "Driver Not Loaded"), (FakeNvml(num_gpus=0), "has no NVIDIA GPU")],
)
def test_detect_hardware_without_gpus_says_why(root: Path, nvml: FakeNvml, reason: str) -> None:
    found = detect_hardware(root, nvml=nvml)
    assert found.gpus == ()
    assert reason in found.gpu_note


def test_detect_hardware_of_a_system_that_tells_nothing_is_still_a_machine(tmp_path: Path) -> None:
    found = detect_hardware(tmp_path, nvml=FakeNvml())
    assert found.num_cores >= 1
    assert (found.cpu_quota, found.memory_limit_bytes, found.caches, found.numa_nodes) == (None, None, (), ())


def test_usable_cores_is_the_least_of_cores_affinity_and_quota() -> None:
    machine = Hardware("cpu", "x86_64", (), num_cores=8, num_cpus=16, num_usable_cpus=12, memory_bytes=0)
    assert machine.usable_cores == 8
    assert Hardware("cpu", "x86_64", (), 8, 16, 4, 0).usable_cores == 4
    assert Hardware("cpu", "x86_64", (), 8, 16, 12, 0, cpu_quota=2.5).usable_cores == 2.5


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", None), ("-1 100000", None), ("", None), ("200000 100000", 2.0)]
)
def test_parse_cpu_max(text: str, expected: float | None) -> None:
    assert parse_cpu_max(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("max", None), ("9223372036854771712", None), ("4096\n", 4096)])
def test_parse_memory_limit(text: str, expected: int | None) -> None:
    assert parse_memory_limit(text) == expected


def test_small_parsers_read_what_the_kernel_writes() -> None:
    assert parse_cpu_list("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert parse_cpu_list("\n") == frozenset()
    assert (parse_size("32K"), parse_size("2M"), parse_size("?")) == (32768, 2097152, 0)
    assert parse_cgroups("3:cpu,cpuacct:/a:b\n0::/") == {"cpu": "/a:b", "cpuacct": "/a:b", "": "/"}
    assert count_cores(["0,2", "1,3", "0,2", "1,3"]) == 2
    assert count_caches([(2, "Unified", 1024, "0"), (2, "Unified", 1024, "1")]) == (Cache(2, "Unified", 1024, 2),)
