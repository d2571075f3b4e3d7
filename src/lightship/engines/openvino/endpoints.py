"""What the worker does at each path: bodies in, jobs and plain answers out."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from lightship.engines.openvino.answers import Answerer, Job
from lightship.engines.openvino.call import Call
from lightship.engines.openvino.chat import render_prompt
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.logprobs import LogprobWriter
from lightship.engines.openvino.model_info import ModelInfo
from lightship.engines.openvino.parameters import (
    GenerationOptions,
    chat_options,
    check_tokenize,
    completion_options,
    resolve_max_tokens,
)
from lightship.engines.openvino.prompts import check_tokens, prompt_tokens
from lightship.engines.openvino.shapes import ChatShape, CompletionShape, ReplyHead
from lightship.engines.openvino.tokens import ModelTokenizer
from lightship.ports.clock import Clock
from lightship.wire.errors import model_not_found
from lightship.wire.replies import DetokenizeReply, ModelCard, ModelList, TokenizeReply
from lightship.wire.requests import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    decode_body,
)


class Endpoints:
    """The worker's answers, apart from health and metrics."""

    def __init__(
        self,
        *,
        config: OpenVinoWorkerConfig,
        info: ModelInfo,
        tokenizer: ModelTokenizer,
        answerer: Answerer,
        clock: Clock,
    ) -> None:
        self._config = config
        self._info = info
        self._tokenizer = tokenizer
        self._answerer = answerer
        self._clock = clock
        self._started_unix_s = int(clock.unix_s())
        self._model_names = [config.model_name, f"{config.model_name}@{config.variant_name}"]

    async def completions(self, call: Call, body: bytes) -> None:
        """`POST /v1/completions`."""
        request = decode_body(body, CompletionRequest)
        self._check_model(request.model)
        options = completion_options(request)
        prompts = prompt_tokens(
            request.prompt,
            self._tokenizer,
            vocab_size=self._info.vocab_size,
            add_special_tokens=options.add_special_tokens,
        )
        max_tokens = [self._room(options, prompt, param="prompt") for prompt in prompts]
        echoes = self._echoes(request.prompt, prompts, options)
        head = self._head("cmpl", request.model)
        shape = CompletionShape(head, self._writers(options, len(echoes)), echoes)
        await self._answerer.answer(call, Job(options, prompts, max_tokens, shape))

    async def chat_completions(self, call: Call, body: bytes) -> None:
        """`POST /v1/chat/completions`."""
        request = decode_body(body, ChatRequest)
        self._check_model(request.model)
        options = chat_options(request)
        prompt = self._chat_tokens(request.messages, add_special_tokens=None)
        check_tokens(prompt, vocab_size=self._info.vocab_size, param="messages")
        max_tokens = self._room(options, prompt, param="messages")
        shape = ChatShape(self._head("chatcmpl", request.model), self._writers(options, options.num_choices))
        await self._answerer.answer(call, Job(options, [prompt], [max_tokens], shape))

    async def tokenize(self, call: Call, body: bytes) -> None:
        """`POST /tokenize`."""
        request = decode_body(body, TokenizeRequest)
        self._check_model(request.model)
        check_tokenize(request)
        if request.messages is not None:
            tokens = self._chat_tokens(request.messages, add_special_tokens=request.add_special_tokens)
        else:
            adds_special = request.add_special_tokens is not False
            tokens = self._tokenizer.encode(request.prompt or "", add_special_tokens=adds_special)
        texts = self._tokenizer.token_texts(tokens) if request.return_token_strs else None
        await _send_record(call, TokenizeReply(len(tokens), self._info.context_length, tokens, texts))

    async def detokenize(self, call: Call, body: bytes) -> None:
        """`POST /detokenize`."""
        request = decode_body(body, DetokenizeRequest)
        self._check_model(request.model)
        if request.tokens:
            check_tokens(request.tokens, vocab_size=self._info.vocab_size, param="tokens")
        text = self._tokenizer.decode(request.tokens) if request.tokens else ""
        await _send_record(call, DetokenizeReply(text))

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
            max_model_len=self._info.context_length,
            variant=self._config.variant_name,
            variant_digest=self._config.variant_digest,
        )

    def _check_model(self, name: str | None) -> None:
        if name is not None and name not in self._model_names:
            raise model_not_found(name, known=self._model_names)

    def _chat_tokens(self, messages: list[ChatMessage], *, add_special_tokens: bool | None) -> list[int]:
        text, needs_special_tokens = render_prompt(messages, self._tokenizer)
        adds_special = needs_special_tokens if add_special_tokens is None else add_special_tokens
        return self._tokenizer.encode(text, add_special_tokens=adds_special)

    def _room(self, options: GenerationOptions, prompt: list[int], *, param: str) -> int:
        return resolve_max_tokens(
            options, num_prompt_tokens=len(prompt), context_length=self._info.context_length, param=param
        )

    def _head(self, prefix: str, model: str) -> ReplyHead:
        return ReplyHead(f"{prefix}-{secrets.token_hex(12)}", int(self._clock.unix_s()), model)

    def _writers(self, options: GenerationOptions, num_choices: int) -> list[LogprobWriter]:
        if options.num_top_logprobs is None:
            return []
        num_top, by_id = options.num_top_logprobs, options.names_tokens_by_id
        return [LogprobWriter(self._tokenizer, by_id=by_id, num_top=num_top) for _ in range(num_choices)]

    def _echoes(self, sent: Any, prompts: list[list[int]], options: GenerationOptions) -> list[str]:
        """The text in front of each choice; a prompt that came as text is repeated as it came."""
        if not options.echoes_prompt:
            return [""] * (len(prompts) * options.num_choices)
        batch = [sent] if isinstance(sent, str) else sent
        texts = [
            batch[index] if isinstance(batch[index], str) else self._tokenizer.decode(prompt)
            for index, prompt in enumerate(prompts)
        ]
        return [text for text in texts for _ in range(options.num_choices)]


async def _send_record(call: Call, record: msgspec.Struct) -> None:
    await call.send_json(msgspec.json.encode(record))
