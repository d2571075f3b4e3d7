"""The figures by which (variant, target) pairs compete, collected from measurements. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from lightship.errors import MeasurementError
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.ports.variants import Manifest


@dataclass(frozen=True)
class Candidate:
    """One (variant, target) pair with what frontier and ladder judge it by.

    `quality_recovery` is the share of the reference's quality that is kept (1 for the reference). Speed and cost are
    taken at the target concurrency; cost is per million output tokens of requests that met the SLO. A figure that is
    not known is None, and counts as the worst possible.
    """

    name: str
    variant_digest: str
    target: Target
    is_reference: bool
    quality_recovery: float
    quality_interval: Interval | None
    goodput_requests_per_s: float
    goodput_interval: Interval | None
    tokens_per_s: float
    tokens_interval: Interval | None
    size_bytes: int
    memory_bytes: float | None = None
    cost_usd_per_1m_tokens: float | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError: a figure that has no place in an order."""
        figures = (self.quality_recovery, self.goodput_requests_per_s, self.tokens_per_s, float(self.size_bytes))
        optional = (self.memory_bytes, self.cost_usd_per_1m_tokens)
        for figure in (*figures, *(one for one in optional if one is not None)):
            if not math.isfinite(figure) or figure < 0:
                raise ValueError(f"{self.name}: {figure} is not a finite figure >= 0")


@dataclass(frozen=True)
class Unranked:
    """A pair that cannot compete, and why."""

    name: str
    variant_digest: str
    reason: str


@dataclass(frozen=True)
class CandidateSet:
    """Pairs that compete and pairs that cannot yet."""

    candidates: tuple[Candidate, ...]
    unranked: tuple[Unranked, ...]


@dataclass(frozen=True)
class PairFigures:
    """The newest measurement of each (metric, concurrency) of one pair."""

    name: str
    manifest: Manifest
    target: Target
    newest: Mapping[tuple[Metric, int], Measurement]

    def get(self, metric: Metric, concurrency: int = 0) -> Measurement | None:
        """The measurement, or None."""
        return self.newest.get((metric, concurrency))


def collect_pairs(manifests: Iterable[Manifest], measurements: Iterable[Measurement]) -> tuple[PairFigures, ...]:
    """Every measured pair of the given variants, by name. Measurements of other variants are left out.

    A pair is called `variant@engine`; where that names several, what their targets differ in is added.
    """
    by_digest = {manifest.digest: manifest for manifest in manifests}
    figures: dict[tuple[str, bytes], dict[tuple[Metric, int], Measurement]] = {}
    for one in sorted(measurements, key=lambda one: one.measured_unix_s):
        if one.variant_digest in by_digest:
            newest = figures.setdefault((one.variant_digest, _target_key(one.target)), {})
            newest[one.metric, one.concurrency] = one
    pairs = [
        PairFigures("", by_digest[digest], next(iter(newest.values())).target, newest)
        for (digest, _), newest in sorted(figures.items())
    ]
    return tuple(sorted(_with_names(pairs), key=lambda pair: pair.name))


def _target_key(target: Target) -> bytes:
    return msgspec.json.encode(target, order="deterministic")


def _with_names(pairs: Sequence[PairFigures]) -> list[PairFigures]:
    plain = [f"{pair.manifest.name}@{pair.target.engine}" for pair in pairs]
    groups = {name: [pair.target for pair, own in zip(pairs, plain, strict=True) if own == name] for name in plain}
    details = [
        _differing_words(pair.target, groups[name]) if len(groups[name]) > 1 else ""
        for pair, name in zip(pairs, plain, strict=True)
    ]
    num_uses = Counter(zip(plain, details, strict=True))
    named = []
    for pair, name, words in zip(pairs, plain, details, strict=True):
        parts = [words, _digest_words(pair) if num_uses[name, words] > 1 else ""]
        shown = ", ".join(part for part in parts if part)
        named.append(replace(pair, name=f"{name} ({shown})" if shown else name))
    return named


def _differing_words(target: Target, others: Sequence[Target]) -> str:
    """Device, threads and settings in which the targets differ; "" where there is one, or they differ in none."""
    traits = [_traits(one) for one in others]
    own = _traits(target)
    return ", ".join(words for name, words in own.items() if any(one.get(name) != words for one in traits))


def _traits(target: Target) -> dict[str, str]:
    settings = {key: f"{key}={value}" for key, value in sorted(target.settings.items())}
    return {"device": target.device, "threads": f"{target.num_threads} threads", **settings}


def _digest_words(pair: PairFigures) -> str:
    return f"{pair.manifest.short_digest}, {pair.target.engine_version}, {pair.target.instruction_set}"


def build_candidates(
    manifests: Iterable[Manifest],
    measurements: Iterable[Measurement],
    *,
    reference_digest: str,
    concurrency: int,
    reference_target: Target | None = None,
    refusals: Mapping[str, str] = MappingProxyType({}),
) -> CandidateSet:
    """The pairs that have every figure needed, and those that lack one or are refused.

    Args:
        manifests: Variants to consider.
        measurements: All that is known of them; the newest figure of each kind counts.
        reference_digest: The variant that quality is measured against; its recovery is 1 by definition.
        concurrency: Load at which speed is compared.
        reference_target: Where the reference runs, if the same variant competes with other settings, too.
        refusals: Why variants may not compete although they are measured, by digest: sentences. The reference always
            may, as the others are measured against it.

    Raises: MeasurementError: figures come from different protocols or machines, so they must not be compared.
    """
    ranked: list[tuple[PairFigures, Candidate]] = []
    unranked: list[Unranked] = []
    for pair in collect_pairs(manifests, measurements):
        is_there = reference_target is None or pair.target == reference_target
        is_reference = pair.manifest.digest == reference_digest and is_there
        quality = pair.get(Metric.QUALITY_RECOVERY)
        if quality is not None and quality.reference_digest != reference_digest:
            quality = None
        goodput = pair.get(Metric.GOODPUT_REQUESTS_PER_S, concurrency)
        tokens = pair.get(Metric.DECODE_TOKENS_PER_S, concurrency)
        memory = pair.get(Metric.PEAK_RSS_BYTES)
        cost = pair.get(Metric.COST_USD_PER_1M_GOOD_TOKENS, concurrency)
        if goodput is None or tokens is None or (quality is None and not is_reference):
            lacking = {"goodput": goodput, "tokens/s": tokens, "quality": quality or is_reference or None}
            words = ", ".join(word for word, figure in lacking.items() if figure is None)
            reason = f"Not measured yet at {concurrency} concurrent requests: {words}."
            unranked.append(Unranked(pair.name, pair.manifest.digest, reason))
            continue
        if pair.manifest.digest in refusals and not is_reference:
            unranked.append(Unranked(pair.name, pair.manifest.digest, refusals[pair.manifest.digest]))
            continue
        candidate = Candidate(
            name=pair.name,
            variant_digest=pair.manifest.digest,
            target=pair.target,
            is_reference=is_reference,
            quality_recovery=1.0 if is_reference or quality is None else quality.value,
            quality_interval=None if is_reference or quality is None else quality.interval,
            goodput_requests_per_s=goodput.value,
            goodput_interval=goodput.interval,
            tokens_per_s=tokens.value,
            tokens_interval=tokens.interval,
            size_bytes=pair.manifest.num_bytes,
            memory_bytes=memory.value if memory else None,
            cost_usd_per_1m_tokens=cost.value if cost else None,
        )
        ranked.append((pair, candidate))
    _refuse_incomparable([pair for pair, _ in ranked], concurrency)
    return CandidateSet(tuple(candidate for _, candidate in ranked), tuple(unranked))


def _refuse_incomparable(pairs: Sequence[PairFigures], concurrency: int) -> None:
    _refuse_mixed_bases(pairs, concurrency)
    for metric, users in (
        (Metric.QUALITY_RECOVERY, 0),
        (Metric.GOODPUT_REQUESTS_PER_S, concurrency),
        (Metric.DECODE_TOKENS_PER_S, concurrency),
    ):
        found = [(pair.name, one) for pair in pairs if (one := pair.get(metric, users)) is not None]
        for name, one in found[1:]:
            first_name, first = found[0]
            if metric is Metric.QUALITY_RECOVERY and first.target.engine != one.target.engine:
                continue  # each engine has its own way to score; recovery is relative to the reference there
            if (one.protocol, one.machine) != (first.protocol, first.machine):
                raise MeasurementError(
                    f"{metric} of {first_name} is from {first.protocol!r} on machine {first.machine}, that of {name} "
                    f"from {one.protocol!r} on {one.machine}; they must not be compared",
                    hint="Measure both under one protocol on one machine.",
                )


def _refuse_mixed_bases(pairs: Sequence[PairFigures], concurrency: int) -> None:
    """Prices may differ from pair to pair, but not what they pay for: idle time, or only busy time."""
    found = [(pair.name, one) for pair in pairs if (one := pair.get(Metric.COST_USD_PER_1M_GOOD_TOKENS, concurrency))]
    for name, one in found[1:]:
        first_name, first = found[0]
        if _cost_basis(one) != _cost_basis(first):
            raise MeasurementError(
                f"{one.metric} of {first_name} is on the basis {_cost_basis(first)!r}, that of {name} on "
                f"{_cost_basis(one)!r}; they must not be compared",
                hint="State a utilisation for both, or for none.",
            )


def _cost_basis(cost: Measurement) -> str:
    """Version and basis, the first two parts of the protocol: `cost-1/allocation`."""
    return "/".join(cost.protocol.split("/")[:2])
