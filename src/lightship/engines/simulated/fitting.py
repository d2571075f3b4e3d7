"""Costs from observations: non-negative least squares on relative errors, refusing what the data cannot tell. Pure.

Ours because the core has neither numpy nor scipy, and the problem is tiny: eight costs, so every set of costs that may
be over zero can be tried (256 small linear systems), which finds the exact optimum and needs no starting point.

A time is off by a share of itself, and on a shared machine some are off by a lot; so residuals are relative, repeats
of one experiment count as their median, and rows far from the fit are weighed down in a few rounds (Huber's weights).
Residuals are shares of the predicted time, not of the observed one: against the observed time a stretch that took twice
as long would weigh a quarter, and costs would be those of the quickest moments, while queues grow with the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import median

from lightship.engines.simulated.cost_model import work_duration_s
from lightship.errors import MeasurementError
from lightship.ports.engine_profile import EngineWork, FitQuality, StepCosts, StepObservation

_NAMES = StepCosts.__struct_fields__
# Share of a column's length that no combination of the others explains, below which its cost is not identified: with
# errors of a tenth on the rows, a cost told apart by less would be noise.
MIN_OWN_SHARE = 0.03
_NUM_ROUNDS = 12
# Residuals beyond this many robust standard deviations are outliers (Huber's k: 95 % efficiency under normal errors).
_HUBER_K = 1.345
# Median absolute deviation of a normal distribution, as a share of its standard deviation.
_MAD_SHARE = 0.6745
# Predicted over observed time below which a row weighs no more: it is an outlier, or the first solution is far off.
_MIN_RATIO = 0.1
# Relative; a fit this good needs no robust weights, and dividing by the spread would amplify rounding.
_MIN_SPREAD = 1e-9

Matrix = list[list[float]]


def fit_costs(
    observations: Sequence[StepObservation], *, assumed_zero: Iterable[str] = ()
) -> tuple[StepCosts, FitQuality]:
    """The costs under which the observed work takes the observed times, and how well it does.

    Args:
        observations: Repeats of the same work under the same kind count once, with their median time.
        assumed_zero: Costs that are not fitted, because no experiment was made that shows them.

    Raises: MeasurementError: too few observations, a time that is not positive, or a cost that they cannot tell.
    """
    excluded = frozenset(assumed_zero)
    unknown = excluded - set(_NAMES)
    if unknown:
        raise MeasurementError(f"no such cost: {', '.join(sorted(unknown))}", hint=f"Known: {', '.join(_NAMES)}.")
    grouped = medians_of_repeats(observations)
    columns = [index for index, name in enumerate(_NAMES) if name not in excluded]
    if len(grouped) < len(columns):
        raise MeasurementError(
            f"{len(grouped)} different observations cannot give {len(columns)} costs",
            hint="Measure more kinds of load.",
        )
    rows = [[observation.work.counts[index] / observation.duration_s for index in columns] for observation in grouped]
    solution, weighted = _robust_solution(rows, [observation.duration_s for observation in grouped])
    _refuse_unidentified(weighted, [_NAMES[index] for index in columns])
    values = dict.fromkeys(_NAMES, 0.0)
    values.update({_NAMES[index]: value for index, value in zip(columns, solution, strict=True)})
    try:
        costs = StepCosts(**values)
    except ValueError as error:
        raise MeasurementError(f"the observations give no usable costs: {error}") from error
    return costs, _quality(costs, grouped, num_observations=len(observations), assumed_zero=excluded)


def medians_of_repeats(observations: Sequence[StepObservation]) -> list[StepObservation]:
    """One observation for each (kind, work), with the median of the times.

    Raises: MeasurementError: a time or count is not a positive number.
    """
    found: dict[tuple[str, EngineWork], list[float]] = {}
    for observation in observations:
        counts = observation.work.counts
        if not (math.isfinite(observation.duration_s) and observation.duration_s > 0):
            raise MeasurementError(f"an observation of kind {observation.kind} took {observation.duration_s!r} s")
        if not all(math.isfinite(count) and count >= 0 for count in counts) or not any(counts):
            raise MeasurementError(f"an observation of kind {observation.kind} has the counts {counts}")
        found.setdefault((observation.kind, observation.work), []).append(observation.duration_s)
    return [
        StepObservation(kind=kind, work=work, duration_s=median(durations)) for (kind, work), durations in found.items()
    ]


def _robust_solution(rows: Matrix, times: Sequence[float]) -> tuple[list[float], Matrix]:
    """The costs for rows of counts over observed times, and the rows as they were weighed in the end.

    A row times the costs is predicted over observed time. It begins with absolute errors, among which a time that is
    next to nothing by mistake counts for next to nothing.
    """
    weighted = [[time * value for value in row] for time, row in zip(times, rows, strict=True)]
    solution = non_negative_least_squares(weighted, times)
    for _ in range(_NUM_ROUNDS):
        ratios = [max(_dot(row, solution), _MIN_RATIO) for row in rows]
        residuals = [abs(1.0 - ratio) / ratio for ratio in ratios]
        spread = max(median(residuals) / _MAD_SHARE, _MIN_SPREAD)
        roots = [
            math.sqrt(min(1.0, _HUBER_K * spread / residual) if residual else 1.0) / ratio
            for residual, ratio in zip(residuals, ratios, strict=True)
        ]
        weighted = [[root * value for value in row] for root, row in zip(roots, rows, strict=True)]
        solution = non_negative_least_squares(weighted, roots)
    return solution, weighted


def non_negative_least_squares(rows: Matrix, targets: Sequence[float]) -> list[float]:
    """The x >= 0 that brings rows · x nearest to the targets, in the sum of squares.

    Tries every set of non-zero entries, so it is for few columns only; columns must be independent.
    """
    num_columns = len(rows[0])
    scales = [math.sqrt(sum(row[column] ** 2 for row in rows)) or 1.0 for column in range(num_columns)]
    scaled = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    gram = [[sum(row[i] * row[j] for row in scaled) for j in range(num_columns)] for i in range(num_columns)]
    moments = [sum(row[i] * target for row, target in zip(scaled, targets, strict=True)) for i in range(num_columns)]
    best, best_gain = [0.0] * num_columns, 0.0
    for size in range(1, num_columns + 1):
        for chosen in combinations(range(num_columns), size):
            part = _solve([[gram[i][j] for j in chosen] for i in chosen], [moments[i] for i in chosen])
            if part is None or min(part) < 0:
                continue
            # the sum of squares falls by x·m: at an unconstrained optimum of the chosen columns
            gain = sum(value * moments[i] for value, i in zip(part, chosen, strict=True))
            if gain > best_gain:
                best, best_gain = [0.0] * num_columns, gain
                for value, i in zip(part, chosen, strict=True):
                    best[i] = value
    return [value / scale for value, scale in zip(best, scales, strict=True)]


def _refuse_unidentified(rows: Matrix, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        share = own_share(rows, index)
        if share < MIN_OWN_SHARE:
            why = "no observation has any of its work" if share == 0 else f"only {share:.1%} of its work stands apart"
            raise MeasurementError(
                f"the observations cannot tell {name}: {why}",
                hint="Measure at more different prompt lengths, contexts and concurrencies, or leave this cost out.",
            )


def own_share(rows: Matrix, index: int) -> float:
    """How much of one column, as a share of its length, no combination of the other columns gives; 0 when it is empty.

    By orthogonalisation with the largest remainder first, twice, so that rounding does not count as difference.
    """
    columns = [[row[position] for row in rows] for position in range(len(rows[0]))]
    length = math.sqrt(sum(value**2 for value in columns[index]))
    if length == 0:
        return 0.0
    others = [column for position, column in enumerate(columns) if position != index and any(column)]
    basis: Matrix = []
    for column in others:
        rest = _without(_without(column, basis), basis)
        rest_length = math.sqrt(sum(value**2 for value in rest))
        if rest_length > 1e-9 * math.sqrt(sum(value**2 for value in column)):
            basis.append([value / rest_length for value in rest])
    rest = _without(_without(columns[index], basis), basis)
    return math.sqrt(sum(value**2 for value in rest)) / length


def _without(column: Sequence[float], basis: Matrix) -> list[float]:
    rest = list(column)
    for direction in basis:
        amount = _dot(rest, direction)
        rest = [value - amount * part for value, part in zip(rest, direction, strict=True)]
    return rest


def _solve(matrix: Matrix, right: Sequence[float]) -> list[float] | None:
    """The solution by Gaussian elimination with pivoting; None when the matrix is singular to working precision."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda position: abs(rows[position][column]))
        if abs(rows[pivot][column]) < 1e-12:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for position in range(column + 1, size):
            factor = rows[position][column] / rows[column][column]
            rows[position] = [a - factor * b for a, b in zip(rows[position], rows[column], strict=True)]
    solution = [0.0] * size
    for position in reversed(range(size)):
        known = sum(rows[position][later] * solution[later] for later in range(position + 1, size))
        solution[position] = (rows[position][size] - known) / rows[position][position]
    return solution


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _quality(
    costs: StepCosts, observations: Sequence[StepObservation], *, num_observations: int, assumed_zero: frozenset[str]
) -> FitQuality:
    errors: dict[str, list[float]] = {}
    for observation in observations:
        error = abs(work_duration_s(costs, observation.work) / observation.duration_s - 1.0)
        errors.setdefault(observation.kind, []).append(error)
    every = sorted(error for kind in errors.values() for error in kind)
    return FitQuality(
        num_observations=num_observations,
        median_error=median(every),
        p90_error=every[max(0, math.ceil(0.9 * len(every)) - 1)],
        median_errors={kind: median(values) for kind, values in errors.items()},
        assumed_zero=tuple(sorted(assumed_zero)),
    )
