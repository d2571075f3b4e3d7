"""Greedy completions of given prompts as token ids, and how fast they came: what a lossless speed-up is judged by.

Two ways of serving one model that claim to differ in speed alone are asked the same here and compared elsewhere. Not a
load test: see `evaluation.performance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.transport import decoded
from lightship.ports.clock import Clock, SystemClock

_HINT = "Token ids need return_token_ids, which vLLM has."


@dataclass(frozen=True)
class GreedyRun:
    """Greedy completions as token ids, in the order of the prompts.

    Args:
        output_ids: One per prompt.
        duration_s: From the first request to the last answer.
        concurrency: Requests at the same time.
    """

    output_ids: tuple[tuple[int, ...], ...]
    duration_s: float
    concurrency: int

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all requests together, per second."""
        return sum(map(len, self.output_ids)) / self.duration_s


async def greedy_outputs(
    endpoint: CompletionEndpoint,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    concurrency: int,
    clock: Clock | None = None,
) -> GreedyRun:
    """What the endpoint generates for each prompt at temperature 0, `concurrency` requests at a time.

    Raises: MeasurementError: an answer without token ids. NetworkError: see `CompletionEndpoint`.
    """
    clock = clock or SystemClock()
    slots = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> tuple[int, ...]:
        async with slots:
            return await _completion_ids(endpoint, prompt, max_tokens=max_tokens)

    started_s = clock.monotonic_s()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(prompt)) for prompt in prompts]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    duration_s = clock.monotonic_s() - started_s
    return GreedyRun(tuple(task.result() for task in tasks), duration_s, concurrency)


async def _completion_ids(endpoint: CompletionEndpoint, prompt: str, *, max_tokens: int) -> tuple[int, ...]:
    body = {
        "model": endpoint.model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "return_token_ids": True,
    }
    reply = await endpoint.transport.request("POST", "/v1/completions", body, hint=_HINT)
    completion = decoded(reply.content, _Completion)
    if isinstance(completion, str) or not completion.choices or completion.choices[0].token_ids is None:
        raise MeasurementError("the endpoint does not return token ids", where=endpoint.base_url, hint=_HINT)
    return tuple(completion.choices[0].token_ids)


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
