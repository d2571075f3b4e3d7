"""The simulated engine with runs of equal steps taken at once: one event per change of the batch instead of per step.

Between two changes of the batch all decoding sequences get a token in every step, so k steps take

    k (s + d n + c C) + c n k (k - 1) / 2 + b

with n sequences, C tokens of context at the start, and the profile's costs of a step s, an output token d, a token of
context c and a change of the batch b. A prompt's steps are made one by one. So this is the same arithmetic as that of
`engines.simulated.batching`, which steps; it differs where that one preempts or finds a prompt in its prefix cache:
here a request joins when the KV cache holds its prompt and all of its answer, and no prompt is ever known.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Any

from lightship.ports.engine_profile import EngineProfile
from lightship.simulation.engine.base import NOTHING, Progress, Refusal


class _Sequence:
    """One request in the engine."""

    __slots__ = ("available_s", "handle", "is_cancelled", "num_blocks", "num_computed", "num_output", "num_prompt")

    def __init__(self, handle: Any, num_prompt: int, num_output: int, available_s: float, num_blocks: int) -> None:
        self.handle = handle
        self.num_prompt = num_prompt
        self.num_output = num_output
        self.available_s = available_s
        self.num_blocks = num_blocks
        self.num_computed = 0
        self.is_cancelled = False


class SkippingEngine:
    """See the module and `EngineModel`.

    Args:
        profile: Costs and limits.
    """

    __slots__ = (
        "_batch_change_s", "_by_handle", "_chunks", "_context", "_context_s", "_costs", "_decode_s", "_decoding",
        "_extra_s", "_factor", "_first_s", "_free_blocks", "_growth_s", "_has_cancelled", "_is_fixed", "_latency_s",
        "_limits",
        "_new_s", "_num_batched_before", "_num_pushed", "_num_running", "_pair_s", "_prefill_s", "_prefilling",
        "_run_steps", "_start_s", "_step", "_step_s", "_waiting", "next_event_s",
    )  # fmt: skip

    def __init__(self, profile: EngineProfile) -> None:
        costs, self._limits = profile.costs, profile.limits
        self._costs = costs
        self._latency_s = costs.request_latency_s
        self._factor = 1.0
        self._take_costs()
        self._waiting: deque[_Sequence] = deque()
        self._prefilling: list[_Sequence] = []
        self._decoding: list[tuple[int, int, _Sequence]] = []  # heap by the step after which each is finished
        self._by_handle: dict[Any, _Sequence] = {}
        self._num_running = 0
        self._free_blocks = self._limits.num_kv_blocks
        self._context = 0
        self._step = 0
        self._num_pushed = 0
        self._num_batched_before = 0
        self._chunks: list[tuple[_Sequence, int]] = []
        self._start_s = 0.0
        self._run_steps = 0  # 0: no step is under way
        self._first_s = self._growth_s = self._extra_s = 0.0
        self._is_fixed = True
        self._has_cancelled = False
        self.next_event_s = math.inf

    @property
    def num_under_way(self) -> int:
        """Requests it has, waiting ones included."""
        return len(self._by_handle)

    def submit(self, handle: Any, *, num_prompt_tokens: int, num_output_tokens: int, now_s: float) -> Refusal | None:
        """See `EngineModel`."""
        limits = self._limits
        num_tokens = num_prompt_tokens + num_output_tokens
        if num_tokens > limits.usable_context or num_prompt_tokens < 1 or num_output_tokens < 1:
            return Refusal.TOO_LONG
        if len(self._by_handle) >= limits.max_sequences + limits.max_waiting_requests:
            return Refusal.FULL
        available_s = now_s + self._latency_s
        # the last token is never stored
        num_blocks = -(-max(1, num_tokens - 1) // limits.kv_block_tokens)
        sequence = _Sequence(handle, num_prompt_tokens, num_output_tokens, available_s, num_blocks)
        self._by_handle[handle] = sequence
        self._waiting.append(sequence)
        if not self._run_steps:
            self.next_event_s = min(self.next_event_s, available_s)
        elif not self._is_fixed and available_s < self.next_event_s and len(self._waiting) == 1:
            self._cut_run(available_s)
        return None

    def cancel(self, handle: Any, now_s: float) -> None:
        """See `EngineModel`."""
        sequence = self._by_handle.pop(handle)
        sequence.is_cancelled = True
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
            self._num_running -= 1
            self._free_blocks += sequence.num_blocks
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:  # it decodes: the step under way is its last
            self._has_cancelled = True
            if self._run_steps and not self._is_fixed:
                self._cut_run(now_s)

    def advance(self) -> Progress:
        """See `EngineModel`."""
        now_s = self.next_event_s
        progress = self._complete() if self._run_steps else NOTHING
        self._plan(now_s)
        return progress

    def set_slowdown(self, factor: float, now_s: float) -> None:
        """See `EngineModel`."""
        if factor == self._factor:
            return
        if self._run_steps:
            if not self._is_fixed:
                self._cut_run(now_s)
                self._is_fixed = True
            self.next_event_s = now_s + max(0.0, self.next_event_s - now_s) * factor / self._factor
        self._factor = factor
        self._take_costs()

    def fail(self) -> list[Any]:
        """See `EngineModel`."""
        handles = list(self._by_handle)
        self._by_handle.clear()
        self._waiting.clear()
        self._prefilling.clear()
        self._decoding.clear()
        self._chunks = []
        self._num_running = self._context = self._run_steps = self._num_batched_before = 0
        self._has_cancelled = False
        self._free_blocks = self._limits.num_kv_blocks
        self.next_event_s = math.inf
        return handles

    def _take_costs(self) -> None:
        costs, factor = self._costs, self._factor
        self._step_s = costs.step_s * factor
        self._batch_change_s = costs.batch_change_s * factor
        self._prefill_s = costs.prefill_token_s * factor
        self._pair_s = costs.prefill_pair_s * factor
        self._decode_s = costs.decode_token_s * factor
        self._context_s = costs.context_token_s * factor
        self._new_s = costs.new_request_s * factor

    def _plan(self, now_s: float) -> None:
        """The next run of steps begins; `next_event_s` is its end."""
        waiting = self._waiting
        if self._prefilling or (waiting and waiting[0].available_s <= now_s):
            num_new = self._cut_prompts(now_s)
            if self._chunks:
                self._plan_prompts(now_s, num_new)
                return
        num_decoding = len(self._decoding)
        if not num_decoding:
            self._run_steps = 0
            self.next_event_s = waiting[0].available_s if waiting else math.inf
            return
        self._run_steps = self._decoding[0][0] - self._step
        self._start_s = now_s
        self._first_s = self._step_s + self._decode_s * num_decoding + self._context_s * self._context
        self._growth_s = self._context_s * num_decoding
        self._extra_s = self._batch_change_s if num_decoding != self._num_batched_before else 0.0
        self._num_batched_before = num_decoding
        self._is_fixed = False
        self.next_event_s = self._end_of(self._run_steps)
        if waiting and now_s < waiting[0].available_s < self.next_event_s:
            self._cut_run(waiting[0].available_s)

    def _plan_prompts(self, now_s: float, num_new: int) -> None:
        num_decoding, num_prefill, num_pairs = len(self._decoding), 0, 0
        for sequence, num_tokens in self._chunks:
            num_prefill += num_tokens
            num_pairs += num_tokens * sequence.num_computed + num_tokens * (num_tokens + 1) // 2
        duration_s = (
            self._step_s
            + self._prefill_s * num_prefill
            + self._pair_s * num_pairs
            + self._decode_s * num_decoding
            + self._context_s * self._context
            + self._new_s * num_new
        )
        if num_decoding + num_prefill != self._num_batched_before:
            duration_s += self._batch_change_s
        self._num_batched_before = num_decoding + num_prefill
        self._run_steps, self._start_s, self._is_fixed = 1, now_s, True
        self.next_event_s = now_s + duration_s

    def _cut_prompts(self, now_s: float) -> int:
        """What is left of a step beside its output tokens goes to prompts, first come first served; how many joined."""
        left = self._limits.max_batched_tokens - len(self._decoding)
        chunks = self._chunks = []
        for sequence in self._prefilling:
            if left <= 0:
                return 0
            num_tokens = min(left, sequence.num_prompt - sequence.num_computed)
            chunks.append((sequence, num_tokens))
            left -= num_tokens
        num_new, waiting = 0, self._waiting
        while left > 0 and waiting and self._num_running < self._limits.max_sequences:
            sequence = waiting[0]
            if sequence.available_s > now_s or sequence.num_blocks > self._free_blocks:
                break
            waiting.popleft()
            self._free_blocks -= sequence.num_blocks
            self._num_running += 1
            self._prefilling.append(sequence)
            num_tokens = min(left, sequence.num_prompt)
            chunks.append((sequence, num_tokens))
            left -= num_tokens
            num_new += 1
        return num_new

    def _end_of(self, num_steps: int) -> float:
        growth_s = self._growth_s * num_steps * (num_steps - 1) / 2 if self._growth_s else 0.0
        return self._start_s + self._extra_s + num_steps * self._first_s + growth_s

    def _cut_run(self, at_s: float) -> None:
        """The run under way ends with its first step that is not over before `at_s`."""
        passed_s = at_s - self._start_s - self._extra_s
        first_s, growth_s = self._first_s, self._growth_s
        if growth_s:
            # g k^2 / 2 + (f - g / 2) k = passed
            half = first_s - growth_s / 2
            num_steps = (math.sqrt(max(0.0, half * half + 2 * growth_s * passed_s)) - half) / growth_s
        else:
            num_steps = passed_s / first_s
        steps = max(1, math.ceil(num_steps - 1e-9))
        if steps < self._run_steps:
            self._run_steps = steps
            self.next_event_s = self._end_of(steps)

    def _complete(self) -> Progress:
        """What the run that ends now brought."""
        steps, decoding = self._run_steps, self._decoding
        self._step += steps
        self._context += len(decoding) * steps
        self._run_steps = 0
        finished: list[Any] = []
        if self._has_cancelled:
            self._drop_cancelled()
        while decoding and decoding[0][0] <= self._step:
            sequence = heapq.heappop(decoding)[2]
            self._context -= sequence.num_prompt + sequence.num_output
            self._leave(sequence, finished)
        if not self._chunks:
            return Progress((), finished)
        first: list[Any] = []
        chunks, self._chunks = self._chunks, []
        for sequence, num_tokens in chunks:
            if sequence.is_cancelled:
                continue
            sequence.num_computed += num_tokens
            if sequence.num_computed < sequence.num_prompt:
                continue
            self._prefilling.remove(sequence)
            first.append(sequence.handle)
            if sequence.num_output == 1:
                self._leave(sequence, finished)
                continue
            self._context += sequence.num_prompt + 1
            self._num_pushed += 1
            heapq.heappush(decoding, (self._step + sequence.num_output - 1, self._num_pushed, sequence))
        return Progress(first, finished)

    def _drop_cancelled(self) -> None:
        self._has_cancelled = False
        for end_step, _, sequence in self._decoding:
            if sequence.is_cancelled:
                num_left = max(0, end_step - self._step)
                self._context -= sequence.num_prompt + sequence.num_output - num_left
                self._num_running -= 1
                self._free_blocks += sequence.num_blocks
        self._decoding[:] = [entry for entry in self._decoding if not entry[2].is_cancelled]
        heapq.heapify(self._decoding)

    def _leave(self, sequence: _Sequence, finished: list[Any]) -> None:
        self._num_running -= 1
        self._free_blocks += sequence.num_blocks
        del self._by_handle[sequence.handle]
        finished.append(sequence.handle)
