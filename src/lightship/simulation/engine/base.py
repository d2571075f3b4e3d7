"""What a simulated replica can be asked and told, whichever way its steps are made."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class Fidelity(StrEnum):
    """How a replica's steps are made."""

    EXACT = "exact"  # every step of the simulated engine, with preemption when the KV cache is full
    FAST = "fast"  # runs of equal steps at once; a request waits where the KV cache would not hold all of it


class Refusal(StrEnum):
    """Why an engine takes a request not at all."""

    FULL = "full"
    TOO_LONG = "too-long"


class Progress(NamedTuple):
    """What became of requests at one moment: `first` got their first token, `finished` their last (maybe both)."""

    first: Sequence[Any]
    finished: Sequence[Any]


NOTHING = Progress((), ())


class EngineModel(Protocol):
    """One engine.

    Whoever drives it calls `advance` when virtual time is `next_event_s`, and never lets time pass it by. Handles are
    the caller's, opaque here.
    """

    next_event_s: float
    """When something happens in it next; infinite while it has nothing to do."""

    def submit(self, handle: Any, *, num_prompt_tokens: int, num_output_tokens: int, now_s: float) -> Refusal | None:
        """Takes a request, or says why not. It joins the batch at the end of the step under way."""
        ...

    def cancel(self, handle: Any, now_s: float) -> None:
        """Forgets a request wherever it is; a step under way is not shortened."""
        ...

    def advance(self) -> Progress:
        """What happens at `next_event_s`."""
        ...

    def set_slowdown(self, factor: float, now_s: float) -> None:
        """From now on its steps take so many times their profile's time; the rest of a step under way, too."""
        ...

    def fail(self) -> list[Any]:
        """The process ends: everything it had, in the order it came; it is empty then."""
        ...
