"""The rules that reject before tasks are evaluated: bounds from the roofline, and limits on divergence. Pure.

They are generous on purpose. A figure on text or a bound on speed says little about two good candidates, and a lot
about a hopeless one: these rules only ever remove the hopeless.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lightship.artifacts.roofline import Roofline
from lightship.compression.search.records import Budget, Proposal, QualityFigures
from lightship.units import format_bytes

# The estimate of bytes is of matrices; what engines pad, tie or leave in 16 bits moves it by a few per cent.
_BYTES_TRUST = 0.9
# The machine's speed is measured in a second beside whatever else runs, and may come out too low by a third.
SLO_MARGIN = 1.5
# Within one engine, a ratio of measured speeds fell short of the ratio of bytes by up to 2.4 (OpenVINO, 8-bit against
# 16-bit weights, 32 requests: 1.95 times fewer bytes, 0.82 times as fast). Only a larger ratio survives that.
DOMINATION_MARGIN = 2.5
# Calibration can take this much off the loss of rounding: perplexity of Phi-3-mini in 4 bits 5.34 rounded to nearest
# and 4.47 with scale estimation, 4.17 uncompressed: ln(5.34/4.17) / ln(4.47/4.17) = 3.6 (figures of NNCF). A cheap
# candidate whose divergence is beyond it cannot be rescued by its dearer relatives.
DIVERGENCE_SLACK = 4.0


def roofline_rejection(proposal: Proposal, others: Iterable[Proposal], budget: Budget) -> str | None:
    """Why this candidate cannot succeed, whatever is measured; None where it may."""
    if proposal.roofline is None:
        return None
    return (
        _too_many_bytes(proposal.roofline, budget)
        or _too_slow(proposal, budget)
        or next((reason for other in others if (reason := _domination(proposal, other))), None)
    )


def _too_many_bytes(roofline: Roofline, budget: Budget) -> str | None:
    if budget.max_bytes is None or _BYTES_TRUST * roofline.weight_bytes <= budget.max_bytes:
        return None
    return f"about {format_bytes(roofline.weight_bytes)} of weights, and the budget is {format_bytes(budget.max_bytes)}"


def _too_slow(proposal: Proposal, budget: Budget) -> str | None:
    """Judged for one request alone on the machine: a promise that cannot be kept then cannot be kept at all."""
    alone = proposal.alone
    if alone is None:
        return None
    for word, best_ms, promise_ms in (
        ("time per output token", alone.tpot_ms, budget.tpot_ms),
        ("time to the first token", alone.ttft_ms, budget.ttft_ms),
    ):
        if promise_ms is not None and best_ms > SLO_MARGIN * promise_ms:
            return (
                f"at best {best_ms:.3g} ms of {word} even for a request alone, and the promise is {promise_ms:g} ms "
                f"(bytes and arithmetic over what this machine does, over {SLO_MARGIN:g} times the promise)"
            )
    return None


def _domination(mine: Proposal, other: Proposal) -> str | None:
    """Whether `other` cannot be worse in quality, is no larger, and is faster beyond doubt."""
    if other is mine or mine.roofline is None or other.roofline is None:
        return None
    if mine.nominal_bits is None or other.nominal_bits is None:
        return None
    is_alike = mine.candidate.engine == other.candidate.engine and mine.candidate.settings == other.candidate.settings
    is_no_worse = other.nominal_bits >= mine.nominal_bits
    is_no_larger = other.roofline.weight_bytes <= mine.roofline.weight_bytes
    ratio = other.roofline.tokens_per_s / mine.roofline.tokens_per_s
    if is_alike and is_no_worse and is_no_larger and ratio > DOMINATION_MARGIN:
        return (
            f"{other.candidate.name} has as many bits a weight, no more bytes, and can be {ratio:.1f} times as fast "
            f"(over {DOMINATION_MARGIN:g} counts)"
        )
    return None


def divergence_limit(reference: QualityFigures, quality_floor: float) -> float | None:
    """Most divergence from the reference, in nats per token, that a candidate worth more work can have.

    Where text is what the reference expects, a divergence of d nats costs d nats of cross-entropy. Recovery is the
    ratio of the two cross-entropies, so the floor f allows (1/f - 1) times the reference's. On top of that comes the
    reference's own noise, and `DIVERGENCE_SLACK` for what calibration can win.
    """
    if reference.nats_per_token is None:
        return None
    return (reference.kl_nats or 0.0) + DIVERGENCE_SLACK * reference.nats_per_token * (1 / quality_floor - 1)


def agreement_limit(reference: QualityFigures, quality_floor: float) -> float | None:
    """Least share of positions with the reference's most likely token.

    A divergence of d nats moves at most sqrt(d/2) of the probability (Pinsker's inequality); were all of it taken from
    most likely tokens, so much of the agreement would be gone.
    """
    limit = divergence_limit(reference, quality_floor)
    if limit is None:
        return None
    noise = 1.0 if reference.top1_agreement is None else reference.top1_agreement
    return max(0.0, noise - math.sqrt(limit / 2))


def divergence_rejection(figures: QualityFigures, reference: QualityFigures, quality_floor: float) -> str | None:
    """Why the candidate is too far from the reference; None where it is not, or where it is not known."""
    most = divergence_limit(reference, quality_floor)
    least = agreement_limit(reference, quality_floor)
    if most is not None and figures.kl_nats is not None and figures.kl_nats > most:
        return (
            f"diverges from the reference by {figures.kl_nats:.3g} nats a token, and no recovery near the floor of "
            f"{quality_floor:.3g} was to be expected over {most:.3g}"
        )
    if least is not None and figures.top1_agreement is not None and figures.top1_agreement < least:
        return (
            f"has the reference's most likely token in {figures.top1_agreement:.1%} of positions, and at least "
            f"{least:.1%} were to be expected of a recovery near the floor of {quality_floor:.3g}"
        )
    return None
