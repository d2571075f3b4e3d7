"""Experiments on a live endpoint that show what each part of its work costs; the fit is made elsewhere.

    ttft      one request at a time, distinct prompts of several lengths   -> step, prompt token, pairs, latency
    decode    c requests at once, at two prompt lengths                    -> step, output token, context token
    mixed     c users with prompts and answers of mixed lengths            -> all of them together, and new requests
    (prefix)  one prompt sent again                                        -> whether the endpoint keeps prefixes

What comes out is `StepObservation`s: work and the time it took. All of them are seen from the client, so they contain
what HTTP and the client itself take from the cores, which is what a prediction of the client's view needs.

How the number of steps is known: a sequence gets one token per step, so while one request goes from its first token to
its last, the engine makes exactly as many steps as it has tokens after the first.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.engine_profile import FIRST_TOKENS, EngineLimits, EngineWork, StepObservation
from lightship.ports.progress import Progress, SilentProgress

# Share of the first answer's time to first token below which the second answer to the same prompt came from a cache:
# without one the two differ by noise only.
_CACHED_TTFT_SHARE = 0.7
# Requests whose decode intervals make one mixed observation: enough to average what a single interval's edges add.
_RECORDS_PER_OBSERVATION = 8
# Prompt length of the requests that count nowhere.
_WARM_UP_TOKENS = 64
# Output tokens below which an interval says more about its edges than about its steps.
_MIN_INTERVAL_TOKENS = 6


@dataclass(frozen=True)
class CalibrationPlan:
    """What to send. Lengths that do not fit the context are left out.

    Args:
        prompt_tokens: Prompt lengths of single requests.
        num_repeats: Requests per length, and runs per concurrency.
        concurrencies: Requests sent together.
        decode_contexts: Prompt lengths of those.
        num_decode_tokens: Output tokens of those.
        mixed_concurrencies: Users of the mixed load, one run per entry.
        mixed_prompt_tokens: Shortest and longest prompt of the mixed load; lengths between are equally likely in
            proportion (log-uniform).
        mixed_output_tokens: The same for answers.
        mixed_requests_per_user: How many each user sends.
        seed: Which prompts and lengths are drawn.
    """

    prompt_tokens: tuple[int, ...] = (16, 64, 160, 320, 480, 640, 800)
    num_repeats: int = 5
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    decode_contexts: tuple[int, ...] = (32, 512)
    num_decode_tokens: int = 48
    mixed_concurrencies: tuple[int, ...] = (4, 16, 48)
    mixed_prompt_tokens: tuple[int, int] = (8, 600)
    mixed_output_tokens: tuple[int, int] = (4, 160)
    mixed_requests_per_user: int = 6
    seed: int = 0


@dataclass(frozen=True)
class CalibrationRun:
    """What was seen. `keeps_prefixes` says that a prompt sent again was answered from a cache."""

    observations: tuple[StepObservation, ...]
    keeps_prefixes: bool
    num_requests: int


async def run_calibration(
    client: LoadClient,
    plan: CalibrationPlan,
    limits: EngineLimits,
    *,
    texts: Sequence[str],
    chars_per_token: float,
    progress: Progress | None = None,
) -> CalibrationRun:
    """The observations of all experiments, from an endpoint that serves nobody else meanwhile.

    Args:
        client: Sends the requests; must ask for answers of fixed length.
        limits: What the endpoint takes at a time; the number of steps of a prompt depends on `max_batched_tokens`.
        texts: Where prompts are drawn from.
        chars_per_token: Of those texts under the endpoint's tokenizer.

    Raises: MeasurementError: a request failed.
    Effects: loads the endpoint.
    """
    bench = _Bench(client, plan, limits, texts=texts, chars_per_token=chars_per_token)
    observations: list[StepObservation] = []
    with (progress or SilentProgress()).task("calibration") as task:
        steps = 2 + len(plan.concurrencies) + len(plan.mixed_concurrencies)
        task.advance(done=0, total=steps, note="single requests")
        await bench.warm_up()
        observations += await bench.single_requests()
        task.advance(done=1, total=steps, note="a prompt sent again")
        keeps_prefixes = await bench.sees_cached_prefix()
        for index, concurrency in enumerate(plan.concurrencies):
            task.advance(done=2 + index, total=steps, note=f"{concurrency} at once")
            observations += await bench.decode_together(concurrency)
        for index, concurrency in enumerate(plan.mixed_concurrencies):
            task.advance(done=2 + len(plan.concurrencies) + index, total=steps, note=f"{concurrency} users, mixed")
            observations += await bench.mixed_load(concurrency)
        task.advance(done=steps, total=steps)
    return CalibrationRun(tuple(observations), keeps_prefixes, bench.num_requests)


class _Bench:
    """Sends what one calibration needs; all of it in one event loop."""

    def __init__(
        self,
        client: LoadClient,
        plan: CalibrationPlan,
        limits: EngineLimits,
        *,
        texts: Sequence[str],
        chars_per_token: float,
    ) -> None:
        self._client = client
        self._plan = plan
        self._limits = limits
        self._chars_per_token = chars_per_token
        # one stream for all lengths, cut to size: two streams might begin alike and meet in the prefix cache
        longest = max(*plan.prompt_tokens, *plan.decode_contexts, plan.mixed_prompt_tokens[1], _WARM_UP_TOKENS)
        self._prompts: Iterator[str] = draw_prompts(texts, num_chars=self._num_chars(longest), seed=plan.seed)
        self.num_requests = 0

    async def warm_up(self) -> None:
        """Requests whose times count nowhere: caches, connections, clock frequencies."""
        for _ in range(3):
            await self._request(num_prompt_tokens=_WARM_UP_TOKENS, num_output_tokens=8)

    async def single_requests(self) -> list[StepObservation]:
        """Time to first token at each prompt length that fits, repeats in turn so that drift hits all lengths."""
        lengths = [length for length in self._plan.prompt_tokens if self._fits(length, 2)]
        return [
            ttft_observation(await self._request(num_prompt_tokens=length, num_output_tokens=2), self._limits)
            for _ in range(self._plan.num_repeats)
            for length in lengths
        ]

    async def sees_cached_prefix(self) -> bool:
        """Whether a long prompt sent again is answered clearly faster."""
        num_tokens = max(length for length in self._plan.prompt_tokens if self._fits(length, 2))
        shares = []
        for _ in range(self._plan.num_repeats):
            prompt = self._draw(num_tokens)
            first, second = [await self._complete(prompt, 2) for _ in range(2)]
            shares.append(_time_to_first_token_s(second) / _time_to_first_token_s(first))
        return sorted(shares)[len(shares) // 2] < _CACHED_TTFT_SHARE

    async def decode_together(self, concurrency: int) -> list[StepObservation]:
        """Steps in which exactly `concurrency` sequences decode, at each context that fits."""
        found = []
        num_output = self._plan.num_decode_tokens
        for num_prompt in self._plan.decode_contexts:
            if not self._fits(num_prompt, num_output):
                continue
            for _ in range(self._plan.num_repeats):
                requests = [(num_prompt, num_output)] * concurrency
                found += decode_observations(await self._together(requests))
        return found

    async def mixed_load(self, concurrency: int) -> list[StepObservation]:
        """Users that each send requests of mixed lengths, one after the other."""
        rng = random.Random(self._plan.seed * 1009 + concurrency)
        longest = self._limits.usable_context - self._plan.mixed_output_tokens[1] - 1
        shortest_prompt, longest_prompt = self._plan.mixed_prompt_tokens
        prompts = (shortest_prompt, max(shortest_prompt, min(longest_prompt, longest)))
        users = [
            [
                (_log_uniform(rng, *prompts), _log_uniform(rng, *self._plan.mixed_output_tokens))
                for _ in range(self._plan.mixed_requests_per_user)
            ]
            for _ in range(concurrency)
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._user(requests)) for requests in users]
        return mixed_observations([record for task in tasks for record in task.result()])

    async def _user(self, requests: Sequence[tuple[int, int]]) -> list[RequestRecord]:
        return [await self._request(num_prompt_tokens=prompt, num_output_tokens=output) for prompt, output in requests]

    async def _together(self, requests: Sequence[tuple[int, int]]) -> list[RequestRecord]:
        prompts = [self._draw(num_prompt) for num_prompt, _ in requests]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._complete(prompt, num_output))
                for prompt, (_, num_output) in zip(prompts, requests, strict=True)
            ]
        return [task.result() for task in tasks]

    async def _request(self, *, num_prompt_tokens: int, num_output_tokens: int) -> RequestRecord:
        return await self._complete(self._draw(num_prompt_tokens), num_output_tokens)

    async def _complete(self, prompt: str, num_output_tokens: int) -> RequestRecord:
        self.num_requests += 1
        record = await self._client.complete(prompt, max_tokens=num_output_tokens)
        if record.error is not None:
            raise MeasurementError(
                f"a calibration request failed ({record.error}): {record.error_detail}",
                hint="Calibrate an endpoint that serves nobody else, with room for the concurrencies asked for.",
            )
        return record

    def _draw(self, num_tokens: int) -> str:
        """A prompt no request of this run began with."""
        return next(self._prompts)[: self._num_chars(num_tokens)]

    def _num_chars(self, num_tokens: int) -> int:
        return max(1, round(num_tokens * self._chars_per_token))

    def _fits(self, num_prompt: int, num_output: int) -> bool:
        # a quarter more than asked for: prompts are drawn by their characters
        return num_prompt * 1.25 + num_output <= self._limits.usable_context


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(low * math.exp(rng.random() * math.log(high / low)))


def _time_to_first_token_s(record: RequestRecord) -> float:
    return record.token_times_s[0] - record.sent_s


def ttft_observation(record: RequestRecord, limits: EngineLimits) -> StepObservation:
    """The work up to the first token of a request that was alone."""
    num_new = record.num_prompt_tokens - record.num_cached_tokens
    chunk_starts = range(0, num_new, limits.max_batched_tokens)
    return StepObservation(
        kind="ttft",
        work=EngineWork(
            num_steps=-(-num_new // limits.max_batched_tokens),
            num_first_tokens=sum(min(FIRST_TOKENS, num_new - start) for start in chunk_starts),
            num_prefill_tokens=num_new,
            num_prefill_pairs=num_new * record.num_cached_tokens + num_new * (num_new + 1) // 2,
            num_new_requests=1,
            num_request_latencies=1,
        ),
        duration_s=_time_to_first_token_s(record),
    )


def decode_observations(records: Sequence[RequestRecord]) -> list[StepObservation]:
    """The steps in which all of these requests, sent together, were decoding; none when there were hardly any."""
    start_s = max(record.token_times_s[0] for record in records)
    end_s = min(record.token_times_s[-1] for record in records)
    if end_s <= start_s:
        return []
    work = work_between(records, start_s, end_s)
    if work.num_steps < _MIN_INTERVAL_TOKENS:
        return []
    return [StepObservation(kind="decode", work=work, duration_s=end_s - start_s)]


def mixed_observations(records: Sequence[RequestRecord]) -> list[StepObservation]:
    """One observation for every few requests: the sum over the intervals from their first token to their last."""
    chosen = [record for record in records if record.num_output_tokens >= _MIN_INTERVAL_TOKENS]
    chosen.sort(key=lambda record: record.token_times_s[0])
    found = []
    for begin in range(0, len(chosen) - _RECORDS_PER_OBSERVATION + 1, _RECORDS_PER_OBSERVATION):
        group = chosen[begin : begin + _RECORDS_PER_OBSERVATION]
        works = [work_between(records, record.token_times_s[0], record.token_times_s[-1]) for record in group]
        total = EngineWork(
            **{name: sum(getattr(work, name) for work in works) for name in EngineWork.__struct_fields__}
        )
        duration_s = sum(record.token_times_s[-1] - record.token_times_s[0] for record in group)
        found.append(StepObservation(kind="mixed", work=total, duration_s=duration_s))
    return found


def work_between(records: Sequence[RequestRecord], start_s: float, end_s: float) -> EngineWork:
    """What the engine computed after `start_s` up to `end_s`, told from all requests it had.

    A token belongs to the step after which it came. A prompt belongs to the step its first token came after; where it
    began before the interval, another began before the end and is left out, so that sums over many intervals are right.
    The steps are those of the request that got the most tokens, so one request must have decoded all the time.
    """
    witness = max(records, key=lambda record: _num_tokens_between(record, start_s, end_s))
    edges = [start_s, *(time_s for time_s in witness.token_times_s if start_s < time_s <= end_s)]
    tokens_in = [0.0] * len(edges)  # computed in the step that ends there; the first is none
    num_prefill = num_pairs = num_decode = num_context = num_new = 0.0
    for record in records:
        times = record.token_times_s
        per_event = _tokens_per_event(record)
        before, until = bisect_right(times, start_s), bisect_right(times, end_s)
        if before == 0 < until:
            num_new_tokens = record.num_prompt_tokens - record.num_cached_tokens
            num_prefill += num_new_tokens
            num_pairs += num_new_tokens * record.num_cached_tokens + num_new_tokens * (num_new_tokens + 1) / 2
            num_new += 1
            tokens_in[_step_of(times[0], edges)] += num_new_tokens
        for position in range(max(1, before), until):
            num_decode += per_event
            num_context += per_event * (record.num_prompt_tokens + position * per_event)
            tokens_in[_step_of(times[position], edges)] += per_event
    steps_per_event = _tokens_per_event(witness)
    return EngineWork(
        num_steps=(len(edges) - 1) * steps_per_event,
        num_first_tokens=sum(min(FIRST_TOKENS * steps_per_event, num_tokens) for num_tokens in tokens_in),
        num_prefill_tokens=num_prefill,
        num_prefill_pairs=num_pairs,
        num_decode_tokens=num_decode,
        num_context_tokens=num_context,
        num_new_requests=num_new,
    )


def _num_tokens_between(record: RequestRecord, start_s: float, end_s: float) -> float:
    times = record.token_times_s
    num_events = bisect_right(times, end_s) - max(1, bisect_right(times, start_s))
    return max(0, num_events) * _tokens_per_event(record)


def _tokens_per_event(record: RequestRecord) -> float:
    """An event may carry several tokens, and a token may have no text of its own."""
    return (record.num_output_tokens - 1) / max(1, len(record.token_times_s) - 1)


def _step_of(time_s: float, edges: Sequence[float]) -> int:
    """Number of the step after which something came: that of the next edge, a moment early or late."""
    return min(bisect_left(edges, time_s), len(edges) - 1)
