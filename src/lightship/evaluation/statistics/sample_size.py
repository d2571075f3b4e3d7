"""How many items a claim needs, and what a given number can show; and the sentences that say so. Pure.

All formulas are normal approximations for a candidate that is in truth as good as the reference: what is planned is the
chance to show it. Shares and margins are fractions (0.02 is two points).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from lightship.evaluation.statistics.bootstrap import require


def paired_items_required(
    disagreement: float, margin: float, *, alpha_one_sided: float = 0.05, power: float = 0.8
) -> int:
    """Items, asked of both, that show a loss of less than `margin` where none exists.

        n = (z_alpha + z_power)^2 * disagreement / margin^2

    `disagreement` is the share of items on which the two differ, the variance of a paired difference around zero. Never
    fewer than it takes when not a single item differs, which is where the bound of `tango_interval` reaches the margin:
    z_alpha^2 * (1 / margin - 1).

    Raises: MeasurementError: a figure outside its range.
    Source: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43
        (1987), with a true difference of zero.

    >>> paired_items_required(0.05, 0.02), paired_items_required(0.05, 0.01)
    (773, 3092)
    """
    _check_share("disagreement", disagreement)
    _check_margin(margin)
    spread = quantile_sum(alpha_one_sided, power)
    fewest = NormalDist().inv_cdf(1 - alpha_one_sided) ** 2 * (1 / margin - 1)
    return math.ceil(max(spread**2 * disagreement / margin**2, fewest, 1))


def unpaired_items_required(
    accuracy: float, margin: float, *, alpha_one_sided: float = 0.05, power: float = 0.8
) -> int:
    """Items per arm that the same claim needs of two independent samples, for comparison.

        n = (z_alpha + z_power)^2 * 2 * accuracy * (1 - accuracy) / margin^2

    Raises: MeasurementError: a figure outside its range.

    >>> unpaired_items_required(0.70, 0.02)
    6492
    """
    _check_share("accuracy", accuracy)
    _check_margin(margin)
    variance = 2 * accuracy * (1 - accuracy)
    return max(1, math.ceil(quantile_sum(alpha_one_sided, power) ** 2 * variance / margin**2))


def detectable_margin(
    num_items: int, disagreement: float, *, alpha_one_sided: float = 0.05, power: float = 0.8
) -> float:
    """The smallest margin that `num_items` can show to be kept: the inverse of `paired_items_required`.

    Raises: MeasurementError: no items, or a figure outside its range.

    >>> round(detectable_margin(300, 0.05), 4)
    0.0321
    """
    require(num_items >= 1, "there are no items")
    _check_share("disagreement", disagreement)
    z = NormalDist().inv_cdf(1 - alpha_one_sided)
    normal = quantile_sum(alpha_one_sided, power) * math.sqrt(disagreement / num_items)
    return max(normal, z * z / (num_items + z * z))


def items_to_decide(
    num_items: int, *, difference: float, standard_error: float, margin: float, alpha_one_sided: float, power: float
) -> int | None:
    """Items that would decide, if difference and spread are in truth what `num_items` showed.

    The spread falls with the root of the items; the distance from the difference to -margin is what must be resolved.
    None where the difference lies on the margin, so that no number decides.

    Raises: MeasurementError: as `paired_items_required`.
    """
    _check_margin(margin)
    require(num_items >= 1, "there are no items")
    distance = abs(difference + margin)
    if distance == 0:
        return None
    ratio = quantile_sum(alpha_one_sided, power) * standard_error / distance
    return math.ceil(num_items * ratio**2)


def items_sentence(
    num_items: int, *, disagreement: float, margin: float, alpha_one_sided: float = 0.05, power: float = 0.8
) -> str:
    """What a person should know of a gate's size before it is used.

    >>> items_sentence(300, disagreement=0.05, margin=0.02)
    'this gate needs 773 items to see a loss of 2 points; you have 300, enough for 3.2 points'
    """
    needed = paired_items_required(disagreement, margin, alpha_one_sided=alpha_one_sided, power=power)
    seen = detectable_margin(num_items, disagreement, alpha_one_sided=alpha_one_sided, power=power)
    loss = format_points(margin)
    if num_items >= needed:
        return f"{num_items:,} items are enough to see a loss of {loss}: it takes {needed:,}"
    enough = f"enough for {format_points(seen)}" if seen < 1 else "too few for any"
    return f"this gate needs {needed:,} items to see a loss of {loss}; you have {num_items:,}, {enough}"


def format_points(share: float) -> str:
    """A share or a difference of shares in percentage points, with two significant digits at least.

    >>> format_points(0.02), format_points(0.0321), format_points(-0.0004), format_points(0.01)
    ('2 points', '3.2 points', '-0.04 points', '1 point')
    """
    number = f"{share * 100:.2g}" if abs(share) < 0.0995 else f"{share * 100:.1f}"
    number = number.removesuffix(".0")
    if "e" in number:
        number = f"{share * 100:.6f}".rstrip("0").rstrip(".")
    return f"{number} point" if number.lstrip("-") == "1" else f"{number} points"


def quantile_sum(alpha_one_sided: float, power: float) -> float:
    """z_alpha + z_power, the distance in standard errors between a claim's limit and the truth it is planned for.

    Raises: MeasurementError: alpha outside 0..0.5, or power outside 0.5..1.
    """
    require(0 < alpha_one_sided < 0.5, f"alpha must lie between 0 and 0.5, got {alpha_one_sided}")
    require(0.5 <= power < 1, f"power must lie between 0.5 and 1, got {power}")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha_one_sided) + normal.inv_cdf(power)


def _check_share(name: str, share: float) -> None:
    require(0 <= share <= 1, f"{name} must lie between 0 and 1, got {share}")


def _check_margin(margin: float) -> None:
    require(0 < margin < 1, f"a margin must lie between 0 and 1, got {margin}")
