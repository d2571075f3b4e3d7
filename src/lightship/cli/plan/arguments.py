"""What the options of `plan` say of traffic, promise and prices."""

from __future__ import annotations

import argparse
import math
import re

from lightship.cli.optimize.arguments import parse_slo
from lightship.errors import UsageError
from lightship.planning.capacity import Traffic, traffic_of_users
from lightship.planning.latency import Promise
from lightship.ports.deployment import Figure, FigureSource
from lightship.spec.document import Spec
from lightship.units import parse_bytes

_RATE = re.compile(
    r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|inf|nan))\s*(?:/\s*(s|min|h|d))?\s*", re.IGNORECASE
)
_PER_S = {None: 1.0, "s": 1.0, "min": 1 / 60, "h": 1 / 3600, "d": 1 / 86_400}
_DEFAULT_RATE = "1/s"
_DEFAULT_EFFICIENCY = 0.5


def parse_requests(option: str, text: str) -> float:
    """Requests per second in `5/s`, `90/min`, `1000/h` or `20000/d`.

    >>> parse_requests("--rate", "90/min")
    1.5

    Raises: UsageError: something else, or not finite and above 0.
    """
    found = _RATE.fullmatch(text)
    rate = float(found[1]) * _PER_S[found[2] and found[2].lower()] if found else math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(
            f"{text!r} is no rate of requests: it must be finite and above 0",
            where=option,
            hint="Write it like 5/s, 90/min or 20000/d.",
        )
    return rate


def traffic_of(args: argparse.Namespace) -> tuple[Traffic, FigureSource]:
    """The traffic, and whether it was given or assumed.

    Raises: UsageError: figures that make no sense, or that say it in two ways.
    """
    if args.users is not None or args.requests_per_user_day is not None:
        if args.users is None or args.requests_per_user_day is None or args.rate is not None:
            hint = "Give --users and --requests-per-user-day together, or --rate alone."
            raise UsageError("the traffic is said by half, or twice", where="traffic", hint=hint)
        for name, value in (("--users", args.users), ("--requests-per-user-day", args.requests_per_user_day)):
            positive(name, value)
        traffic = traffic_of_users(
            users=args.users,
            requests_per_user_day=args.requests_per_user_day,
            peak_factor=positive("--peak-factor", args.peak_factor),
            peak_hours=args.peak_hours,
        )
    else:
        mean = parse_requests("--rate", args.rate or _DEFAULT_RATE)
        traffic = Traffic(mean, mean * positive("--peak-factor", args.peak_factor), args.peak_hours)
    if args.peak is not None:
        traffic = Traffic(traffic.mean_requests_per_s, parse_requests("--peak", args.peak), args.peak_hours)
    is_given = args.rate is not None or args.users is not None
    return traffic, FigureSource.GIVEN if is_given else FigureSource.ASSUMED


def promise_of(args: argparse.Namespace, spec: Spec) -> Promise:
    """The options' limits over the spec's. Raises: UsageError: limits that are not understood."""
    limits = parse_slo(args.slo) if args.slo else {}
    return Promise(
        limits.get("slo.ttft_ms", spec.slo.ttft_ms), limits.get("slo.tpot_ms", spec.slo.tpot_ms), spec.slo.attainment
    )


def cloud_price_of(text: str) -> tuple[float, float]:
    """Dollars per million prompt and output tokens in `0.15/0.60`.

    Raises: UsageError: something else.
    """
    try:
        prompt, output = (float(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"{text!r} is no pair of prices", where="--cloud-price", hint="Write 0.15/0.60.") from error
    if not (math.isfinite(prompt + output) and prompt >= 0 and output > 0):
        raise UsageError(f"{text!r}: prices must be finite and not below 0", where="--cloud-price")
    return prompt, output


def efficiency_of(args: argparse.Namespace) -> Figure:
    """The share of the roofline that is taken to be reached."""
    if args.efficiency is None:
        how = "a rule of thumb until something is measured (--efficiency)"
        return Figure(_DEFAULT_EFFICIENCY, "of the roofline", FigureSource.ASSUMED, how)
    if not 0 < args.efficiency <= 1:
        raise UsageError(f"{args.efficiency:g} is no share", where="--efficiency", hint="Write it like 0.5.")
    return Figure(args.efficiency, "of the roofline", FigureSource.GIVEN, "--efficiency")


def positive(option: str, value: float) -> float:
    """The value. Raises: UsageError: it is not finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{value:g} must be finite and above 0", where=option)
    return value


def memory_of(text: str) -> int:
    """Bytes. Raises: UsageError: not a size above 0."""
    try:
        num_bytes = parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no size: {error}", where="--memory", hint="Write it like '64 GiB'.") from error
    return int(positive("--memory", num_bytes))
