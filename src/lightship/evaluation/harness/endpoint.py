"""What the harness needs of an endpoint beyond scoring texts: its tokenizer, prompts given as tokens, continuations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint, EndpointTraits, PromptLogprobs
from lightship.evaluation.harness.windows import TokenIds
from lightship.evaluation.transport import NotServedError, PromptTooLongError, decoded

_PROBE_TEXT = "A small boat went to sea."
_TOKENIZE_HINT = "Tokens are asked for at `/tokenize`, and where there is none, by scoring the text."


T = TypeVar("T")


class ModelCard(msgspec.Struct):
    """What `/v1/models` says of a model; None for what it leaves out."""

    id: str
    max_model_len: int | None = None
    variant: str | None = None
    variant_digest: str | None = None


class TokenEndpoint:
    """A completion endpoint whose tokens can be had and sent.

    Concurrency: as the endpoint's.
    """

    def __init__(self, endpoint: CompletionEndpoint) -> None:
        self._endpoint = endpoint
        self._has_tokenize = True

    @property
    def base_url(self) -> str:
        """Address, for error messages."""
        return self._endpoint.base_url

    async def probe(self) -> EndpointTraits:
        """Traits of an endpoint that really scores prompts, also those that come as tokens.

        Raises: MeasurementError: it does not, and why. NetworkError: it cannot be reached.
        """
        traits = await self._endpoint.probe_prompt_logprobs(top_k=1)
        token_ids = await self.tokens(_PROBE_TEXT, adds_special_tokens=True)
        as_text = await self._endpoint.score_prompt(_PROBE_TEXT, top_k=1)
        as_tokens = await self.score_tokens(token_ids)
        for found, what in ((as_text, "a text"), (as_tokens, "a list of token ids")):
            if found.token_ids != token_ids:
                raise MeasurementError(
                    f"a prompt of {what} was scored as {len(found.token_ids)} tokens that are not the "
                    f"{len(token_ids)} of its tokenizer",
                    where=self.base_url,
                    hint="The harness needs an endpoint that takes prompts as token ids and has one tokenizer.",
                )
        return traits

    async def prefix_token_id(self) -> int | None:
        """The token that the tokenizer puts before every text; None where it puts none."""
        with_special = await self.tokens(_PROBE_TEXT, adds_special_tokens=True)
        plain = await self.tokens(_PROBE_TEXT, adds_special_tokens=False)
        return with_special[0] if with_special[:1] != plain[:1] else None

    async def tokens(self, text: str, *, adds_special_tokens: bool) -> TokenIds:
        """Token ids of the text as the endpoint's own tokenizer makes them."""
        if not text and not adds_special_tokens:
            return ()
        if self._has_tokenize:
            body = {"model": self._endpoint.model, "prompt": text, "add_special_tokens": adds_special_tokens}
            try:
                reply = await self._endpoint.transport.request("POST", "/tokenize", body, hint=_TOKENIZE_HINT)
            except NotServedError:
                self._has_tokenize = False
            else:
                return tuple(self._decoded(reply.content, _Tokens).tokens)
        return await self._tokens_by_scoring(text, adds_special_tokens=adds_special_tokens)

    async def score_tokens(self, token_ids: TokenIds) -> PromptLogprobs:
        """Log-probability of each token given those before it, with the likeliest alternative."""
        # the API takes a list of ids where it takes a text
        return await self._endpoint.score_prompt(token_ids, top_k=1)

    async def continue_prompt(self, prompt: str | TokenIds, fields: Mapping[str, Any]) -> str:
        """The text the model adds to the prompt.

        Raises: PromptTooLongError: prompt and new tokens do not fit the context together.
        """
        body = {
            "model": self._endpoint.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            **fields,
        }
        reply = await self._endpoint.transport.request(
            "POST", "/v1/completions", body, hint="The task's generation_kwargs say what is sent."
        )
        choices = self._decoded(reply.content, _Completion).choices
        if len(choices) != 1:
            raise MeasurementError(f"it gave {len(choices)} choices where one was asked for", where=self.base_url)
        return choices[0].text

    async def model_card(self) -> ModelCard:
        """What `/v1/models` says of the model, which is a courtesy: a card of the name alone where it says nothing."""
        empty = ModelCard(self._endpoint.model)
        try:
            reply = await self._endpoint.transport.request("GET", "/v1/models", None, hint=None)
        except NotServedError:
            return empty
        models = decoded(reply.content, _Models)
        if isinstance(models, str):
            return empty
        return next((card for card in models.data if card.id == self._endpoint.model), empty)

    async def _tokens_by_scoring(self, text: str, *, adds_special_tokens: bool) -> TokenIds:
        body: dict[str, Any] = {
            "model": self._endpoint.model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 1,
            "return_tokens_as_token_ids": True, "temperature": 0,
        }  # fmt: skip
        if not adds_special_tokens:
            body["add_special_tokens"] = False
        try:
            reply = await self._endpoint.transport.request("POST", "/v1/completions", body, hint=_TOKENIZE_HINT)
        except PromptTooLongError as error:
            raise PromptTooLongError(
                f"a text over the context cannot be split into tokens, since there is no `/tokenize`: {error.what}",
                where=error.where,
                hint="Give a worker's own address instead of a gateway's, or shorter texts.",
            ) from error
        choices = self._decoded(reply.content, _Echo).choices
        names = choices[0].logprobs.tokens if choices else []
        digits = [name.removeprefix("token_id:") for name in names]
        if not digits or not all(digit.isdecimal() for digit in digits):
            raise MeasurementError("it does not say which tokens a text has", where=self.base_url, hint=_TOKENIZE_HINT)
        return tuple(int(digit) for digit in digits)

    def _decoded(self, content: bytes, kind: type[T]) -> T:
        record = decoded(content, kind)
        if isinstance(record, str):
            raise MeasurementError(f"its answer is not what was asked for: {record}", where=self.base_url)
        return record


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _TextChoice(msgspec.Struct):
    text: str


class _Completion(msgspec.Struct):
    choices: list[_TextChoice]


class _EchoLogprobs(msgspec.Struct):
    tokens: list[str]


class _EchoChoice(msgspec.Struct):
    logprobs: _EchoLogprobs


class _Echo(msgspec.Struct):
    choices: list[_EchoChoice]


class _Models(msgspec.Struct):
    data: list[ModelCard]
