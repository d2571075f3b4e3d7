"""Recorded loads: when requests came, how long prompts and answers were, and which prompts began alike.

The formats are in `trace_formats`; this module has the values, and what is done to a trace before it is replayed:

    read -> slice in time -> scale time -> scale lengths -> clamp lengths

Nothing is dropped or changed without being counted in `TraceChanges`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightship.errors import MeasurementError


@dataclass(frozen=True)
class TraceRequest:
    """One request of a trace.

    Args:
        arrival_s: Offset from the start of the trace.
        num_prompt_tokens: Length of the prompt.
        num_output_tokens: Length of the answer.
        prefix_blocks: Names of the prompt's blocks of `Trace.block_tokens` tokens, in order; two prompts that begin
            with the same names begin with the same text. Empty: shares nothing.
        session_id: Conversation it belongs to, or "".
        prompt: The text itself where the trace has it; then it is sent as it is.
    """

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    prefix_blocks: tuple[int, ...] = ()
    session_id: str = ""
    prompt: str | None = None


@dataclass(frozen=True)
class TraceSelection:
    """Which part of a trace is replayed, and how.

    Args:
        start_s: Offset in the trace, in its own time, from which requests are taken.
        duration_s: Length of the part in the trace's own time; None: to the end.
        time_scale: How many times as fast it is replayed; 2 doubles the request rate.
        length_scale: Factor on the lengths of prompts, blocks and answers.
        max_prompt_tokens: Longer prompts are cut to this.
        max_output_tokens: Longer answers are cut to this.
    """

    start_s: float = 0.0
    duration_s: float | None = None
    time_scale: float = 1.0
    length_scale: float = 1.0
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        _require("the start", self.start_s, self.start_s >= 0, "0 or more")
        for what, value in (
            ("the duration", self.duration_s),
            ("the time scale", self.time_scale),
            ("the length scale", self.length_scale),
            ("the longest prompt", self.max_prompt_tokens),
            ("the longest answer", self.max_output_tokens),
        ):
            _require(what, value, value is None or value > 0, "above 0")

    @property
    def name(self) -> str:
        """Text for protocol names; "" when the trace is replayed whole and as it is."""
        parts = [
            f"from{self.start_s:g}s" if self.start_s else "",
            f"for{self.duration_s:g}s" if self.duration_s is not None else "",
            f"x{self.time_scale:g}" if self.time_scale != 1 else "",
            f"len{self.length_scale:g}" if self.length_scale != 1 else "",
            f"p<={self.max_prompt_tokens}" if self.max_prompt_tokens is not None else "",
            f"o<={self.max_output_tokens}" if self.max_output_tokens is not None else "",
        ]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class TraceChanges:
    """How many requests were read and used, and how many were left out or changed, and why."""

    num_read: int
    num_used: int
    num_outside_slice: int = 0
    num_prompts_cut: int = 0
    num_answers_cut: int = 0
    num_raised_to_one_token: int = 0


@dataclass(frozen=True)
class Trace:
    """A load to replay, in order of arrival.

    `name` stands for the content: file stem and the first digits of a digest. `block_tokens` is the length of a prefix
    block. `duration_s` is the length of the part that was selected, in the time of the replay.
    """

    name: str
    format: str
    requests: tuple[TraceRequest, ...]
    block_tokens: float
    duration_s: float
    changes: TraceChanges
    selection: TraceSelection

    @property
    def offsets_s(self) -> tuple[float, ...]:
        """Arrival of every request."""
        return tuple(request.arrival_s for request in self.requests)

    @property
    def requests_per_s(self) -> float:
        """Mean rate over the duration."""
        return len(self.requests) / self.duration_s

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean wanted length of prompts."""
        return sum(request.num_prompt_tokens for request in self.requests) / len(self.requests)

    @property
    def mean_output_tokens(self) -> float:
        """Mean wanted length of answers."""
        return sum(request.num_output_tokens for request in self.requests) / len(self.requests)


def select_requests(
    requests: Sequence[TraceRequest],
    selection: TraceSelection,
    *,
    name: str,
    format_name: str,
    block_tokens: float,
) -> Trace:
    """The trace that `selection` makes of what a file held.

    Raises: MeasurementError: nothing is left.
    """
    end_s = math.inf if selection.duration_s is None else selection.start_s + selection.duration_s
    ordered = sorted(requests, key=lambda request: request.arrival_s)
    inside = [request for request in ordered if selection.start_s <= request.arrival_s < end_s]
    if not inside:
        last_s = ordered[-1].arrival_s if ordered else 0.0
        raise MeasurementError(
            f"no request between {selection.start_s:g} s and {end_s:g} s; the trace has {len(ordered)} in {last_s:g} s",
            where=name,
        )
    cut = _Cutting(selection)
    taken = tuple(cut.request(request) for request in inside)
    if selection.duration_s is None:
        # the last arrival is part of the load: the trace ends one mean gap after it
        span_s = taken[-1].arrival_s
        duration_s = span_s * (1 + 1 / max(1, len(taken) - 1)) or 1.0
    else:
        duration_s = selection.duration_s / selection.time_scale
    changes = replace(
        cut.changes, num_read=len(ordered), num_used=len(taken), num_outside_slice=len(ordered) - len(taken)
    )
    return Trace(name, format_name, taken, block_tokens * selection.length_scale, duration_s, changes, selection)


class _Cutting:
    """Applies a selection to one request after the other and counts what it changes."""

    def __init__(self, selection: TraceSelection) -> None:
        self._selection = selection
        self.changes = TraceChanges(0, 0)

    def request(self, request: TraceRequest) -> TraceRequest:
        """The request as it is replayed."""
        chosen = self._selection
        num_prompt_tokens = request.num_prompt_tokens
        if request.prompt is None:
            num_prompt_tokens = self._length(num_prompt_tokens, chosen.max_prompt_tokens, "num_prompts_cut")
        return replace(
            request,
            arrival_s=(request.arrival_s - chosen.start_s) / chosen.time_scale,
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=self._length(request.num_output_tokens, chosen.max_output_tokens, "num_answers_cut"),
        )

    def _length(self, wanted: int, longest: int | None, counter: str) -> int:
        length = round(wanted * self._selection.length_scale)
        if length < 1:
            self._count("num_raised_to_one_token")
            return 1
        if longest is not None and length > longest:
            self._count(counter)
            return longest
        return length

    def _count(self, name: str) -> None:
        self.changes = replace(self.changes, **{name: getattr(self.changes, name) + 1})


def _require(what: str, value: float | None, is_met: bool, expected: str) -> None:
    if not is_met or (value is not None and not math.isfinite(value)):
        raise MeasurementError(f"{what} must be {expected}, got {value:g}")
