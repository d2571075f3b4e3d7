"""Which cores and how much memory the replicas of one machine get. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def shared_cores(cores: Sequence[int], *, num_replicas: int) -> list[frozenset[int]]:
    """The cores of each replica: neighbouring ones, none in two places while there are enough.

    Replicas of one rung that computed on the same cores would only take turns. Cores are numbered socket by socket on
    Linux, so neighbours mostly share a memory controller.

    Args:
        cores: Numbers of those this process may use.
        num_replicas: Replicas that may run at the same time.

    >>> shared_cores([0, 1, 2, 3], num_replicas=2)
    [frozenset({0, 1}), frozenset({2, 3})]
    """
    ordered = sorted(cores)
    if num_replicas >= len(ordered):
        return [frozenset({ordered[number % len(ordered)]}) for number in range(num_replicas)]
    bounds = [number * len(ordered) // num_replicas for number in range(num_replicas + 1)]
    return [frozenset(ordered[bounds[n] : bounds[n + 1]]) for n in range(num_replicas)]
