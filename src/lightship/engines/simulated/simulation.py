"""A whole load through the cost model in virtual time: what each request would have seen. Pure; a day takes seconds."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lightship.engines.simulated.batching import Batcher, BatchSequence
from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineProfile


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """One request of a load. `block_hashes` names the content of its prompt's full blocks; none means a unique prompt.

    A hash covers all tokens before its block too, and blocks have the profile's `kv_block_tokens`.
    """

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: tuple[int, ...] = ()


class SimulatedEnd(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    REJECTED = "rejected"  # the queue was full
    TOO_LONG = "too_long"  # prompt and output are over the context length


@dataclass(frozen=True)
class RequestOutcome:
    """What one request saw. Times are on the load's clock; those of a request that was refused are None."""

    request: SimulatedRequest
    end: SimulatedEnd
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    _emitted: tuple[tuple[int, int], ...] = ()
    _step_ends_s: array[float] = field(default_factory=lambda: array("d"), repr=False)

    @property
    def is_finished(self) -> bool:
        """Whether it got all its tokens."""
        return self.end is SimulatedEnd.FINISHED

    @property
    def token_times_s(self) -> tuple[float, ...]:
        """When each token came; made anew at each call."""
        return tuple(time_s for start, count in self._emitted for time_s in self._step_ends_s[start : start + count])

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token."""
        return self._step_ends_s[self._emitted[0][0]] - self.request.arrival_s if self._emitted else None

    @property
    def last_token_s(self) -> float | None:
        """When the last token came."""
        return self._step_ends_s[sum(self._emitted[-1]) - 1] if self._emitted else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None below two tokens."""
        last_s, ttft_s = self.last_token_s, self.ttft_s
        if last_s is None or ttft_s is None or self.request.num_output_tokens < 2:
            return None
        return (last_s - self.request.arrival_s - ttft_s) / (self.request.num_output_tokens - 1)

    def meets(self, *, ttft_s: float, tpot_s: float) -> bool:
        """Whether it finished within both limits."""
        if self.ttft_s is None or not self.is_finished:
            return False
        return self.ttft_s <= ttft_s and (self.tpot_s is None or self.tpot_s <= tpot_s)


def simulate(profile: EngineProfile, requests: Sequence[SimulatedRequest]) -> list[RequestOutcome]:
    """What each request would see on one replica with this profile, in the order of `requests`.

    Steps follow one another without a gap while there is work. A request that comes during a step joins after it.

    Raises: UsageError: the arrivals are not in order, or a request asks for nothing.
    """
    _check(requests)
    latency_s = profile.costs.request_latency_s
    batcher = Batcher(profile)
    step_ends_s: array[float] = array("d")
    sequences: dict[int, BatchSequence] = {}
    ends: dict[int, SimulatedEnd] = {}
    now_s = 0.0
    index = 0
    while True:
        while index < len(requests) and requests[index].arrival_s + latency_s <= now_s:
            _submit(batcher, index, requests[index], sequences, ends)
            index += 1
        planned = batcher.plan_step()
        if planned is None:
            if index == len(requests):
                break
            now_s = requests[index].arrival_s + latency_s
            continue
        now_s += planned.duration_s
        step_ends_s.append(now_s)
        batcher.complete_step()
    return [
        _outcome(request, sequences.get(position), ends.get(position), step_ends_s)
        for position, request in enumerate(requests)
    ]


def _check(requests: Sequence[SimulatedRequest]) -> None:
    previous_s = 0.0
    for index, request in enumerate(requests):
        where = f"request {index}"
        if not previous_s <= request.arrival_s < float("inf"):
            raise UsageError(
                f"arrival_s is {request.arrival_s!r} after {previous_s!r}", where=where, hint="Sort them; begin at 0."
            )
        if request.num_prompt_tokens < 1 or request.num_output_tokens < 1:
            raise UsageError("a request needs at least one prompt token and one output token", where=where)
        previous_s = request.arrival_s


def _submit(
    batcher: Batcher,
    index: int,
    request: SimulatedRequest,
    sequences: dict[int, BatchSequence],
    ends: dict[int, SimulatedEnd],
) -> None:
    if not batcher.fits(num_prompt_tokens=request.num_prompt_tokens, num_output_tokens=request.num_output_tokens):
        ends[index] = SimulatedEnd.TOO_LONG
    elif not batcher.has_room():
        ends[index] = SimulatedEnd.REJECTED
    else:
        sequences[index] = BatchSequence(
            index, request.num_prompt_tokens, request.num_output_tokens, request.block_hashes
        )
        batcher.submit(sequences[index])


def _outcome(
    request: SimulatedRequest,
    sequence: BatchSequence | None,
    end: SimulatedEnd | None,
    step_ends_s: array[float],
) -> RequestOutcome:
    if sequence is None:
        assert end is not None
        return RequestOutcome(request, end)
    return RequestOutcome(
        request,
        SimulatedEnd.FINISHED,
        sequence.num_cached_tokens,
        sequence.num_preemptions,
        tuple(sequence.emitted),
        step_ends_s,
    )
