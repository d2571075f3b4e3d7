"""Numbers of tokens, drawn one by one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from lightship.simulation.scenario import Lengths


def drawer_of(lengths: Lengths, rng: random.Random) -> Callable[[], int]:
    """A function that draws one length at each call."""
    least, most, mean = lengths.least, lengths.most, lengths.mean
    match lengths.distribution:
        case "fixed":
            fixed = min(most, max(least, round(mean)))
            return lambda: fixed
        case "uniform":
            return lambda: rng.randint(least, most)
        case "exponential":
            draw: Callable[[], float] = lambda: rng.expovariate(1 / mean)  # noqa: E731 - one of two shapes of a name
        case _:
            # the mean of a lognormal is exp(mu + sigma^2 / 2)
            mu, sigma = math.log(mean) - lengths.spread**2 / 2, lengths.spread
            draw = lambda: math.exp(rng.gauss(mu, sigma))  # noqa: E731

    def drawn() -> int:
        value = round(draw())
        return least if value < least else most if value > most else value

    return drawn
