"""The machine that one replica is planned for: this one, another CPU as it is described, or GPUs of the list."""

from __future__ import annotations

import argparse

from lightship.cli.plan.arguments import memory_of, positive
from lightship.compression.machine_speed import arithmetic_ratio, measure_machine_speed
from lightship.errors import UsageError
from lightship.planning.accelerators import Accelerator, find_accelerator, load_accelerators
from lightship.planning.hardware import Hardware
from lightship.planning.records import MachineToPlan
from lightship.ports.deployment import Figure, FigureSource
from lightship.units import format_bytes

# Bytes per second at which weights are read at the slowest: a network volume, or a disk that others use too.
_READ_BYTES_PER_S = 100e6
# In place of a name: those of this machine.
OWN_GPUS = "auto"
_ARITHMETICS = ("half", "int8", "fp8")


def machine_of(args: argparse.Namespace, hardware: Hardware, *, working_set_bytes: int) -> MachineToPlan:
    """The machine that the options describe.

    Args:
        working_set_bytes: What is read over and over: a model that fits the caches is read faster.

    Raises: UsageError: an unknown accelerator, or figures that make no sense.
    Effects: where bandwidth or arithmetic of this machine are needed, measures them with all cores for some seconds.
    """
    read = _given(args.read_rate, 1e6, "B/s", "--read-rate") or slow_read_rate()
    memory = _memory(args, hardware)
    cores = _given(args.cores, 1.0, "cores", "--cores") or Figure(
        hardware.usable_cores, "cores", FigureSource.MEASURED, "cores this process may use here"
    )
    if args.gpu is not None:
        return _gpu_machine(args, hardware, memory, cores, read)
    bandwidth = _given(args.bandwidth, 1e9, "B/s", "--bandwidth")
    flops = _given(args.tflops, 1e12, "FLOP/s", "--tflops")
    if bandwidth is None or flops is None:
        measured = measure_machine_speed(working_set_bytes=working_set_bytes)
        how = f"read here over {format_bytes(working_set_bytes)} with all cores"
        bandwidth = bandwidth or Figure(measured.bandwidth_bytes_per_s, "B/s", FigureSource.MEASURED, how)
        by_arithmetic = {
            kind: _times(measured.flops_per_s, arithmetic_ratio(hardware.instruction_sets, is_int8=kind == "int8"))
            for kind in _ARITHMETICS[:2]
        }
    if flops is not None:
        by_arithmetic = dict.fromkeys(_ARITHMETICS[:2], flops)
    return MachineToPlan(
        name=hardware.cpu_model,
        memory_bytes=memory,
        num_cores=cores,
        bandwidth=bandwidth,
        flops=by_arithmetic,
        read_bytes_per_s=read,
    )


def slow_read_rate() -> Figure:
    """At which weights are taken to be read where nobody says better."""
    return Figure(_READ_BYTES_PER_S, "B/s", FigureSource.ASSUMED, "100 MB/s, a slow volume (--read-rate)")


def _gpu_machine(
    args: argparse.Namespace, hardware: Hardware, memory: Figure, cores: Figure, read: Figure
) -> MachineToPlan:
    if args.gpus is not None and args.gpus < 1:
        raise UsageError(f"{args.gpus} GPUs", where="--gpus", hint="Write 1 or more.")
    name, count = args.gpu, args.gpus or 1
    if name == OWN_GPUS:
        if not hardware.gpus:
            hint = "Name a kind of the list, like --gpu l4."
            raise UsageError(f"no GPU was found here: {hardware.gpu_note}", where="--gpu", hint=hint)
        name, count = hardware.gpus[0].name, args.gpus or len(hardware.gpus)
    accelerator = find_accelerator(name, load_accelerators())
    return MachineToPlan(
        name=f"{count} x {accelerator.name}",
        memory_bytes=memory,
        num_cores=cores,
        bandwidth=_vendor(accelerator.bandwidth_bytes_per_s, "B/s", accelerator),
        flops={kind: _vendor(accelerator.flops_per_s(kind), "FLOP/s", accelerator) for kind in _ARITHMETICS},
        read_bytes_per_s=read,
        accelerator=accelerator,
        num_accelerators=count,
    )


def _memory(args: argparse.Namespace, hardware: Hardware) -> Figure:
    if args.memory is not None:
        return Figure(memory_of(args.memory), "B", FigureSource.GIVEN, "--memory")
    bound = "limit of its control group" if hardware.memory_limit_bytes else "all of it"
    return Figure(hardware.usable_memory_bytes, "B", FigureSource.MEASURED, f"this machine, {bound}")


def _given(value: float | None, factor: float, unit: str, option: str) -> Figure | None:
    if value is None:
        return None
    return Figure(positive(option, value) * factor, unit, FigureSource.GIVEN, option)


def _times(flops_per_s: float, ratio: float) -> Figure:
    how = f"{flops_per_s / 1e9:.4g} GFLOP/s measured here in float32 x {ratio:g} for its instructions"
    return Figure(flops_per_s * ratio, "FLOP/s", FigureSource.ROOFLINE, how)


def _vendor(value: float, unit: str, accelerator: Accelerator) -> Figure:
    return Figure(value, unit, FigureSource.VENDOR, f"{accelerator.name}: {accelerator.origin}")
