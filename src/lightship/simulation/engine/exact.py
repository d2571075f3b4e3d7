"""The simulated engine step by step: the scheduler that `serve-simulated` paces by the clock, in virtual time."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from lightship.engines.simulated.batching import Batcher, BatchSequence
from lightship.ports.engine_profile import EngineProfile
from lightship.simulation.engine.base import NOTHING, Progress, Refusal


class ExactEngine:
    """See `EngineModel`.

    Args:
        profile: Costs and limits.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._latency_s = profile.costs.request_latency_s
        self._factor = 1.0
        self._start_anew()

    def _start_anew(self) -> None:
        self._batcher = Batcher(self._profile)
        self._coming: deque[tuple[float, BatchSequence]] = deque()
        self._handles: dict[int, Any] = {}
        self._sequences: dict[Any, BatchSequence] = {}
        self._has_token: set[int] = set()
        self._num_ids = 0
        self._is_stepping = False
        self._has_prompts = False
        self.next_event_s = math.inf

    @property
    def num_under_way(self) -> int:
        """Requests it has, waiting ones included."""
        return len(self._handles)

    def submit(self, handle: Any, *, num_prompt_tokens: int, num_output_tokens: int, now_s: float) -> Refusal | None:
        """See `EngineModel`."""
        if not self._batcher.fits(num_prompt_tokens=num_prompt_tokens, num_output_tokens=num_output_tokens):
            return Refusal.TOO_LONG
        if not self._batcher.has_room(1 + len(self._coming)):
            return Refusal.FULL
        self._num_ids += 1
        sequence = BatchSequence(self._num_ids, num_prompt_tokens, num_output_tokens)
        self._handles[sequence.sequence_id] = handle
        self._sequences[handle] = sequence
        self._coming.append((now_s + self._latency_s, sequence))
        if not self._is_stepping:
            self.next_event_s = min(self.next_event_s, now_s + self._latency_s)
        return None

    def cancel(self, handle: Any, now_s: float) -> None:
        """See `EngineModel`."""
        del now_s  # a step ends when it ends
        sequence = self._sequences.pop(handle)
        del self._handles[sequence.sequence_id]
        self._has_token.discard(sequence.sequence_id)
        coming = next((entry for entry in self._coming if entry[1] is sequence), None)
        if coming is not None:
            self._coming.remove(coming)
        else:
            self._batcher.cancel(sequence)

    def advance(self) -> Progress:
        """See `EngineModel`."""
        now_s = self.next_event_s
        progress = self._complete() if self._is_stepping else NOTHING
        while self._coming and self._coming[0][0] <= now_s:
            self._batcher.submit(self._coming.popleft()[1])
        planned = self._batcher.plan_step()
        self._is_stepping = planned is not None
        if planned is None:
            self.next_event_s = self._coming[0][0] if self._coming else math.inf
        else:
            self._has_prompts = planned.work.num_prefill_tokens > 0
            self.next_event_s = now_s + planned.duration_s * self._factor
        return progress

    def set_slowdown(self, factor: float, now_s: float) -> None:
        """See `EngineModel`."""
        if self._is_stepping:
            self.next_event_s = now_s + max(0.0, self.next_event_s - now_s) * factor / self._factor
        self._factor = factor

    def fail(self) -> list[Any]:
        """See `EngineModel`."""
        handles = list(self._handles.values())
        self._start_anew()
        return handles

    def _complete(self) -> Progress:
        outcome = self._batcher.complete_step()
        first: list[Any] = []
        if self._has_prompts:  # only a step with prompts brings first tokens
            for sequence in outcome.emitting:
                if sequence.sequence_id not in self._has_token and sequence.sequence_id in self._handles:
                    self._has_token.add(sequence.sequence_id)
                    first.append(self._handles[sequence.sequence_id])
        finished = []
        for sequence in outcome.finished:
            handle = self._handles.pop(sequence.sequence_id)
            del self._sequences[handle]
            self._has_token.discard(sequence.sequence_id)
            finished.append(handle)
        return Progress(first, finished)
