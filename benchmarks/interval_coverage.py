"""How often each interval covers the truth, by simulation: what "95 %" is worth on data like ours.

    .venv/bin/python benchmarks/interval_coverage.py [--studies 4000] [--resamples 1000] [--json]

Each study draws data of which the truth is known and asks for an interval of level 0.9, whose bounds are the one-sided
bounds at 95 % that gates use. Printed are the share of studies that cover the truth, its Monte-Carlo error, and how
often the truth lies below the lower bound (*low*: a gate would pass what it should not) and above the upper one. 5 % is
due to each side. Ends with 1 where a coverage is below the level by more than its tolerance, and significantly so (2.6
Monte-Carlo errors).

Exact intervals may never be below. Score intervals are right on average and sway with the shares, the more the rarer an
event is. A bootstrap of few clusters is known to be narrow; how narrow is what this shows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain

import numpy as np

from lightship.evaluation.statistics.bootstrap import bootstrap_mean, bootstrap_ratio_of_sums
from lightship.evaluation.statistics.paired import paired_difference, tango_interval
from lightship.evaluation.statistics.shares import clopper_pearson_interval, wilson_interval
from lightship.ports.measurements import Interval

LEVEL = 0.9
# Share of studies by which each kind may stay below the level.
TOLERANCES = {
    "clopper-pearson": 0.0,
    "wilson": 0.03,
    "tango": 0.03,
    "bca ratio of sums": 0.05,
    # Ten documents tell little of their own spread: known, and the reason why evaluation texts are more.
    "bca of ten": 0.10,
    "paired bootstrap": 0.03,
    # Flips that cluster more than is assumed where few differ (a correlation of 0.2 where 0.1 is) are covered less.
    "few flips": 0.05,
    # Shown for the sake of comparison, used nowhere: what `paired_difference` would be worth without its widening.
    "bare bootstrap": 0.25,
}
# Monte-Carlo errors that make a shortfall significant: one-sided 0.5 %.
_SIGNIFICANT_ERRORS = 2.6

Study = tuple[Interval, float]
Draw = Callable[[np.random.Generator, int], Study]


@dataclass(frozen=True)
class Coverage:
    """Shares of the studies of one scenario."""

    kind: str
    scenario: str
    nominal: float
    covered: float
    misses_low: float
    misses_high: float
    num_studies: int
    tolerance: float

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of `covered`."""
        return math.sqrt(self.covered * (1 - self.covered) / self.num_studies)

    @property
    def is_short(self) -> bool:
        """Whether the coverage is below the level by more than the tolerance, beyond chance."""
        return self.covered + _SIGNIFICANT_ERRORS * self.error < self.nominal - self.tolerance


def share_scenarios() -> Iterator[tuple[str, str, Draw]]:
    """Shares of 40 and 300 independent trials."""
    for kind, interval_of in (("wilson", wilson_interval), ("clopper-pearson", clopper_pearson_interval)):
        known = cache(partial(interval_of, confidence=LEVEL))
        for num_trials, share in ((40, 0.05), (40, 0.3), (40, 0.7), (300, 0.01), (300, 0.95)):

            def draw(
                generator: np.random.Generator,
                seed: int,
                *,
                known: Callable[..., Interval] = known,
                num_trials: int = num_trials,
                share: float = share,
            ) -> Study:
                del seed
                return known(int(generator.binomial(num_trials, share)), num_trials), share

            yield kind, f"n={num_trials} share={share}", draw


def tango_scenarios() -> Iterator[tuple[str, str, Draw]]:
    """Lost and gained items; the third is the sharpest case, in which nothing is ever gained."""
    known = cache(partial(tango_interval, confidence=LEVEL))
    cases = ((50, 0.05, 0.03), (300, 0.03, 0.02), (300, 0.02, 0.0), (773, 0.035, 0.015), (773, 0.02, 0.0))
    for num_items, lost, gained in cases:

        def draw(
            generator: np.random.Generator,
            seed: int,
            *,
            num_items: int = num_items,
            lost: float = lost,
            gained: float = gained,
        ) -> Study:
            del seed
            num_lost, num_gained, _ = generator.multinomial(num_items, [lost, gained, 1 - lost - gained])
            return known(int(num_lost), int(num_gained), num_items), gained - lost

        yield "tango", f"n={num_items} lost={lost} gained={gained}", draw


def ratio_scenarios(num_resamples: int) -> Iterator[tuple[str, str, Draw]]:
    """Nats over bytes of documents of uneven length and skewed difficulty."""
    for num_clusters in (10, 30, 100):

        def draw(generator: np.random.Generator, seed: int, *, num_clusters: int = num_clusters) -> Study:
            num_bytes = generator.integers(200, 2000, num_clusters).astype(float)
            nats = num_bytes * generator.gamma(9.0, 0.1, num_clusters)
            estimate = bootstrap_ratio_of_sums(
                nats, num_bytes, confidence=LEVEL, num_resamples=num_resamples, seed=seed
            )
            assert estimate.interval is not None
            return estimate.interval, 0.9

        yield "bca of ten" if num_clusters == 10 else "bca ratio of sums", f"{num_clusters} documents", draw


def paired_scenarios(num_resamples: int) -> Iterator[tuple[str, str, Draw]]:
    """Graded scores in clusters that share their luck: a cluster is worse, better or alike, each item to a degree.

    The lost share of the first three makes few clusters differ (2, 6 and 16 on average), where a bootstrap alone fails.
    """
    for num_clusters, per_cluster, lost, gained in (
        (100, 1, 0.02, 0.0),
        (100, 4, 0.04, 0.02),
        (400, 1, 0.03, 0.01),
        (60, 5, 0.4, 0.3),
        (400, 1, 0.1, 0.08),
    ):

        def draw(
            generator: np.random.Generator,
            seed: int,
            *,
            num_clusters: int = num_clusters,
            per_cluster: int = per_cluster,
            lost: float = lost,
            gained: float = gained,
        ) -> Study:
            signs = generator.choice([-1.0, 1.0, 0.0], size=num_clusters, p=[lost, gained, 1 - lost - gained])
            change = np.repeat(signs, per_cluster) * generator.random(num_clusters * per_cluster)
            clusters = list(np.repeat(np.arange(num_clusters), per_cluster))
            estimate = paired_difference(
                np.maximum(change, 0.0).tolist(),
                np.maximum(-change, 0.0).tolist(),
                clusters,
                confidence=LEVEL,
                num_resamples=num_resamples,
                seed=seed,
            )
            assert estimate.interval is not None
            return estimate.interval, (gained - lost) / 2

        yield "paired bootstrap", f"{num_clusters}x{per_cluster} items, lost={lost} gained={gained}", draw


def flip_scenarios(num_resamples: int) -> Iterator[tuple[str, str, Draw]]:
    """Few flips in clusters of uneven size: right-or-wrong items, 2 % of them lost, more in some clusters than others.

    Each cluster's share of losses is drawn from a beta distribution, whose width gives the intracluster correlation.
    """
    sizes = np.array([4, 6, 8, 10, 12, 14, 18, 24, 36, 68] * 6)
    clusters = list(np.repeat(np.arange(len(sizes)), sizes))
    lost = 0.02
    for correlation in (0.0, 0.05, 0.2):

        def draw(generator: np.random.Generator, seed: int, *, correlation: float = correlation) -> Study:
            shares = np.full(len(sizes), lost)
            if correlation > 0:
                concentration = (1 - correlation) / correlation
                shares = generator.beta(lost * concentration, (1 - lost) * concentration, size=len(sizes))
            is_lost = generator.random(len(clusters)) < np.repeat(shares, sizes)
            estimate = paired_difference(
                np.where(is_lost, 0.0, 1.0).tolist(),
                [1.0] * len(clusters),
                clusters,
                confidence=LEVEL,
                num_resamples=num_resamples,
                seed=seed,
            )
            assert estimate.interval is not None
            return estimate.interval, -lost

        yield "few flips", f"60 clusters, 1,200 items, lost={lost} icc={correlation}", draw


def bare_scenarios(num_resamples: int) -> Iterator[tuple[str, str, Draw]]:
    """Graded scores of independent items, of which 2, 6, 16 and 40 differ on average, by a bootstrap alone."""
    for num_items, lost, gained in ((100, 0.02, 0.0), (100, 0.04, 0.02), (400, 0.03, 0.01), (400, 0.06, 0.04)):

        def draw(
            generator: np.random.Generator,
            seed: int,
            *,
            num_items: int = num_items,
            lost: float = lost,
            gained: float = gained,
        ) -> Study:
            signs = generator.choice([-1.0, 1.0, 0.0], size=num_items, p=[lost, gained, 1 - lost - gained])
            change = signs * generator.random(num_items)
            interval = bootstrap_mean(change, confidence=LEVEL, num_resamples=num_resamples, seed=seed).interval
            assert interval is not None
            return interval, (gained - lost) / 2

        yield "bare bootstrap", f"{num_items}x1 items, lost={lost} gained={gained}", draw


def counted_scenarios() -> Iterator[tuple[str, str, Draw]]:
    """Those that take no resampling."""
    yield from share_scenarios()
    yield from tango_scenarios()


def resampled_scenarios(num_resamples: int) -> Iterator[tuple[str, str, Draw]]:
    """Those that take a bootstrap in each study."""
    yield from ratio_scenarios(num_resamples)
    yield from paired_scenarios(num_resamples)
    yield from flip_scenarios(num_resamples)
    yield from bare_scenarios(num_resamples)


def coverages_of(scenarios: Iterable[tuple[str, str, Draw]], *, num_studies: int, seed: int = 0) -> Iterator[Coverage]:
    """A coverage for each scenario."""
    for kind, scenario, draw in scenarios:
        yield coverage_of(kind, scenario, draw, num_studies=num_studies, seed=seed)


def coverage_of(kind: str, scenario: str, draw: Draw, *, num_studies: int, seed: int) -> Coverage:
    """The shares over studies whose data come from `seed`."""
    generator = np.random.default_rng(seed)
    low = high = 0
    for study in range(num_studies):
        interval, truth = draw(generator, study)
        low += truth < interval.low
        high += truth > interval.high
    covered = 1 - (low + high) / num_studies
    return Coverage(
        kind, scenario, LEVEL, covered, low / num_studies, high / num_studies, num_studies, TOLERANCES[kind]
    )


def main() -> int:
    """Prints a line for each scenario; 1 where a coverage is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000, help="simulated studies for each scenario")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples in each study")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    coverages = []
    if not args.json:
        print(f"{'interval':<18} {'scenario':<48} {'level':>6} {'covered':>8} {'error':>6} {'low':>6} {'high':>6}")
    scenarios = chain(counted_scenarios(), resampled_scenarios(args.resamples))
    for one in coverages_of(scenarios, num_studies=args.studies):
        coverages.append(one)
        if not args.json:
            shares = f"{one.covered:>8.2%} {one.error:>6.2%} {one.misses_low:>6.2%} {one.misses_high:>6.2%}"
            print(f"{one.kind:<18} {one.scenario:<48} {one.nominal:>6.0%} {shares}{'  SHORT' * one.is_short}")
    if args.json:
        results = [{**asdict(one), "error": one.error, "is_short": one.is_short} for one in coverages]
        settings = {"num_studies": args.studies, "num_resamples": args.resamples, "seed": 0}
        print(json.dumps({"settings": settings, "coverages": results}, indent=2))
    return int(any(one.is_short for one in coverages))


if __name__ == "__main__":
    sys.exit(main())
