"""The plan: does each rung fit, how fast is it, how many replicas, what do they cost, what to change. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightship.errors import UsageError
from lightship.planning.accelerators import Accelerator
from lightship.planning.fitting import Change, Fit, changes, fit
from lightship.planning.fleet import BreakEven, Fleet, plan_fleets
from lightship.planning.needs import replica_needs
from lightship.planning.records import PlanRequest, RungToPlan
from lightship.planning.speed import RungSpeed, TooSlow, plan_speed, reached_efficiency
from lightship.ports.deployment import Figure, ReplicaNeeds
from lightship.units import format_bytes


@dataclass(frozen=True)
class PlannedRung:
    """One rung: its memory, its speed or why it has none within the promise, and what a replica takes.

    `changes` are there where it does not fit.
    """

    rung: RungToPlan
    fit: Fit
    speed: RungSpeed | TooSlow
    needs: ReplicaNeeds
    changes: tuple[Change, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether it fits and keeps the promise."""
        return self.fit.is_fitting and isinstance(self.speed, RungSpeed)


@dataclass(frozen=True)
class Plan:
    """All of it. `problems` says, a sentence each, why the request cannot be met; `fleets` is empty then.

    `efficiency` is the share of the roofline that rungs without measurements are taken to reach.
    """

    rungs: tuple[PlannedRung, ...]
    fleets: tuple[Fleet, ...]
    efficiency: Figure
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_possible(self) -> bool:
        """Whether the top rung fits and keeps the promise."""
        return not self.problems


def plan(
    request: PlanRequest, *, accelerators: Sequence[Accelerator] = (), break_even: BreakEven | None = None
) -> Plan:
    """What the request comes to.

    Args:
        request: Rungs, machine, traffic, promise and prices.
        accelerators: That may be suggested in place of the machine's.
        break_even: How the volume is found from which the fleet is cheaper than the cloud.

    Raises:
        UsageError: an engine that cannot run the variant there; figures that make no sense.
        MeasurementError: an engine's storage of keys and values is not known.
    """
    _check(request)
    fits = [fit(rung, request.machine) for rung in request.rungs]
    request = replace(request, efficiency=reached_efficiency(request, [found.memory for found in fits]))
    rungs = tuple(_planned(rung, found, request, accelerators) for rung, found in zip(request.rungs, fits, strict=True))
    problems = tuple(problem for planned in rungs[:1] for problem in _problems(planned))
    notes = tuple(f"Left out of the ladder: {problem}" for planned in rungs[1:] for problem in _problems(planned))
    fleets: tuple[Fleet, ...] = ()
    if not problems:
        speeds = [planned.speed for planned in rungs if planned.is_usable and isinstance(planned.speed, RungSpeed)]
        fleets = plan_fleets(request, speeds, break_even)
    return Plan(rungs, fleets, request.efficiency, problems, notes)


def _check(request: PlanRequest) -> None:
    if not request.rungs:
        raise UsageError("there is no variant to plan", where="plan")
    for name, value in (("--prompt-tokens", request.tokens.prompt), ("--output-tokens", request.tokens.output)):
        if not 1 <= value <= 10**8:
            raise UsageError(f"{value:g} tokens; a request has at least 1", where=name)
    if not 0 < request.efficiency.value <= 1:
        raise UsageError(f"{request.efficiency.value:g} is no share", where="--efficiency", hint="Write it like 0.5.")
    total = request.tokens.prompt + request.tokens.output
    for rung in request.rungs:
        if total > rung.settings.context_length:
            raise UsageError(
                f"requests of {total:g} tokens do not fit the context of {rung.settings.context_length}",
                where=f"{rung.name}@{rung.settings.engine}",
                hint="Lower --prompt-tokens or --output-tokens, or take a model with a longer context.",
            )


def _planned(rung: RungToPlan, found: Fit, request: PlanRequest, accelerators: Sequence[Accelerator]) -> PlannedRung:
    speed = plan_speed(rung, request, found.memory)
    tpot_ms = speed.tpot_ms.value if isinstance(speed, RungSpeed) and speed.tpot_ms.value else request.promise.tpot_ms
    machine = request.machine
    needs = replica_needs(
        rung,
        num_cores=machine.num_cores,
        read_bytes_per_s=machine.read_bytes_per_s,
        accelerator=machine.accelerator.id if machine.accelerator else "",
        gpus_per_machine=machine.num_accelerators,
        tpot_ms=tpot_ms,
        request_timeout_s=request.request_timeout_s,
        memory=found.memory,
    )
    suggested = () if found.is_fitting else changes(rung, machine, accelerators)
    return PlannedRung(rung, found, speed, needs, suggested)


def _problems(planned: PlannedRung) -> list[str]:
    name = f"{planned.rung.name}@{planned.rung.settings.engine}"
    problems = []
    found = planned.fit
    if not found.is_fitting:
        enough = next((change for change in planned.changes if change.is_enough), None)
        what = f"; what would fit: {enough.what}" if enough else "; no single change is enough"
        problems.append(
            f"{name} does not fit: it takes {format_bytes(found.needed.value)} of {found.place}, "
            f"{found.missing_bytes:.0f} bytes ({format_bytes(found.missing_bytes)}) more than "
            f"{format_bytes(found.limit.value)}{what}."
        )
    if isinstance(planned.speed, TooSlow):
        remedy = (
            "no engine can; relax the promise, shorten the requests, or take fewer bits or faster hardware"
            if planned.speed.is_beyond_roofline
            else "measure it (`lightship up`), or relax the promise"
        )
        problems.append(f"{name} cannot keep the promise: {planned.speed.reason}; {remedy}.")
    return problems
