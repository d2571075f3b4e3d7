"""Experiments on a live endpoint that show what each part of its work costs; the fit is made elsewhere.

    (warm-up) single requests of every length up to some hundred tokens    -> nothing: engines with dynamic shapes
                                                                              ready their kernels at the first use
    ttft      one request at a time, distinct prompts of several lengths   -> step, prompt token, pairs, latency
    together  c requests at once, at two prompt lengths                    -> step, output token, context token
    mixed     c users with prompts and answers of mixed lengths            -> all of them together, and new requests
    (prefix)  one prompt sent again                                        -> whether the endpoint keeps prefixes

What comes out is `StepObservation`s: work and the time it took, by way of `step_timeline` where requests overlap. All
of them are seen from the client, so they contain what HTTP and the client itself take from the cores, which is what a
prediction of the client's view needs.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import RequestRecord
from lightship.evaluation.performance.step_timeline import step_observations, timed_steps
from lightship.ports.engine_profile import EngineLimits, EngineWork, StepObservation
from lightship.ports.progress import Progress, SilentProgress

# Share of the first answer's time to first token below which the second answer to the same prompt came from a cache:
# without one the two differ by noise only.
_CACHED_TTFT_SHARE = 0.7
# Steps that make one observation: enough to average what a late event at either end adds.
_WANTED_STEPS, _MIN_STEPS = 32, 6
# Longest step of the warm-up: a slow engine's full steps take much longer than readying a kernel does.
_WARM_UP_TOKENS = 256
_WARM_UP_PASSES = 3
# Tokens that `concurrency` prompts may have in all; longer prompts are left out there, because computing them would
# take minutes and show nothing new.
_MAX_PROMPT_TOKENS_TOGETHER = 40_000
# Requests sent together below which the experiment is made more often, in proportion.
_MANY = 8
# Requests of one mixed load, so that many users do not mean many minutes.
_MAX_MIXED_REQUESTS = 320


@dataclass(frozen=True)
class CalibrationPlan:
    """What to send. Lengths that do not fit the context and concurrencies that do not fit the engine are left out.

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
        mixed_requests_per_user: How many each user sends; fewer, but two, where there are many users.
        max_warm_up_s: Time after which the warm-up is enough, whatever it has not tried; 0 for an endpoint that was
            warmed up before.
        seed: Which prompts and lengths are drawn.
    """

    prompt_tokens: tuple[int, ...] = (16, 64, 160, 320, 480, 640, 800)
    num_repeats: int = 5
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    decode_contexts: tuple[int, ...] = (32, 512)
    num_decode_tokens: int = 48
    mixed_concurrencies: tuple[int, ...] = (4, 16, 48, 128)
    mixed_prompt_tokens: tuple[int, int] = (8, 600)
    mixed_output_tokens: tuple[int, int] = (4, 160)
    mixed_requests_per_user: int = 6
    max_warm_up_s: float = 120.0
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
        concurrencies = [number for number in plan.concurrencies if number <= limits.max_sequences]
        mixed = [number for number in plan.mixed_concurrencies if number <= limits.max_sequences]
        steps = 3 + len(concurrencies) + len(mixed)
        task.advance(done=0, total=steps, note="warm-up")
        await bench.warm_up()
        task.advance(done=1, total=steps, note="single requests")
        observations += await bench.single_requests()
        task.advance(done=2, total=steps, note="a prompt sent again")
        keeps_prefixes = await bench.sees_cached_prefix()
        for index, concurrency in enumerate(concurrencies):
            task.advance(done=3 + index, total=steps, note=f"{concurrency} at once")
            observations += await bench.decode_together(concurrency)
        for index, concurrency in enumerate(mixed):
            task.advance(done=3 + len(concurrencies) + index, total=steps, note=f"{concurrency} users, mixed")
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
        """Requests whose times count nowhere: caches, connections, clock frequencies, and steps of every size."""
        longest = min(_WARM_UP_TOKENS, self._limits.max_batched_tokens)
        missing = {length for length in range(1, longest + 1) if self._fits(length, 2)}
        left_s = self._plan.max_warm_up_s
        for _ in range(_WARM_UP_PASSES):  # the length of a prompt is known afterwards only
            for length in sorted(missing):
                if length in missing and left_s > 0:
                    record = await self._request(num_prompt_tokens=length, num_output_tokens=2)
                    missing.discard(record.num_prompt_tokens - record.num_cached_tokens)
                    left_s -= record.ended_s - record.sent_s

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
        """Steps while `concurrency` requests that came together are answered, at each context that fits."""
        found = []
        num_output = self._plan.num_decode_tokens
        for num_prompt in self._plan.decode_contexts:
            if not self._fits(num_prompt, num_output) or concurrency * num_prompt > _MAX_PROMPT_TOKENS_TOGETHER:
                continue
            # few requests are answered in no time, and only they show what a step costs by itself
            for _ in range(self._plan.num_repeats * max(1, _MANY // concurrency)):
                requests = [(num_prompt, num_output)] * concurrency
                found += self._observations(await self._together(requests))
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
                for _ in range(min(self._plan.mixed_requests_per_user, max(2, _MAX_MIXED_REQUESTS // concurrency)))
            ]
            for _ in range(concurrency)
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._user(requests)) for requests in users]
        return self._observations([record for task in tasks for record in task.result()])

    def _observations(self, records: Sequence[RequestRecord]) -> list[StepObservation]:
        return step_observations(timed_steps(records, self._limits), min_steps=_MIN_STEPS, wanted_steps=_WANTED_STEPS)

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
    """The work up to the first token of a request that was alone, after another that was decoding alone."""
    num_new = record.num_prompt_tokens - record.num_cached_tokens
    chunks = [min(limits.max_batched_tokens, num_new - at) for at in range(0, num_new, limits.max_batched_tokens)]
    return StepObservation(
        kind="ttft",
        work=EngineWork(
            num_steps=len(chunks),
            num_batch_changes=sum(chunk != before for before, chunk in pairwise([1, *chunks])),
            num_prefill_tokens=num_new,
            num_prefill_pairs=num_new * record.num_cached_tokens + num_new * (num_new + 1) // 2,
            num_new_requests=1,
            num_request_latencies=1,
        ),
        duration_s=_time_to_first_token_s(record),
    )
