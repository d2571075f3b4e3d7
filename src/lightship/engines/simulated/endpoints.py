"""What the simulated worker does at each path: bodies in, simulated answers out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import msgspec

from lightship.engines.openvino.call import Call
from lightship.engines.openvino.parameters import (
    GenerationOptions,
    chat_options,
    check_tokenize,
    completion_options,
    resolve_max_tokens,
)
from lightship.engines.openvino.prompts import check_tokens, prompt_tokens
from lightship.engines.openvino.shapes import ReplyHead
from lightship.engines.simulated.batching import BatchSequence
from lightship.engines.simulated.choices import Choice, Finish
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.events import ChatEvents, CompletionEvents, EventWriter, with_usage
from lightship.engines.simulated.metrics import SimulatedMetrics
from lightship.engines.simulated.prompts import SimulatedTokenizer, chat_tokens
from lightship.engines.simulated.runner import Mailbox, Runner
from lightship.engines.simulated.text import VOCAB_SIZE, answer_length, block_hashes, decode_tokens, text_seed
from lightship.ports.clock import Clock
from lightship.wire.errors import model_not_found, unsupported_parameter
from lightship.wire.replies import DetokenizeReply, ModelCard, ModelList, PromptTokensDetails, TokenizeReply, Usage
from lightship.wire.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    decode_body,
)
from lightship.wire.sse import DONE


@dataclass(frozen=True)
class _Job:
    options: GenerationOptions
    choices: list[Choice]
    writer: EventWriter
    num_prompt_tokens: int


def _random_seed() -> int:
    return secrets.randbits(32)


class Endpoints:
    """The worker's answers, apart from health, metrics and faults.

    Args:
        draw_seed: Gives the seed of a request that names none.
    """

    def __init__(
        self,
        *,
        config: SimulatedWorkerConfig,
        runner: Runner,
        metrics: SimulatedMetrics,
        clock: Clock,
        draw_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._latency_s = config.profile.costs.request_latency_s
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._draw_seed = draw_seed
        self._tokenizer = SimulatedTokenizer()
        self._sequence_ids = count(1)
        self._started_unix_s = int(clock.unix_s())
        self._model_names = [config.model_name, f"{config.model_name}@{config.variant_name}"]

    async def completions(self, call: Call, body: bytes) -> None:
        """`POST /v1/completions`."""
        request = decode_body(body, CompletionRequest)
        self._check_model(request.model)
        options = completion_options(request)
        if options.echoes_prompt:
            raise unsupported_parameter("echo", reason="a simulated engine has no scores, and repeats no prompt.")
        _refuse_logprobs(options)
        prompts = prompt_tokens(
            request.prompt,
            self._tokenizer,
            vocab_size=VOCAB_SIZE,
            add_special_tokens=options.add_special_tokens,
        )
        choices = self._choices(options, prompts, param="prompt")
        writer = CompletionEvents(self._head("cmpl", request.model), len(choices))
        await self._answer(call, _Job(options, choices, writer, sum(map(len, prompts))))

    async def chat_completions(self, call: Call, body: bytes) -> None:
        """`POST /v1/chat/completions`."""
        request = decode_body(body, ChatRequest)
        self._check_model(request.model)
        options = chat_options(request)
        _refuse_logprobs(options)
        prompt = chat_tokens(request.messages, self._tokenizer)
        choices = self._choices(options, [prompt], param="messages")
        writer = ChatEvents(self._head("chatcmpl", request.model), len(choices))
        await self._answer(call, _Job(options, choices, writer, len(prompt)))

    async def tokenize(self, call: Call, body: bytes) -> None:
        """`POST /tokenize`."""
        request = decode_body(body, TokenizeRequest)
        self._check_model(request.model)
        check_tokenize(request)
        if request.messages is not None:
            tokens = chat_tokens(request.messages, self._tokenizer)
        else:
            tokens = self._tokenizer.encode(request.prompt or "")
        texts = [decode_tokens([token]) for token in tokens] if request.return_token_strs else None
        await _send_record(call, TokenizeReply(len(tokens), self._limits.usable_context, tokens, texts))

    async def detokenize(self, call: Call, body: bytes) -> None:
        """`POST /detokenize`."""
        request = decode_body(body, DetokenizeRequest)
        self._check_model(request.model)
        if request.tokens:
            check_tokens(request.tokens, vocab_size=VOCAB_SIZE, param="tokens")
        await _send_record(call, DetokenizeReply(decode_tokens(request.tokens)))

    async def models(self, call: Call) -> None:
        """`GET /v1/models`."""
        await _send_record(call, ModelList([self._card(name) for name in self._model_names]))

    async def model(self, call: Call, name: str) -> None:
        """`GET /v1/models/{name}`."""
        self._check_model(name)
        await _send_record(call, self._card(name))

    def _card(self, name: str) -> ModelCard:
        return ModelCard(
            name,
            self._started_unix_s,
            max_model_len=self._limits.usable_context,
            variant=self._config.variant_name,
            variant_digest=self._config.variant_digest,
        )

    def _check_model(self, name: str | None) -> None:
        if name is not None and name not in self._model_names:
            raise model_not_found(name, known=self._model_names)

    def _head(self, prefix: str, model: str) -> ReplyHead:
        return ReplyHead(f"{prefix}-{secrets.token_hex(12)}", int(self._clock.unix_s()), model)

    def _choices(self, options: GenerationOptions, prompts: Sequence[list[int]], *, param: str) -> list[Choice]:
        """One choice per prompt and number; its length is settled here, by the client's limit or by itself."""
        sampling = options.sampling
        seed = 0 if sampling.is_greedy else self._draw_seed() if sampling.seed is None else sampling.seed
        choices: list[Choice] = []
        for prompt in prompts:
            max_tokens = resolve_max_tokens(
                options, num_prompt_tokens=len(prompt), context_length=self._limits.usable_context, param=param
            )
            for number in range(options.num_choices):
                words_seed = text_seed(prompt, sampling_seed=seed if sampling.is_greedy else seed + number)
                choices.append(self._choice(len(choices), options, prompt, max_tokens, words_seed))
        return choices

    def _choice(
        self, index: int, options: GenerationOptions, prompt: Sequence[int], max_tokens: int, seed: int
    ) -> Choice:
        num_tokens = max_tokens
        finish: Finish = "length"
        if not options.sampling.ignore_eos:
            own = max(options.sampling.min_tokens, answer_length(seed, mean_tokens=self._config.mean_answer_tokens))
            if own < max_tokens:
                num_tokens, finish = own, "stop"
        block_tokens = self._limits.kv_block_tokens
        hashes = block_hashes(prompt, block_tokens=block_tokens)
        sequence = BatchSequence(next(self._sequence_ids), len(prompt), num_tokens, hashes)
        return Choice(
            index=index,
            sequence=sequence,
            seed=seed,
            stop=options.stop,
            finish=finish,
            prompt_tail=prompt[len(hashes) * block_tokens :],
            block_tokens=block_tokens,
        )

    async def _answer(self, call: Call, job: _Job) -> None:
        self._runner.check_room(len(job.choices))
        # what the profile says HTTP and tokenisation take, less what they took here
        await self._clock.sleep(max(0.0, call.arrived_s + self._latency_s - self._clock.monotonic_s()))
        self._metrics.prompt_tokens.inc(job.num_prompt_tokens)
        with self._runner.open(job.choices) as mailbox:
            if job.options.is_streaming:
                await self._stream(call, job, mailbox)
                return
            await self._collect(call, job, mailbox)
        await call.send_json(job.writer.whole(job.choices, self._usage(job)))

    async def _collect(self, call: Call, job: _Job, mailbox: Mailbox) -> None:
        num_open, is_first = len(job.choices), True
        while num_open:
            await mailbox.take()
            if is_first:
                self._observe_first_text(call)
                is_first = False
            num_open = sum(choice.finish is None for choice in job.choices)

    async def _stream(self, call: Call, job: _Job, mailbox: Mailbox) -> None:
        writer, num_open = job.writer, len(job.choices)
        has_begun = [False] * len(job.choices)
        while True:
            events: list[bytes] = []
            for choice in await mailbox.take():
                index = choice.index
                for text in choice.unsent:
                    events.append(writer.text_event(index, text, is_first=not has_begun[index]))
                    has_begun[index] = True
                choice.unsent.clear()
                if choice.finish is not None and choice.is_open:
                    choice.is_open = False
                    events.append(writer.finish_event(index, choice.finish, is_first=not has_begun[index]))
                    num_open -= 1
            if job.options.has_running_usage:
                counts = self._counts(job)
                events = [with_usage(event, counts) for event in events]
            if not call.is_started:
                self._observe_first_text(call)
                await call.start_stream()
            if not num_open:
                break
            if events:
                await call.send_chunk(b"".join(events))
        if job.options.includes_usage:
            events.append(writer.usage_event(self._usage(job)))
        else:
            self._usage(job)
        await call.send_chunk(b"".join([*events, DONE]))
        await call.end_stream()

    def _usage(self, job: _Job) -> Usage:
        """The token counts; also counts them in the metrics."""
        usage = self._counts(job)
        self._metrics.generation_tokens.inc(usage.completion_tokens)
        if usage.prompt_tokens_details is not None:
            self._metrics.cached_tokens.inc(usage.prompt_tokens_details.cached_tokens)
        return usage

    @staticmethod
    def _counts(job: _Job) -> Usage:
        num_new = sum(choice.num_tokens for choice in job.choices)
        num_cached = sum(choice.sequence.num_cached_tokens for choice in job.choices[:: job.options.num_choices])
        num_prompt = job.num_prompt_tokens
        return Usage(num_prompt, num_new, num_prompt + num_new, PromptTokensDetails(num_cached))

    def _observe_first_text(self, call: Call) -> None:
        self._metrics.time_to_first_token.observe(self._clock.monotonic_s() - call.arrived_s)


def _refuse_logprobs(options: GenerationOptions) -> None:
    if options.num_top_logprobs is not None:
        raise unsupported_parameter("logprobs", reason="a simulated engine has no model and so no probabilities.")


async def _send_record(call: Call, record: msgspec.Struct) -> None:
    await call.send_json(msgspec.json.encode(record))
