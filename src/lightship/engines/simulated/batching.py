"""Continuous batching as a state machine without a clock: what the next engine step computes, and what comes of it.

                 .------------- preempted: KV cache full, recomputed later ------------.
                 v                                                                     |
    submit --> WAITING --slot and blocks--> PREFILLING --last chunk, 1st token--> DECODING --last token--> FINISHED

One step gives every decoding sequence its next token first, then spends what is left of `max_batched_tokens` on
prompts in the order they came, the last one cut where the budget ends. A prompt joins when the KV cache has room for
all of it. When a decoding sequence needs a block and there is none, the youngest sequence gives up its blocks and
waits in front of the queue; the oldest never does, so that every request finishes.

This is what OpenVINO GenAI does with `dynamic_split_fuse` and vLLM with chunked prefill, up to this: GenAI gives a
prompt blocks chunk by chunk and takes back only as many blocks as are needed, which matters only when the cache is
full.

A step is planned and completed in two calls, because in real time requests come and go while it runs. All work per
step that grows with the number of sequences is one copy of a list; block needs and ends are known ahead and looked up
by step number.

Source: OpenVINO GenAI, `src/cpp/src/continuous_batching/scheduler.hpp`; vLLM, `vllm/v1/core/sched/scheduler.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightship.engines.simulated.cost_model import prefill_pairs, work_duration_s
from lightship.engines.simulated.kv_cache import KvCache
from lightship.ports.engine_profile import EngineLimits, EngineProfile, EngineWork


@dataclass(eq=False, slots=True)
class BatchSequence:
    """One sequence: what it asks for, then the scheduler's own record of it.

    Args:
        num_output_tokens: After so many it is finished; at least 1.
        block_hashes: Content of its full blocks from the start, as far as known: prompt first, then output.
    """

    sequence_id: int
    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: Sequence[int] = ()
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    emitted: list[tuple[int, int]] = field(default_factory=list)
    """(number of the first step, number of steps in a row) that gave it a token each."""
    _num_generated: int = 0  # at `_decodes_from`
    _num_computed: int = 0  # while it is prefilling
    _decodes_from: int = -1  # number of its first decode step; -1 while it does not decode
    _turn: int = 0  # invalidates what was looked ahead
    _num_published: int = 0
    _shared: list[int] = field(default_factory=list)
    _num_private: int = 0


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step to come: what it computes and how long that takes."""

    work: EngineWork
    duration_s: float


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step brought. `emitting` got one token each; those in `finished` got their last."""

    step: int
    emitting: list[BatchSequence]
    finished: list[BatchSequence]


class Batcher:
    """The sequences of one engine.

    Args:
        profile: Costs and limits.

    Concurrency: none of its own; one owner calls it.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self.limits: EngineLimits = profile.limits
        self.cache = KvCache(profile.limits.num_kv_blocks, has_prefix_cache=profile.limits.has_prefix_cache)
        self._costs = profile.costs
        self._waiting: deque[BatchSequence] = deque()
        self._running: dict[int, BatchSequence] = {}  # in the order they joined
        self._prefilling: dict[int, BatchSequence] = {}
        self._decoding: dict[int, BatchSequence] = {}
        self._num_context_tokens = 0  # that the decoding sequences would read in the next step
        self._step = 0
        self._ends_at: dict[int, list[tuple[BatchSequence, int]]] = {}
        self._blocks_at: dict[int, list[tuple[BatchSequence, int]]] = {}
        self._chunks: list[tuple[BatchSequence, int]] = []
        self._num_batched_before = 0  # tokens of the last step
        self._is_planned = False

    @property
    def num_running(self) -> int:
        """Sequences that hold KV cache."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    def has_room(self, num_sequences: int = 1) -> bool:
        """Whether the queue would take that many more."""
        num_live = len(self._running) + len(self._waiting)
        return num_live + num_sequences <= self.limits.max_sequences + self.limits.max_waiting_requests

    def fits(self, *, num_prompt_tokens: int, num_output_tokens: int) -> bool:
        """Whether a sequence could ever run."""
        return (
            num_prompt_tokens >= 1
            and num_output_tokens >= 1
            and num_prompt_tokens + num_output_tokens <= self.limits.usable_context
        )

    def submit(self, sequence: BatchSequence) -> None:
        """Puts a sequence that `fits` at the end of the queue."""
        assert self.fits(num_prompt_tokens=sequence.num_prompt_tokens, num_output_tokens=sequence.num_output_tokens), (
            "ask `fits` first"
        )
        self._waiting.append(sequence)

    def cancel(self, sequence: BatchSequence) -> None:
        """Forgets a sequence wherever it is; a step under way is not shortened. Harmless when it has finished."""
        if sequence.sequence_id in self._running:
            self._leave(sequence, self._step)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan_step(self) -> PlannedStep | None:
        """The next step, or None when there is nothing to do. Complete it before planning another."""
        assert not self._is_planned, "the last step was not completed"
        self._give_blocks()
        num_decoding, num_context = len(self._decoding), self._num_context_tokens
        num_new = self._fill_with_prompts(self.limits.max_batched_tokens - num_decoding)
        if not num_decoding and not self._chunks:
            return None
        self._is_planned = True
        num_prefill = sum(num_tokens for _, num_tokens in self._chunks)
        num_batched = num_decoding + num_prefill
        work = EngineWork(
            num_steps=1,
            num_batch_changes=int(num_batched != self._num_batched_before),
            num_prefill_tokens=num_prefill,
            num_prefill_pairs=sum(
                prefill_pairs(num_before=sequence._num_computed, num_tokens=num_tokens)
                for sequence, num_tokens in self._chunks
            ),
            num_decode_tokens=num_decoding,
            num_context_tokens=num_context,
            num_new_requests=num_new,
        )
        self._num_batched_before = num_batched
        return PlannedStep(work, work_duration_s(self._costs, work))

    def complete_step(self) -> StepOutcome:
        """What the planned step brought."""
        assert self._is_planned, "plan a step first"
        self._is_planned = False
        step = self._step
        emitting = list(self._decoding.values())
        self._num_context_tokens += len(emitting)
        finished = [sequence for sequence, turn in self._ends_at.pop(step, ()) if sequence._turn == turn]
        self._step = step + 1
        for sequence in finished:
            self._leave(sequence, self._step)
        for sequence, num_tokens in self._chunks:
            if self._prefilling.get(sequence.sequence_id) is sequence:  # else it was cancelled meanwhile
                self._finish_chunk(sequence, num_tokens, emitting, finished)
        self._chunks = []
        return StepOutcome(step, emitting, finished)

    def _finish_chunk(
        self,
        sequence: BatchSequence,
        num_tokens: int,
        emitting: list[BatchSequence],
        finished: list[BatchSequence],
    ) -> None:
        sequence._num_computed += num_tokens
        self._publish(sequence, sequence._num_computed)
        num_known = sequence.num_prompt_tokens + sequence._num_generated
        if sequence._num_computed < num_known:
            return
        del self._prefilling[sequence.sequence_id]
        sequence._num_generated += 1
        emitting.append(sequence)
        self._decoding[sequence.sequence_id] = sequence
        self._num_context_tokens += num_known + 1
        sequence._decodes_from = self._step
        num_left = sequence.num_output_tokens - sequence._num_generated
        if not num_left:
            finished.append(sequence)
            self._leave(sequence, self._step)
            return
        self._ends_at.setdefault(self._step + num_left - 1, []).append((sequence, sequence._turn))
        until_block = -num_known % self.limits.kv_block_tokens
        if until_block < num_left:
            self._blocks_at.setdefault(self._step + until_block, []).append((sequence, sequence._turn))

    def _give_blocks(self) -> None:
        """Every decoding sequence whose last block is full gets another, at the price of the youngest sequences."""
        for sequence, turn in self._blocks_at.pop(self._step, ()):
            if sequence._turn != turn:
                continue  # it ended, or was preempted for another one
            num_stored = sequence.num_prompt_tokens + self._num_generated(sequence) - 1
            self._publish(sequence, num_stored)
            while not self.cache.take(1):
                youngest = self._running[next(reversed(self._running))]
                self._preempt(youngest)
                if youngest is sequence:
                    break
            else:
                sequence._num_private += 1
                next_step = self._step + self.limits.kv_block_tokens
                if (
                    num_stored + self.limits.kv_block_tokens
                    < sequence.num_prompt_tokens + sequence.num_output_tokens - 1
                ):
                    self._blocks_at.setdefault(next_step, []).append((sequence, turn))

    def _fill_with_prompts(self, num_tokens: int) -> int:
        """Cuts prompts into the rest of the step; how many requests joined."""
        for sequence in self._prefilling.values():
            if not num_tokens:
                return 0
            num_tokens -= self._cut_chunk(sequence, num_tokens)
        num_new = 0
        while num_tokens and self._waiting and len(self._running) < self.limits.max_sequences:
            if not self._join(self._waiting[0]):
                break
            sequence = self._waiting.popleft()
            num_new += sequence.num_preemptions == 0
            num_tokens -= self._cut_chunk(sequence, num_tokens)
        return num_new

    def _cut_chunk(self, sequence: BatchSequence, num_tokens: int) -> int:
        num_known = sequence.num_prompt_tokens + sequence._num_generated
        num_tokens = min(num_tokens, num_known - sequence._num_computed)
        self._chunks.append((sequence, num_tokens))
        return num_tokens

    def _join(self, sequence: BatchSequence) -> bool:
        """Whether the sequence got blocks for all its known tokens, those of the prefix cache first."""
        block_tokens = self.limits.kv_block_tokens
        num_known = sequence.num_prompt_tokens + sequence._num_generated
        usable = sequence.block_hashes[: (num_known - 1) // block_tokens]  # the last token is always computed
        num_cached, num_idle = self.cache.count_matches(usable)
        num_needed = -(-num_known // block_tokens) - num_cached
        if num_needed > self.cache.num_available - num_idle:
            return False
        self.cache.share(usable[:num_cached])
        self.cache.take(num_needed)
        sequence._shared = list(usable[:num_cached])
        sequence._num_private = num_needed
        sequence._num_published = num_cached
        sequence._num_computed = num_cached * block_tokens
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = sequence._num_computed
        self._running[sequence.sequence_id] = sequence
        self._prefilling[sequence.sequence_id] = sequence
        return True

    def _publish(self, sequence: BatchSequence, num_stored: int) -> None:
        """Makes full blocks of known content findable for others."""
        end = min(num_stored // self.limits.kv_block_tokens, len(sequence.block_hashes))
        for block_hash in sequence.block_hashes[sequence._num_published : end]:
            if self.cache.publish(block_hash):
                sequence._shared.append(block_hash)
                sequence._num_private -= 1
        sequence._num_published = max(sequence._num_published, end)

    def _preempt(self, sequence: BatchSequence) -> None:
        num_generated = self._num_generated(sequence)
        self._leave(sequence, self._step)
        sequence._num_generated = num_generated
        sequence.num_preemptions += 1
        self._waiting.appendleft(sequence)

    def _leave(self, sequence: BatchSequence, before_step: int) -> None:
        """Takes a sequence out of the batch and gives its blocks back; its last token came before that step."""
        del self._running[sequence.sequence_id]
        sequence._turn += 1
        if self._prefilling.pop(sequence.sequence_id, None) is None:
            del self._decoding[sequence.sequence_id]
            num_decoded = before_step - sequence._decodes_from
            self._num_context_tokens -= sequence.num_prompt_tokens + sequence._num_generated + num_decoded
            sequence.emitted.append((sequence._decodes_from - 1, 1 + num_decoded))
            self._publish(sequence, sequence.num_prompt_tokens + sequence._num_generated + num_decoded - 1)
        self.cache.release(sequence._shared, num_private=sequence._num_private)
        sequence._shared, sequence._num_private, sequence._num_published = [], 0, 0
        sequence._decodes_from = -1

    def _num_generated(self, sequence: BatchSequence) -> int:
        if sequence._decodes_from < 0:
            return sequence._num_generated
        return sequence._num_generated + self._step - sequence._decodes_from
