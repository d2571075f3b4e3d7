"""p-values of several claims at once, corrected so that many claims do not make a false alarm likely. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lightship.evaluation.statistics.bootstrap import require


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values by name, in the order given, adjusted: rejecting those <= alpha errs anywhere with chance <= alpha.

    Step-down: the smallest of m is multiplied by m, the next by m - 1, and none may fall below the one before. It holds
    under any dependence between the claims, and is never weaker than multiplying all by m.

    Raises: MeasurementError: a p-value outside 0..1.
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
    """
    for name, p_value in p_values.items():
        require(0 <= p_value <= 1, f"the p-value of {name} is {p_value}")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
