"""Which replicas of a rung do so much worse than their peers that they are taken out for a while: a pure judgement.

A breaker sees a replica alone, and only when it is nearly dead. One that answers three times as slowly as the others,
or fails every third attempt, is seen only beside them. Each is compared with the median of the *others* of its rung. At
most a share of a rung is out at a time, the worst ones, and never all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from lightship.gateway.routing.config import OutlierConfig

# Added to a prompt's tokens: even the shortest prompt takes a step of the engine and two ways over the network.
_BASE_TOKENS = 64


class EjectionReason(StrEnum):
    """What a replica did much worse than its peers; fit for a metric label."""

    ERRORS = "errors"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Showing:
    """What one replica did in one interval. `s_per_token` is None where too few first tokens were timed."""

    num_attempts: int
    num_failed: int
    s_per_token: float | None = None

    @property
    def error_share(self) -> float:
        """Failures among attempts."""
        return self.num_failed / self.num_attempts if self.num_attempts else 0.0


def choose_ejected(
    showings: Mapping[str, Showing], *, num_on_rung: int, num_out: int, config: OutlierConfig
) -> dict[str, EjectionReason]:
    """The replicas to take out, the worst ones first, and why.

    Args:
        showings: Of the replicas of one rung that are in.
        num_on_rung: Replicas the rung has.
        num_out: Of these, those that are out already, for whatever reason.
        config: What is much worse, and how many may be out.

    >>> showings = {"a": Showing(100, 0), "b": Showing(100, 2), "c": Showing(100, 60)}
    >>> choose_ejected(showings, num_on_rung=3, num_out=0, config=OutlierConfig())
    {'c': <EjectionReason.ERRORS: 'errors'>}
    """
    judged = {name: showing for name, showing in showings.items() if showing.num_attempts >= config.min_attempts}
    found: list[tuple[float, str, EjectionReason]] = []
    for name, showing in judged.items():
        peers = [other for peer, other in judged.items() if peer != name]
        excess = showing.error_share - median([peer.error_share for peer in peers]) if peers else 0.0
        slowness = _slowness(showing, peers)
        if excess >= config.error_share_above_peers:
            found.append((1e9 * excess, name, EjectionReason.ERRORS))  # what fails is worse than what is slow
        elif slowness >= config.slow_factor:
            found.append((slowness, name, EjectionReason.SLOW))
    most_out = min(int(config.max_ejected_share * num_on_rung), num_on_rung - 1)
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return {name: reason for _, name, reason in found[: max(0, most_out - num_out)]}


def _slowness(showing: Showing, peers: Sequence[Showing]) -> float:
    """Its time per token as a multiple of the peers' median; 0 where that cannot be told."""
    timed = [peer.s_per_token for peer in peers if peer.s_per_token]
    if showing.s_per_token is None or not timed:
        return 0.0
    return showing.s_per_token / median(timed)


class ShowingTally:
    """Counts of one replica since the last judgement.

    Concurrency: one owner.
    """

    __slots__ = ("_num_attempts", "_num_failed", "_num_timed", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._num_attempts = self._num_failed = self._num_timed = 0
        self._seconds = self._tokens = 0.0

    def note_first_token(self, *, after_s: float, num_uncached_tokens: float) -> None:
        """A stream began; a whole answer says nothing about the first token."""
        self._num_timed += 1
        self._seconds += after_s
        self._tokens += num_uncached_tokens + _BASE_TOKENS

    def note_end(self, *, is_failed: bool) -> None:
        """An attempt ended well or badly; what is neither is not told here."""
        self._num_attempts += 1
        self._num_failed += is_failed

    def take(self, *, min_timed: int) -> Showing:
        """The counts, which begin anew."""
        s_per_token = self._seconds / self._tokens if self._num_timed >= min_timed else None
        showing = Showing(self._num_attempts, self._num_failed, s_per_token)
        self.__init__()  # type: ignore[misc] # the same counts from zero
        return showing
