"""Runs `lightship plan`: gathers what it is about, makes the plan, prints it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import date

from lightship.artifacts.machine import this_machine
from lightship.cli.load_spec import load_spec
from lightship.cli.plan.arguments import cloud_price_of, efficiency_of, positive, promise_of, traffic_of
from lightship.cli.plan.machine import machine_of
from lightship.cli.plan.rungs import rungs_of
from lightship.cli.plan.tables import hardware_json, plan_json, print_explanation, print_hardware, print_plan
from lightship.cli.prepare import surroundings
from lightship.compression.machine_speed import measure_machine_speed
from lightship.errors import ToolchainError, UsageError
from lightship.evaluation.cost.break_even import break_even
from lightship.evaluation.cost.hourly import hourly_price
from lightship.evaluation.cost.per_token import Throughput, TokenRate
from lightship.evaluation.cost.prices import load_prices, utc_day
from lightship.planning.accelerators import load_accelerators
from lightship.planning.hardware import Hardware, detect_hardware
from lightship.planning.latency import Tokens
from lightship.planning.plan import plan
from lightship.planning.records import PlanRequest, Prices, RungToPlan
from lightship.ports.deployment import Figure, FigureSource
from lightship.spec.document import Spec

# What is read to measure this machine's memory where no model says how much: more than its caches hold.
_WORKING_SET_BYTES = 2**28


def run_plan(args: argparse.Namespace) -> int:
    """Prints the plan; 1 where it is not possible.

    Raises: LightshipError: of whatever makes no sense.
    Effects: reads the store; measures this machine's memory for some seconds where it is planned for.
    """
    hardware = detect_hardware()
    if args.hardware:
        return _show_hardware(args, hardware)
    spec = _spec(args)
    around = surroundings()
    promise = promise_of(args, spec)
    traffic, traffic_source = traffic_of(args)
    prices = _prices(args, spec, utc_day(around.clock.unix_s()))
    efficiency = efficiency_of(args)
    if args.spare < 0:
        raise UsageError(f"{args.spare} spare replicas", where="--spare", hint="Write 0 or more.")
    rungs, notes = rungs_of(args, spec, promise, this_machine(), around)
    if not rungs:
        raise UsageError("no variant can be planned", where="variants", hint=" ".join(notes) or None)
    if args.bandwidth is not None or args.tflops is not None or args.cores is not None:
        rungs, elsewhere = _unmeasured(rungs)
        notes += elsewhere
    request = PlanRequest(
        rungs=rungs,
        machine=machine_of(args, hardware, working_set_bytes=int(rungs[0].weight_bytes.value)),
        traffic=traffic,
        tokens=Tokens(args.prompt_tokens, args.output_tokens),
        promise=promise,
        efficiency=efficiency,
        degraded_budget=0.0 if spec.quality.budget is None else spec.quality.budget.degraded_requests,
        num_spare=args.spare,
        request_timeout_s=spec.gateway.timeouts.total_s,
        prices=prices,
    )
    made = plan(request, accelerators=load_accelerators(), break_even=_break_even)
    if args.json:
        sys.stdout.write(plan_json(request, made, traffic_source, notes))
        return 0 if made.is_possible else 1
    print_plan(request, made, traffic_source, notes)
    if args.explain:
        print_explanation(request, made)
    return 0 if made.is_possible else 1


def _unmeasured(rungs: tuple[RungToPlan, ...]) -> tuple[tuple[RungToPlan, ...], list[str]]:
    """The rungs without what was measured here, for a machine that is described otherwise."""
    if not any(rung.loads or rung.measured_peak for rung in rungs):
        return rungs, []
    note = "What was measured here is left out: --bandwidth, --tflops or --cores describe another machine."
    return tuple(replace(rung, loads=(), measured_peak=None) for rung in rungs), [note]


def _show_hardware(args: argparse.Namespace, hardware: Hardware) -> int:
    try:
        speed = measure_machine_speed(working_set_bytes=_WORKING_SET_BYTES)
    except ToolchainError as error:  # numpy comes with the extra that engines need; the rest is told without it
        sys.stderr.write(f"{error}\n")
    else:
        hardware = replace(hardware, bandwidth_bytes_per_s=speed.bandwidth_bytes_per_s, flops_per_s=speed.flops_per_s)
    if args.json:
        sys.stdout.write(hardware_json(hardware))
    else:
        print_hardware(hardware)
    return 0


def _spec(args: argparse.Namespace) -> Spec:
    overrides = list(args.overrides)
    if args.model is not None:
        if args.model_shape is not None:
            raise UsageError("MODEL and --model-shape both name a model", where="plan", hint="Keep one of the two.")
        overrides.append(f"model.source={args.model}")
    return load_spec(argparse.Namespace(file=args.file, overrides=overrides)).spec


def _prices(args: argparse.Namespace, spec: Spec, today: date) -> Prices:
    listed = load_prices()
    price = None
    if args.price is not None:
        price = Figure(positive("--price", args.price), "USD/h", FigureSource.GIVEN, "--price")
    else:
        hourly = hourly_price(spec.cost, listed, today)
        if hourly is not None:
            source = FigureSource.VENDOR if spec.cost.instance is not None else FigureSource.GIVEN
            price = Figure(hourly.usd_per_hour, "USD/h", source, hourly.origin)
    compared = spec.cost.compare_with
    if args.cloud_price is not None:
        return Prices(price, *cloud_price_of(args.cloud_price))
    if compared.api is not None:
        entry = listed.api(compared.api)
        return Prices(price, entry.input_usd_per_1m_tokens, entry.output_usd_per_1m_tokens)
    return Prices(price, compared.input_usd_per_1m_tokens, compared.output_usd_per_1m_tokens)


def _break_even(
    *, usd_per_hour: float, prompt_tokens_per_s: float, output_tokens_per_s: float, prices: Prices
) -> tuple[float, float]:
    found = break_even(
        Throughput(TokenRate(output_tokens_per_s), TokenRate(prompt_tokens_per_s)),
        usd_per_hour=usd_per_hour,
        input_usd_per_1m_tokens=prices.cloud_input_usd_per_1m or 0.0,
        output_usd_per_1m_tokens=prices.cloud_output_usd_per_1m or 0.0,
    )
    return found.tokens_per_month, found.needed_utilisation
