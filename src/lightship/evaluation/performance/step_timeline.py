"""The steps of an engine, told from what clients saw of its requests. Pure.

    tokens of A   a0  a1  a2  a3
    tokens of B           b0  b1  b2  b3          one token for each sequence and step, so the tokens that follow one
                  |   |   |   |   |   |           another in one request mark the ends of steps
    step ends     0   1   2   3   4   5

While some request decodes, its tokens count the steps; where it ends, another that overlaps with it takes over. Each
request's tokens are put on consecutive steps, at the place that most of them suggest, so that a token that came a
moment late is not taken for another step's. Prompts are filled into the steps up to their first token, backwards and
as far as `max_batched_tokens` has room, which is what a scheduler that serves them in order does forwards. Time in
which nobody decodes shows no steps, so a run falls into stretches.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.engine_profile import EngineLimits, EngineWork, StepObservation

# Tokens of an event up to which a request counts as one that got an event for every token.
_ONE_TOKEN = 1.0001
# Tokens by which two steps must differ to be of different size: counts are fractions where events carry several tokens.
_DIFFERENT = 0.5


@dataclass
class _Step:
    ends_s: float
    weight: float  # engine steps it stands for: more than one where an event carries several tokens
    num_decode: float = 0.0
    num_context: float = 0.0
    num_prefill: float = 0.0
    num_pairs: float = 0.0
    num_new: float = 0.0
    prompts: list[_Prompt] = field(default_factory=list)  # whose first token came with it

    @property
    def num_tokens(self) -> float:
        return (self.num_decode + self.num_prefill) / self.weight


@dataclass
class _Prompt:
    sent_s: float
    num_cached: int
    num_left: float


@dataclass(frozen=True)
class TimedStep:
    """What one step computed and how long it took."""

    work: EngineWork
    duration_s: float


def timed_steps(records: Sequence[RequestRecord], limits: EngineLimits) -> list[list[TimedStep]]:
    """The steps that can be told, in stretches without a gap.

    Args:
        records: All requests that the engine had, answered in full.
        limits: Of the engine; only `max_batched_tokens` matters.
    """
    stretches = []
    for steps in _stretches(records):
        _place_outputs(records, steps)
        _place_prompts(steps, limits.max_batched_tokens)
        usable = _before_unseen_prompts(records, steps)
        stretches.append(_timed(steps[:usable]))
    return [stretch for stretch in stretches if stretch]


def step_observations(
    stretches: Sequence[Sequence[TimedStep]], *, min_steps: int, wanted_steps: int
) -> list[StepObservation]:
    """Sums over some `wanted_steps` steps in a row, so that a moment of delay at either end hardly counts.

    Their kind is `decode` where no prompt was computed, else `mixed`. Stretches below `min_steps` are left out.
    """
    found = []
    for stretch in stretches:
        if len(stretch) < min_steps:
            continue
        num_parts = max(1, len(stretch) // wanted_steps)
        for number in range(num_parts):
            part = stretch[number * len(stretch) // num_parts : (number + 1) * len(stretch) // num_parts]
            work = EngineWork(
                **{name: sum(getattr(step.work, name) for step in part) for name in EngineWork.__struct_fields__}
            )
            kind = "mixed" if work.num_prefill_tokens else "decode"
            found.append(StepObservation(kind=kind, work=work, duration_s=sum(step.duration_s for step in part)))
    return found


def _stretches(records: Sequence[RequestRecord]) -> list[list[_Step]]:
    """Ends of steps: the tokens of one request after the other, each beginning before the last one ended."""
    open_requests = sorted(
        (record for record in records if len(record.token_times_s) > 1), key=lambda record: record.token_times_s[0]
    )
    stretches: list[list[_Step]] = []
    steps: list[_Step] = []
    position = 0
    overlapping: list[RequestRecord] = []
    while position < len(open_requests) or overlapping:
        if not steps:
            first = open_requests[position]
            steps = [_Step(time_s, _tokens_per_event(first)) for time_s in first.token_times_s]
            stretches.append(steps)
            position += 1
        while position < len(open_requests) and open_requests[position].token_times_s[0] < steps[-1].ends_s:
            overlapping.append(open_requests[position])
            position += 1
        overlapping = [record for record in overlapping if record.token_times_s[-1] > steps[-1].ends_s]
        if not overlapping:
            steps = []
            continue
        # one event a token first, because only that shows every step; then the one that leads furthest
        successor = max(
            overlapping, key=lambda record: (_tokens_per_event(record) <= _ONE_TOKEN, record.token_times_s[-1])
        )
        overlapping.remove(successor)
        offset = _offset(successor.token_times_s, [step.ends_s for step in steps])
        weight = _tokens_per_event(successor)
        steps += [_Step(time_s, weight) for time_s in successor.token_times_s[max(0, len(steps) - offset) :]]
    return stretches


def _place_outputs(records: Sequence[RequestRecord], steps: list[_Step]) -> None:
    ends_s = [step.ends_s for step in steps]
    for record in records:
        times_s = record.token_times_s
        if not times_s or times_s[-1] < ends_s[0] or times_s[0] > ends_s[-1]:
            continue
        per_event = _tokens_per_event(record)
        is_exact = per_event <= _ONE_TOKEN
        offset = _offset(times_s, ends_s) if is_exact else 0
        for event, time_s in enumerate(times_s):
            place = event + offset if is_exact else _nearest(ends_s, time_s)
            if not 0 <= place < len(steps):
                continue
            step = steps[place]
            if event:
                step.num_decode += per_event
                step.num_context += per_event * (record.num_prompt_tokens + event * per_event)
            else:
                num_new = record.num_prompt_tokens - record.num_cached_tokens
                step.prompts.append(_Prompt(record.sent_s, record.num_cached_tokens, float(num_new)))


def _place_prompts(steps: Sequence[_Step], max_batched_tokens: int) -> None:
    """Fills prompts into the steps up to that of their first token, the last one first."""
    pending: list[_Prompt] = []
    for number in reversed(range(len(steps))):
        step = steps[number]
        pending += sorted(step.prompts, key=lambda prompt: -prompt.sent_s)
        room = max(0.0, max_batched_tokens * step.weight - step.num_decode)
        left = []
        for prompt in pending:
            # one that came while the step before was running could not be computed in it
            is_last_chance = number < 2 or prompt.sent_s >= steps[number - 2].ends_s
            num_tokens = prompt.num_left if is_last_chance else min(prompt.num_left, room)
            room = max(0.0, room - num_tokens)
            if num_tokens:
                prompt.num_left -= num_tokens
                num_before = prompt.num_cached + prompt.num_left
                step.num_prefill += num_tokens
                step.num_pairs += num_tokens * num_before + num_tokens * (num_tokens + 1) / 2
            if prompt.num_left:
                left.append(prompt)
            else:
                step.num_new += 1
        pending = left


def _before_unseen_prompts(records: Sequence[RequestRecord], steps: Sequence[_Step]) -> int:
    """Number of steps before any prompt came whose first token is not among them: what it added cannot be told."""
    last_s = steps[-1].ends_s
    unseen = [record.sent_s for record in records if record.token_times_s[0] > last_s and record.sent_s < last_s]
    return bisect_left([step.ends_s for step in steps], min(unseen)) if unseen else len(steps)


def _timed(steps: Sequence[_Step]) -> list[TimedStep]:
    """The steps after the first, whose own beginning nobody saw."""
    found = []
    for before, step in pairwise(steps):
        work = EngineWork(
            num_steps=step.weight,
            num_batch_changes=float(abs(step.num_tokens - before.num_tokens) > _DIFFERENT),
            num_prefill_tokens=step.num_prefill,
            num_prefill_pairs=step.num_pairs,
            num_decode_tokens=step.num_decode,
            num_context_tokens=step.num_context,
            num_new_requests=step.num_new,
        )
        found.append(TimedStep(work, step.ends_s - before.ends_s))
    return found


def _offset(times_s: Sequence[float], ends_s: Sequence[float]) -> int:
    """Number of the step that the first token came with; negative when that was before the first step."""
    inside = range(bisect_left(times_s, ends_s[0]), bisect_right(times_s, ends_s[-1]))
    if not inside:  # between two neighbouring ends
        return _nearest(ends_s, times_s[0])
    return round(median(_nearest(ends_s, times_s[event]) - event for event in inside))


def _nearest(ends_s: Sequence[float], time_s: float) -> int:
    after = bisect_left(ends_s, time_s)
    if after == 0:
        return 0
    if after == len(ends_s) or time_s - ends_s[after - 1] < ends_s[after] - time_s:
        return after - 1
    return after


def _tokens_per_event(record: RequestRecord) -> float:
    """An event may carry several tokens, and a token may have no text of its own."""
    return (record.num_output_tokens - 1) / max(1, len(record.token_times_s) - 1)
