"""How many replicas a traffic needs: a queue in front of all their places. Pure.

A replica that serves n requests at a time has n places; all replicas' places are servers of an M/M/c queue. Arrivals
that find no place free wait, with the probability of Erlang's C formula, and the wait must leave the promised time to
first token. That needs a margin of about the square root of the load (A. K. Erlang, 1917; S. Halfin and W. Whitt,
"Heavy-traffic limits for queues with many exponential servers", Operations Research 29(3), 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.errors import UsageError

_S_PER_DAY = 86_400.0
# More places than this is no fleet but a typing error.
_MOST_PLACES = 20_000_000


@dataclass(frozen=True)
class Traffic:
    """Requests per second, the mean of a day and the highest hour's; hours a day that the peak lasts."""

    mean_requests_per_s: float
    peak_requests_per_s: float
    peak_hours: float

    def __post_init__(self) -> None:
        """Raises: UsageError: a figure that no traffic has."""
        for name, value in (("mean", self.mean_requests_per_s), ("peak", self.peak_requests_per_s)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(
                    f"the {name} of the traffic is {value:g} requests/s; it must be finite and above 0",
                    where="traffic",
                    hint="Write --rate 5/s, or --users with --requests-per-user-day.",
                )
        if self.peak_requests_per_s < self.mean_requests_per_s:
            raise UsageError(
                f"the peak ({self.peak_requests_per_s:g}/s) is below the mean ({self.mean_requests_per_s:g}/s)",
                where="traffic",
                hint="Leave --peak out, or give the highest hour's rate.",
            )
        if not (0 < self.peak_hours <= 24):
            raise UsageError(f"a peak of {self.peak_hours:g} hours a day", where="--peak-hours", hint="Write 2.")


def traffic_of_users(*, users: float, requests_per_user_day: float, peak_factor: float, peak_hours: float) -> Traffic:
    """The traffic of so many users.

    >>> traffic_of_users(users=86_400, requests_per_user_day=10, peak_factor=3, peak_hours=2).peak_requests_per_s
    30.0

    Raises: UsageError: a figure that no traffic has, or a peak below the mean.
    """
    mean = users * requests_per_user_day / _S_PER_DAY
    return Traffic(mean, mean * peak_factor, peak_hours)


def erlang_c(num_places: int, offered: float) -> float:
    """Probability that an arrival must wait: `offered` erlangs on so many places; 1 where they are not enough.

    By the recursion of Erlang's B formula, B(k) = a B(k-1) / (k + a B(k-1)), which neither over- nor underflows.

    >>> round(erlang_c(2, 1.0), 4)
    0.3333
    """
    if offered >= num_places:
        return 1.0
    blocked = 1.0
    for places in range(1, num_places + 1):
        blocked = offered * blocked / (places + offered * blocked)
    return _waits(blocked, num_places, offered)


def _waits(blocked: float, num_places: int, offered: float) -> float:
    return blocked / (1 - offered / num_places * (1 - blocked))


@dataclass(frozen=True)
class Staffing:
    """Replicas for one load, and what follows.

    Args:
        num_replicas: Those that the load needs, spare ones not counted.
        offered: Requests under way on average, in erlangs.
        wait_probability: Of an arrival.
        kept_share: Of arrivals that wait no longer than they may.
    """

    num_replicas: int
    offered: float
    wait_probability: float
    kept_share: float
    utilisation: float


def staff(
    *, requests_per_s: float, service_s: float, places_per_replica: int, wait_s: float, attainment: float
) -> Staffing:
    """The fewest replicas with which the share `attainment` of arrivals waits no longer than `wait_s`.

    An arrival waits longer than t with probability C(c, a) exp(-(c - a) t / service_s).

    Args:
        requests_per_s: Of all replicas together.
        service_s: Time that one request is under way.
        places_per_replica: Requests that one replica serves at a time.
        wait_s: Time that is left before the first token is late.
        attainment: Share that must not be.

    Raises: UsageError: a load that no fleet serves.
    """
    offered = requests_per_s * service_s
    if offered > _MOST_PLACES / 2:
        raise UsageError(
            f"{requests_per_s:g} requests/s of {service_s:.3g} s each are {offered:.3g} requests at a time",
            where="traffic",
            hint="Check the rate and the tokens of a request.",
        )
    blocked, places = 1.0, 0
    while True:
        for _ in range(places_per_replica):
            places += 1
            blocked = offered * blocked / (places + offered * blocked)
        if places <= offered:
            continue
        waits = _waits(blocked, places, offered)
        late = waits * math.exp(-(places - offered) * max(0.0, wait_s) / service_s)
        if 1 - late >= attainment:
            return Staffing(places // places_per_replica, offered, waits, 1 - late, offered / places)


@dataclass(frozen=True)
class Degradation:
    """What the quality budget allows at the peak: the share of its requests that a lower rung may serve."""

    peak_share: float
    how: str


def degradable_at_peak(traffic: Traffic, budget: float) -> Degradation:
    """The share of the peak's requests that may be degraded when only the peak degrades.

    A day has mean x 24 h of requests, of which `budget` may be; the peak has peak x its hours.
    """
    day = traffic.mean_requests_per_s * 24
    peak = traffic.peak_requests_per_s * traffic.peak_hours
    share = min(1.0, budget * day / peak)
    how = (
        f"{budget:.0%} of {traffic.mean_requests_per_s:.3g}/s x 24 h over {traffic.peak_requests_per_s:.3g}/s x "
        f"{traffic.peak_hours:g} h = {share:.0%}"
    )
    return Degradation(share, how)
