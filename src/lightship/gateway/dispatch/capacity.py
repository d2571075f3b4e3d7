"""How much may run at a time on one device that several rungs share. Pure: told of starts, ends and what was seen.

Every rung has a *limit*: the requests it could have under way if it had the device to itself and still kept its
promise. A request on it uses 1 / limit of the device, and the shares in use add up to at most 1.

The limits of a device's rungs stand to each other as their measured goodputs do, and rise and fall together by one
*scale*. It follows what requests see: it rises while the device is full and the promise is kept, and falls by a tenth
when more answers break it than the promise allows (additive increase, multiplicative decrease: D.-M. Chiu and R.
Jain, 1989). A scale for each rung would drift apart: a slow rung's requests pay for those of the fast one beside them.
"""

from __future__ import annotations

# Answers after which the scale is looked at again: enough to see an attainment of 95 % broken, few enough to be quick.
_WINDOW = 32
_DECREASE = 0.9
_INCREASE = 0.03
# Share of what rungs above use that is not counted for those below.
_DISCOUNT_ABOVE = 0.5
_LEAST_SCALE, _MOST_SCALE = 1 / 16, 64.0
# The scale rises only while the device was used this much, or somebody waited: nothing is learned from an idle one.
_FULL_SHARE = 0.85


class Device:
    """The shares in use of one device, and its scale.

    Args:
        part: How much of it this process may use; 1 is all.
    """

    __slots__ = (
        "_eased_s", "_num_broken", "_num_full", "_num_seen", "_used_by_rung", "num_in_flight", "num_replicas", "part",
        "scale", "tokens_ahead", "used",
    )  # fmt: skip

    def __init__(self, part: float = 1.0) -> None:
        self.part = part
        self.num_replicas = 1
        """Of the one rung it is for, each on hardware of its own: so many devices in one."""
        self.scale = 1.0
        self.used = 0.0
        self._used_by_rung: dict[int, float] = {}
        self.num_in_flight = 0
        self.tokens_ahead = 0.0
        """Prompt tokens of requests that have started and not answered yet, weighted by what their rung takes."""
        self._num_seen = self._num_broken = self._num_full = 0
        self._eased_s = -1e9  # when the scale fell last

    @property
    def capacity(self) -> float:
        """What the shares of all requests may add up to."""
        return self.part * self.num_replicas

    @property
    def load(self) -> float:
        """Share of the capacity in use; 1 is full."""
        return self.used / self.capacity

    @property
    def is_full(self) -> bool:
        """Whether hardly anything more could start."""
        return self.load >= _FULL_SHARE

    def has_room(self, share: float, *, rung: int = 0, up_to: float = 1.0) -> bool:
        """Whether a request that uses `share` may start on a rung; an idle device takes any.

        What rungs above it use counts half. Where the ladder has just stepped down those above are full of requests
        that take seconds to end, and refusing everybody meanwhile would cost more answers than it saves.
        """
        if not self.num_in_flight:
            return True
        above = sum(used for other, used in self._used_by_rung.items() if other < rung) if rung else 0.0
        return self.used - _DISCOUNT_ABOVE * above + share <= up_to * self.capacity + 1e-9

    def take(self, share: float, *, rung: int = 0, num_tokens: float) -> None:
        """A request starts."""
        self._used_by_rung[rung] = self._used_by_rung.get(rung, 0.0) + share
        self.used += share
        self.num_in_flight += 1
        self.tokens_ahead += num_tokens

    def note_first_byte(self, num_tokens: float) -> None:
        """The prompt of one of them has been computed, or will not be."""
        self.tokens_ahead -= num_tokens

    def give_back(self, share: float, *, rung: int = 0) -> None:
        """A request has ended. With none left the rounding errors go too."""
        self.num_in_flight -= 1
        self.used -= share
        self._used_by_rung[rung] -= share
        if not self.num_in_flight:
            self.used = self.tokens_ahead = 0.0
            self._used_by_rung.clear()

    def note_answer(
        self, *, kept_promise: bool, was_full: bool, attainment: float, started_s: float, now_s: float
    ) -> None:
        """One answer has ended.

        Args:
            kept_promise: Whether the engine did its part.
            was_full: The device was in full use, or somebody waited for it.
            attainment: Share of the answers that must keep the promise.
            started_s: When it began; what began before the scale fell says nothing about what it is now.
            now_s: When it ended.
        """
        if started_s < self._eased_s:
            return
        self._num_seen += 1
        self._num_broken += not kept_promise
        self._num_full += was_full
        # enough broken ones settle it before the window is over
        is_broken = self._num_broken > max(1.0, (1 - attainment) * _WINDOW)
        if not is_broken and self._num_seen < _WINDOW:
            return
        if is_broken:
            self.scale = max(_LEAST_SCALE, self.scale * _DECREASE)
            self._eased_s = now_s
        elif 2 * self._num_full >= self._num_seen:
            self.scale = min(_MOST_SCALE, self.scale + _INCREASE)
        self._num_seen = self._num_broken = self._num_full = 0
