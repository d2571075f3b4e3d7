"""What the options of `optimize` say: a spec with them in place, and the budget of the search."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightship.cli.load_spec import load_spec
from lightship.compression.search.records import Budget
from lightship.errors import UsageError
from lightship.spec.document import Spec
from lightship.spec.load import Origin
from lightship.units import parse_bytes, parse_duration_s

_ENGINES = ("openvino", "vllm", "llamacpp")
_SLO_NAMES = {"ttft": "slo.ttft_ms", "tpot": "slo.tpot_ms"}
_PROTOCOL = "measurement.protocol"
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:/\s*(s|min))?\s*")
_PER_S = {None: 1.0, "s": 1.0, "min": 1 / 60}


@dataclass(frozen=True)
class SearchOptions:
    """What a search is asked for.

    Args:
        spec: Under which candidates are measured.
        engines: That may serve.
        recipes: Names of those that are let in; None for all.
        tasks: Files of tasks that decide on finalists; without any, the prediction of text does.
        limit: Most items of each task; None for all.
    """

    spec: Spec
    budget: Budget
    engines: tuple[str, ...]
    recipes: tuple[str, ...] | None
    tasks: tuple[Path, ...]
    limit: int | None


def search_options(args: argparse.Namespace) -> SearchOptions:
    """The options, checked, over the spec that they change.

    Raises: UsageError: an option that makes no sense. SpecError: the spec is not acceptable.
    """
    overrides = [*_overrides(args), *args.overrides]
    loaded = load_spec(argparse.Namespace(file=args.file, overrides=overrides))
    if loaded.origins[_PROTOCOL] is Origin.DEFAULT:  # many are sorted; `up` measures what it serves for longer
        overrides.append("measurement.protocol=screening")
        loaded = load_spec(argparse.Namespace(file=args.file, overrides=overrides))
    spec = loaded.spec
    time_budget_s = _parsed("--time", args.time, parse_duration_s)
    budget = Budget(
        quality_floor=spec.quality.floor,
        time_budget_s=time_budget_s,
        max_bytes=None if args.budget is None else int(_parsed("--budget", args.budget, parse_bytes)),
        ttft_ms=spec.slo.ttft_ms,
        tpot_ms=spec.slo.tpot_ms,
        rate_per_s=None if args.rate is None else parse_rate(args.rate),
        concurrency=spec.measurement.target_concurrency,
    )
    recipes = None if args.recipes is None else _names("--recipes", args.recipes)
    engines = spec.engines.enabled if args.engines is None else _names("--engines", args.engines)
    if args.limit is not None and (args.limit < 1 or not args.task):
        hint = "Name a task with --task." if not args.task else None
        raise UsageError(f"{args.limit} items of no task" if hint else "must be at least 1", where="--limit", hint=hint)
    return SearchOptions(spec, budget, engines, recipes, tuple(args.task), args.limit)


def parse_rate(text: str) -> float:
    """Requests per second in `2/s`, `90/min` or `2`.

    >>> parse_rate("90/min")
    1.5

    Raises: UsageError: something else, or not above 0.
    """
    found = _RATE.fullmatch(text)
    rate_per_s = float(found[1]) * _PER_S[found[2]] if found else 0.0
    if rate_per_s <= 0:
        raise UsageError(f"{text!r} is no rate", where="--rate", hint="Write it like 2/s or 90/min.")
    return rate_per_s


def parse_slo(text: str) -> dict[str, float]:
    """Milliseconds by spec path in `ttft=400ms,tpot=40ms`.

    >>> parse_slo("tpot=0.04s")
    {'slo.tpot_ms': 40.0}

    Raises: UsageError: another name, a limit without unit or not above 0, or one that is given twice.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _SLO_NAMES or _SLO_NAMES[name] in limits or not value or value[-1].isdigit():
            raise UsageError(f"{part.strip()!r} is no limit", where="--slo", hint="Write ttft=400ms,tpot=40ms.")
        limits[_SLO_NAMES[name]] = 1000 * _parsed("--slo", value, parse_duration_s)
    return limits


def _overrides(args: argparse.Namespace) -> list[str]:
    """Values of the spec that the options state."""
    overrides = []
    if args.model is not None:
        overrides.append(f"model.source={args.model}")
    if args.floor is not None:
        if not 0 < args.floor <= 1:
            raise UsageError(f"{args.floor:g} is no share", where="--floor", hint="Write it like 0.97.")
        overrides.append(f"quality.floor={args.floor}")
    if args.slo is not None:
        overrides += [f"{path}={value:g}" for path, value in parse_slo(args.slo).items()]
    if args.engines is not None:
        overrides += _engine_overrides(_names("--engines", args.engines))
    return overrides


def _engine_overrides(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in _ENGINES]
    if unknown:
        raise UsageError(f"there is no engine {unknown[0]!r}", where="--engines", hint=f"Known: {', '.join(_ENGINES)}.")
    return [f"engines.{name}={{}}" for name in names if name != "openvino"]


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError("no name is given", where=option)
    return names


def _parsed(option: str, text: str, parse: object) -> float:
    try:
        value = float(parse(text))  # type: ignore[operator]
    except ValueError as error:
        raise UsageError(f"{text!r} is not understood: {error}", where=option) from error
    if value <= 0:
        raise UsageError(f"{text!r} is not above 0", where=option)
    return value
