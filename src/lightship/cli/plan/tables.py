"""Plans and machines as tables for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightship.cli.tables import print_table
from lightship.planning.fleet import Fleet
from lightship.planning.hardware import Hardware
from lightship.planning.plan import Plan, PlannedRung
from lightship.planning.records import PlanRequest
from lightship.planning.speed import RungSpeed
from lightship.ports.deployment import Figure, FigureSource
from lightship.units import format_bytes, format_duration

_FORMAT = "lightship-plan"
_PARTS = ("weights", "kv_cache", "activations", "code")


_SHOWN: dict[str, Callable[[float], str]] = {
    "B": format_bytes,
    "B/s": lambda value: f"{value / 1e9:.4g} GB/s",
    "FLOP/s": lambda value: f"{value / 1e12:.4g} TFLOP/s",
    "s": format_duration,
    "USD": lambda value: f"${value:,.2f}",
}


def shown(figure: Figure) -> str:
    """The value as people read it, with its unit."""
    if figure.unit in _SHOWN:
        return _SHOWN[figure.unit](figure.value)
    if figure.unit.startswith("of "):
        return f"{figure.value:.0%} {figure.unit}"
    return f"{figure.value:,.4g} {figure.unit}"


def print_plan(request: PlanRequest, plan: Plan, traffic_source: FigureSource, notes: Sequence[str]) -> None:
    """Effects: prints on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    traffic, tokens, promise = request.traffic, request.tokens, request.promise
    console.print(f"Machine: {request.machine.name}, {shown(request.machine.memory_bytes)} of memory", markup=False)
    console.print(
        f"Traffic: {traffic.mean_requests_per_s:.4g} requests/s, {traffic.peak_requests_per_s:.4g} at the peak of "
        f"{traffic.peak_hours:g} h ({traffic_source}), {tokens.prompt:g} + {tokens.output:g} tokens each",
        markup=False,
    )
    limits = f"{promise.ttft_ms:g} ms to the first token, {promise.tpot_ms:g} ms for each later one"
    console.print(f"Promise: {limits}, kept by {promise.attainment:.0%}", markup=False)
    print_table(_rung_table(plan))
    if plan.fleets:
        print_table(_fleet_table(plan.fleets))
    for planned in plan.rungs:
        if planned.changes:
            print_table(_change_table(planned))
    for problem in plan.problems:
        console.print(problem, style="bold red", markup=False)
    for note in (*plan.notes, *notes):
        console.print(note, style="dim", markup=False)


def _rung_table(plan: Plan) -> Table:
    table = Table(title="One replica of each rung")
    titles = (
        "rung",
        "memory",
        "peak measured",
        *_PARTS,
        "fits",
        "at a time",
        "TTFT",
        "TPOT",
        "good requests/s",
        "speed is",
    )
    for title in titles:
        table.add_column(title.replace("_", " "), justify="left" if title == "rung" else "right", no_wrap=True)
    for planned in plan.rungs:
        fit, speed = planned.fit, planned.speed
        parts = fit.memory.device if fit.place != "memory" else fit.memory.host
        row = [f"{planned.rung.name}@{planned.rung.settings.engine}", shown(fit.needed)]
        row.append("" if planned.rung.measured_peak is None else shown(planned.rung.measured_peak))
        row += [shown(parts[name]) if name in parts else "" for name in _PARTS]
        row.append("yes" if fit.is_fitting else f"{format_bytes(fit.missing_bytes)} too much")
        if isinstance(speed, RungSpeed):
            row += [f"{speed.places.value:g}", f"{speed.ttft_ms.value:.4g} ms", f"{speed.tpot_ms.value:.4g} ms"]
            row += [f"{speed.goodput.value:.4g}", str(speed.goodput.source)]
        else:
            row += ["", "", "", "too slow", ""]
        table.add_row(*row)
    return table


def _fleet_table(fleets: Sequence[Fleet]) -> Table:
    table = Table(title="Replicas for the traffic")
    table.add_column("", no_wrap=True)
    for fleet in fleets:
        table.add_column(fleet.name, justify="right")
    rows = {
        "replicas, spare ones included": [shown(fleet.num_replicas) for fleet in fleets],
        "places in use at the peak": [f"{fleet.staffing.utilisation:.0%}" for fleet in fleets],
        "degraded at the peak": [f"{fleet.degraded_share.value:.0%}" for fleet in fleets],
        "cost a month": [_maybe(fleet.usd_per_month) for fleet in fleets],
        "cost of 1M good tokens": [_maybe(fleet.usd_per_1m_good_tokens) for fleet in fleets],
        "the same in the cloud, a month": [_maybe(fleet.cloud_usd_per_month) for fleet in fleets],
        "break-even, tokens a month": [_maybe(fleet.break_even_tokens_per_month) for fleet in fleets],
        "break-even, use": [_maybe(fleet.break_even_utilisation) for fleet in fleets],
    }
    for name, values in rows.items():
        if any(values):
            table.add_row(name, *values)
    return table


def _change_table(planned: PlannedRung) -> Table:
    table = Table(title=f"What to change for {planned.rung.name}@{planned.rung.settings.engine}")
    table.add_column("change")
    table.add_column("memory then", justify="right", no_wrap=True)
    table.add_column("fits then", justify="right", no_wrap=True)
    for change in planned.changes:
        missing = "yes" if change.is_enough else f"{format_bytes(change.missing_bytes)} too much"
        table.add_row(change.what, format_bytes(change.needed_bytes), missing)
    return table


def _maybe(figure: Figure | None) -> str:
    return "" if figure is None else shown(figure)


def named_figures(request: PlanRequest, plan: Plan) -> Iterator[tuple[str, Figure]]:
    """Every figure of the plan with its path."""
    machine = request.machine
    yield "machine.memory", machine.memory_bytes
    yield "machine.cores", machine.num_cores
    yield "machine.bandwidth", machine.bandwidth
    for kind, figure in machine.flops.items():
        yield f"machine.flops.{kind}", figure
    yield "efficiency", plan.efficiency
    for planned in plan.rungs:
        rung = f"{planned.rung.name}@{planned.rung.settings.engine}"
        yield f"{rung}.weight_bytes", planned.rung.weight_bytes
        for place, parts in (("host", planned.fit.memory.host), ("gpu", planned.fit.memory.device)):
            for name, figure in parts.items():
                yield f"{rung}.{place}.{name}", figure
        if planned.rung.measured_peak is not None:
            yield f"{rung}.measured_peak", planned.rung.measured_peak
        yield f"{rung}.memory", planned.fit.needed
        yield f"{rung}.memory_limit", planned.fit.limit
        yield f"{rung}.kv_token_bytes", planned.fit.memory.kv_token_bytes
        yield f"{rung}.kv_tokens", planned.fit.memory.kv_tokens
        if isinstance(planned.speed, RungSpeed):
            for name in ("places", "ttft_ms", "tpot_ms", "goodput"):
                yield f"{rung}.{name}", getattr(planned.speed, name)
        for name in ("memory_bytes", "startup_budget_s", "startup_s", "drain_s"):
            yield f"{rung}.needs.{name}", getattr(planned.needs, name)
    for fleet in plan.fleets:
        for name, figure in vars(fleet).items():
            if isinstance(figure, Figure):
                yield f"{fleet.name}.{name}", figure


def print_explanation(request: PlanRequest, plan: Plan) -> None:
    """Effects: prints each figure's arithmetic and source on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("\nWhere each figure comes from", style="bold")
    for name, figure in named_figures(request, plan):
        console.print(f"{name} = {shown(figure)} [{figure.source}] {figure.how}", markup=False)


def plan_json(request: PlanRequest, plan: Plan, traffic_source: FigureSource, notes: Sequence[str]) -> str:
    """The plan as one JSON object: figures with value, unit, source and arithmetic."""
    traffic = {**asdict(request.traffic), "source": traffic_source}
    document = {
        "format": _FORMAT,
        "is_possible": plan.is_possible,
        "problems": list(plan.problems),
        "notes": [*plan.notes, *notes],
        "machine": {
            "name": request.machine.name,
            "accelerator": request.machine.accelerator.id if request.machine.accelerator else None,
            "num_accelerators": request.machine.num_accelerators,
        },
        "traffic": traffic,
        "tokens": asdict(request.tokens),
        "promise": asdict(request.promise),
        "rungs": [_rung_json(planned) for planned in plan.rungs],
        "fleets": [asdict(fleet) for fleet in plan.fleets],
        "figures": {name: asdict(figure) for name, figure in named_figures(request, plan)},
    }
    return json.dumps(document, indent=2) + "\n"


def _rung_json(planned: PlannedRung) -> dict[str, Any]:
    return {
        "variant": planned.rung.name,
        "engine": planned.rung.settings.engine,
        "fits": planned.fit.is_fitting,
        "missing_bytes": planned.fit.missing_bytes,
        "keeps_promise": isinstance(planned.speed, RungSpeed),
        "too_slow": None if isinstance(planned.speed, RungSpeed) else planned.speed.reason,
        "needs": asdict(planned.needs),
        "changes": [{**asdict(change), "is_enough": change.is_enough} for change in planned.changes],
    }


def print_hardware(hardware: Hardware) -> None:
    """Effects: prints on standard output."""
    table = Table(show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value")
    for name, value in _hardware_rows(hardware):
        table.add_row(name, escape(value))
    print_table(table)


def _hardware_rows(hardware: Hardware) -> Iterator[tuple[str, str]]:
    yield "CPU", f"{hardware.cpu_model} ({hardware.architecture})"
    yield "instruction sets", ", ".join(hardware.instruction_sets) or "none that engines have kernels for"
    yield "cores", f"{hardware.num_cores}, {hardware.threads_per_core} hardware thread(s) each"
    quota = "no limit of its control group" if hardware.cpu_quota is None else f"control group: {hardware.cpu_quota:g}"
    yield "usable", f"{hardware.usable_cores:g} cores ({hardware.num_usable_cpus} processors, {quota})"
    caches = (f"L{c.level} {c.kind.lower()} {format_bytes(c.num_bytes)} x {c.count}" for c in hardware.caches)
    yield "caches", ", ".join(caches) or "not told"
    nodes = (f"{n.number}: {n.num_cpus} processors, {format_bytes(n.memory_bytes)}" for n in hardware.numa_nodes)
    yield "NUMA nodes", "; ".join(nodes) or "not told"
    limit = (
        "" if hardware.memory_limit_bytes is None else f", control group: {format_bytes(hardware.memory_limit_bytes)}"
    )
    yield "memory", f"{format_bytes(hardware.memory_bytes)}{limit}"
    if hardware.bandwidth_bytes_per_s is not None:
        yield "memory bandwidth", f"{hardware.bandwidth_bytes_per_s / 1e9:.1f} GB/s, measured reading with all cores"
    if hardware.flops_per_s is not None:
        yield "arithmetic", f"{hardware.flops_per_s / 1e9:.0f} GFLOP/s, measured in float32"
    for gpu in hardware.gpus:
        detail = f"{format_bytes(gpu.memory_bytes)}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield "GPU", f"{gpu.name}, {detail}"
    if hardware.gpu_note:
        yield "GPUs", hardware.gpu_note


def hardware_json(hardware: Hardware) -> str:
    """The machine as one JSON object."""
    derived = {"usable_cores": hardware.usable_cores, "usable_memory_bytes": hardware.usable_memory_bytes}
    return json.dumps({"format": "lightship-hardware", **asdict(hardware), **derived}, indent=2) + "\n"
