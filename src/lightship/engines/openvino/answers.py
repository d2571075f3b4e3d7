"""From a checked request to its answer: sequences run, log-probabilities completed, the reply sent whole or in pieces.

A streamed reply begins with its first text. Until then an error has its own status; after that it is an event of the
stream, which then ends without `[DONE]`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightship.engines.openvino.call import Call
from lightship.engines.openvino.choices import Choice
from lightship.engines.openvino.generator import Generator, Mailbox, SequenceRequest
from lightship.engines.openvino.logprobs import ScoredToken
from lightship.engines.openvino.metrics import WorkerMetrics
from lightship.engines.openvino.parameters import GenerationOptions, config_fields
from lightship.engines.openvino.scoring import Scorer
from lightship.engines.openvino.shapes import Shape
from lightship.engines.openvino.tokens import ModelTokenizer
from lightship.ports.clock import Clock
from lightship.wire.replies import Usage
from lightship.wire.sse import DONE


@dataclass(frozen=True)
class Job:
    """One checked request. `max_tokens` has one entry per prompt; all are 0 or none is."""

    options: GenerationOptions
    prompts: list[list[int]]
    max_tokens: list[int]
    shape: Shape


def _random_seed() -> int:
    return secrets.randbits(32)


class Answerer:
    """Answers jobs.

    Args:
        draw_seed: Gives the seed of a request that names none.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        scorer: Scorer,
        tokenizer: ModelTokenizer,
        metrics: WorkerMetrics,
        clock: Clock,
        draw_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._clock = clock
        self._draw_seed = draw_seed

    async def answer(self, call: Call, job: Job) -> None:
        """Sends the answer.

        Raises: ApiError: the request failed; the caller sends the error in the form that still fits.
        """
        self._metrics.prompt_tokens.inc(sum(map(len, job.prompts)))
        choices = self._new_choices(job)
        if job.max_tokens[0] == 0:
            for choice in choices:
                choice.finish = "length"
            await self._send_whole(call, job, choices)
            return
        with self._generator.open(self._sequences(job)) as mailbox:
            if job.options.is_streaming:
                await self._stream(call, job, choices, mailbox)
            else:
                await self._collect(call, choices, mailbox)
        if not job.options.is_streaming:
            await self._send_whole(call, job, choices)

    def _new_choices(self, job: Job) -> list[Choice]:
        options = job.options
        num_top = options.num_top_logprobs if options.pipeline_gives_logprobs else None
        return [Choice(index, num_top, self._tokenizer) for index in range(len(job.prompts) * options.num_choices)]

    def _sequences(self, job: Job) -> list[SequenceRequest]:
        options = job.options
        seed = self._draw_seed() if options.sampling.seed is None else options.sampling.seed
        return [
            SequenceRequest(
                index=prompt_index * options.num_choices + choice_index,
                prompt_ids=prompt,
                fields=config_fields(
                    options.sampling,
                    max_tokens=job.max_tokens[prompt_index],
                    seed=seed + choice_index,
                    with_logprobs=options.pipeline_gives_logprobs,
                ),
                stop=options.stop,
            )
            for prompt_index, prompt in enumerate(job.prompts)
            for choice_index in range(options.num_choices)
        ]

    async def _collect(self, call: Call, choices: Sequence[Choice], mailbox: Mailbox) -> None:
        num_open = len(choices)
        is_first = True
        while num_open:
            for piece in await mailbox.take():
                if is_first:
                    self._observe_first_text(call)
                    is_first = False
                choices[piece.index].add(piece)
                num_open -= piece.finish is not None

    async def _stream(self, call: Call, job: Job, choices: Sequence[Choice], mailbox: Mailbox) -> None:
        shape, num_open = job.shape, len(choices)
        has_begun = [False] * len(choices)
        while num_open:
            events: list[bytes] = []
            for piece in await mailbox.take():
                choice, index = choices[piece.index], piece.index
                scores = choice.add(piece)
                running = self._counts(job, choices) if job.options.has_running_usage else None
                if piece.text or scores:
                    events.append(
                        shape.text_chunk(choice, piece.text, scores, is_first=not has_begun[index], usage=running)
                    )
                    has_begun[index] = True
                if piece.finish is not None:
                    events.append(
                        shape.finish_chunk(choice, piece.finish, is_first=not has_begun[index], usage=running)
                    )
                    num_open -= 1
            if not call.is_started:
                self._observe_first_text(call)
                await call.start_stream()
            if num_open:
                await call.send_chunk(b"".join(events))
        usage = self._usage(job, choices)
        if job.options.includes_usage:
            events.append(shape.usage_chunk(usage))
        await call.send_chunk(b"".join([*events, DONE]))
        await call.end_stream()

    async def _send_whole(self, call: Call, job: Job, choices: Sequence[Choice]) -> None:
        if job.options.needs_scorer:
            await self._score(job, choices)
        usage = self._usage(job, choices)
        body = job.shape.whole(choices, usage)
        if job.options.is_streaming:  # only an echo without new tokens comes here as a stream
            await self._send_echo_stream(call, job, choices, usage)
        else:
            await call.send_json(body)

    async def _send_echo_stream(self, call: Call, job: Job, choices: Sequence[Choice], usage: Usage) -> None:
        await call.start_stream()
        events = [job.shape.finish_chunk(choice, "length", is_first=True, usage=None) for choice in choices]
        if job.options.includes_usage:
            events.append(job.shape.usage_chunk(usage))
        await call.send_chunk(b"".join([*events, DONE]))
        await call.end_stream()

    async def _score(self, job: Job, choices: Sequence[Choice]) -> None:
        num_top = job.options.num_top_logprobs or 0
        for choice in choices:
            prompt = job.prompts[choice.index // job.options.num_choices]
            token_ids = [*prompt, *choice.tokens]
            scores = await self._scorer.score(token_ids, num_top=num_top)
            scored = [ScoredToken(token_id, score) for token_id, score in zip(token_ids, scores, strict=True)]
            choice.scores = scored if job.options.echoes_prompt else scored[len(prompt) :]

    def _usage(self, job: Job, choices: Sequence[Choice]) -> Usage:
        usage = self._counts(job, choices)
        self._metrics.generation_tokens.inc(usage.completion_tokens)
        return usage

    @staticmethod
    def _counts(job: Job, choices: Sequence[Choice]) -> Usage:
        num_prompt = sum(map(len, job.prompts))
        num_new = sum(choice.num_tokens for choice in choices)
        return Usage(num_prompt, num_new, num_prompt + num_new)

    def _observe_first_text(self, call: Call) -> None:
        self._metrics.time_to_first_token.observe(self._clock.monotonic_s() - call.arrived_s)
