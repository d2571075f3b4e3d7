from __future__ import annotations

import dataclasses

from lightship.artifacts.machine import Machine, parse_machine, this_machine

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R)  Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx avx2 avx512f amx_bf16 avx512_bf16 avx512_vnni amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""


def parse(cpuinfo: str, meminfo: str = "MemTotal:       16383000 kB\nMemFree: 1 kB\n") -> Machine:
    return parse_machine(cpuinfo, meminfo, num_cores=2, architecture="x86_64", fallback_model="")


def test_parse_x86_names_model_and_instruction_sets() -> None:
    machine = parse(X86)
    assert machine.cpu_model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert machine.instruction_sets == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    assert (machine.instruction_set, machine.memory_gib, machine.num_cores) == ("amx_bf16", 16, 2)


def test_parse_arm_falls_back_to_the_architecture_and_calls_asimd_neon() -> None:
    machine = parse_machine(ARM, "", num_cores=4, architecture="aarch64", fallback_model="")
    assert (machine.cpu_model, machine.memory_gib) == ("aarch64", 0)
    assert machine.instruction_sets == ("neon", "asimddp", "sve", "i8mm", "bf16")


def test_parse_nothing_known_still_gives_a_machine() -> None:
    machine = parse_machine("", "", num_cores=1, architecture="riscv64", fallback_model="U74")
    assert (machine.cpu_model, machine.instruction_set) == ("U74", "riscv64")
    assert machine.description == "U74, 1 cores, unknown memory (no known instruction sets)"


def test_fingerprint_differs_exactly_when_a_trait_does() -> None:
    machine = parse(X86)
    changed = [
        dataclasses.replace(machine, cpu_model="x"),
        dataclasses.replace(machine, architecture="x"),
        dataclasses.replace(machine, instruction_sets=()),
        dataclasses.replace(machine, num_cores=3),
        dataclasses.replace(machine, memory_gib=3),
    ]
    assert len({m.fingerprint for m in [machine, *changed]}) == 6
    assert parse(X86, "MemTotal: 16383999 kB\n").fingerprint == machine.fingerprint


def test_this_machine_is_the_same_each_time() -> None:
    assert this_machine() == this_machine()
    assert this_machine().num_cores >= 1
    assert len(this_machine().fingerprint) == 16
