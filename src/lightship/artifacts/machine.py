"""What kind of machine this is, as a fingerprint that measurements carry.

Two machines with the same fingerprint are alike in what decides a model's speed; the fingerprint is no identity: it
holds no host name, serial number or address.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

# Instruction sets that change how fast or how exactly a model runs, the most capable last: `Machine.instruction_set`
# is the last one a machine has. x86 names are the kernel's flags; ARM names follow.
INSTRUCTION_SETS = (
    "neon",
    "asimddp",
    "sve",
    "i8mm",
    "bf16",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)
# The kernel calls NEON "asimd" on 64-bit ARM.
_ALIASES = {"asimd": "neon"}
_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The traits of a machine that measurements depend on."""

    cpu_model: str
    architecture: str
    instruction_sets: tuple[str, ...]
    num_cores: int
    memory_gib: int

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that agree exactly when all traits do."""
        traits = [self.cpu_model, self.architecture, self.instruction_sets, self.num_cores, self.memory_gib]
        return hashlib.sha256(json.dumps(traits).encode()).hexdigest()[:16]

    @property
    def instruction_set(self) -> str:
        """The most capable known instruction set, or the architecture when none is known."""
        return self.instruction_sets[-1] if self.instruction_sets else self.architecture

    @property
    def description(self) -> str:
        """One line for people."""
        memory = f"{self.memory_gib} GiB" if self.memory_gib else "unknown memory"
        sets = ", ".join(self.instruction_sets) or "no known instruction sets"
        return f"{self.cpu_model}, {self.num_cores} cores, {memory} ({sets})"


def parse_machine(cpuinfo: str, meminfo: str, *, num_cores: int, architecture: str, fallback_model: str) -> Machine:
    """The machine that the kernel describes.

    Args:
        cpuinfo: Text of `/proc/cpuinfo`, or "" where there is none.
        meminfo: Text of `/proc/meminfo`, or "".
        num_cores: Cores this process may use.
        fallback_model: CPU model when `cpuinfo` names none, as on ARM.
    """
    flags = {_ALIASES.get(flag, flag) for flag in _field(cpuinfo, r"(?:flags|Features)").split()}
    memory_kib = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return Machine(
        cpu_model=" ".join(_field(cpuinfo, r"model name").split()) or fallback_model or architecture,
        architecture=architecture,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        num_cores=num_cores,
        memory_gib=round(int(memory_kib[1]) * 1024 / _GIB) if memory_kib else 0,
    )


def this_machine() -> Machine:
    """The machine this runs on, as far as its system tells.

    Effects: reads `/proc/cpuinfo` and `/proc/meminfo` where they exist.
    """
    return parse_machine(
        _text_of("/proc/cpuinfo"),
        _text_of("/proc/meminfo"),
        num_cores=_usable_cores(),
        architecture=platform.machine(),
        fallback_model=platform.processor(),
    )


def machine_fingerprint() -> str:
    """Fingerprint of the machine this runs on."""
    return this_machine().fingerprint


def _field(cpuinfo: str, name: str) -> str:
    """The first value of a field; all cores of a machine are taken to be alike."""
    match = re.search(rf"^{name}[ \t]*:(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def _usable_cores() -> int:
    # Not every system can bind a process to some of its cores; Linux can, and containers do.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
