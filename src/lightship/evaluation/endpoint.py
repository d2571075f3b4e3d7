"""A client that scores texts through an OpenAI-compatible endpoint: `/v1/completions` with `echo` and `logprobs`.

Servers exist that accept these fields and ignore them; scores from such an endpoint are chance, so it is probed first.

Not a load client: see `evaluation.performance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import aiohttp
import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.transport import EndpointTransport, NotServedError, Served, decoded
from lightship.evaluation.transport import PromptTooLongError as PromptTooLongError  # noqa: PLC0414 - part of this interface
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.engine import HopTimeouts

MAX_TOP_LOGPROBS = 64
_TOKEN_ID_PREFIX = "token_id:"
_SCORING_HINT = "Prompt log-probabilities need echo, logprobs and max_tokens 0."
# Two texts without a common first character: a first token they share carries no text, so it must be BOS or the like.
_PROBE_TEXTS = ("the old king went to sea in a small boat.", "and then a door opened by itself, very slowly.")

DEFAULT_TIMEOUTS = HopTimeouts(connect_s=5.0, first_token_s=120.0, next_token_s=30.0, total_s=180.0)


@dataclass(frozen=True)
class PromptLogprobs:
    """What the endpoint says about one prompt, checked for shape but not for numbers; position 0 is None.

    Entry i belongs to token i. A None further on is what JSON makes of NaN and infinity. `text_offsets` counts
    characters; it is None where the endpoint does not give it, and tells of the first two tokens alone where it gives
    no more. `served` is what the answer says of its model.
    """

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[int, float | None] | None, ...]
    text_offsets: tuple[int, ...] | None
    served: Served = field(default_factory=Served)


@dataclass(frozen=True)
class EndpointTraits:
    """What probing found out.

    `is_first_token_text` is false where the tokenizer adds BOS (or another token that is the same before every text):
    then every text token has a log-probability. `context_length` is None where `/v1/models` does not tell it.
    """

    is_first_token_text: bool
    context_length: int | None


class CompletionEndpoint:
    """One model behind one OpenAI-compatible base URL.

    Args:
        base_url: Scheme, host and port, with or without the trailing `/v1`.
        model: The name to send.
        session: Open aiohttp session; the caller closes it and puts authorization headers there.
        timeouts: Limits per hop: `first_token_s` bounds the wait for each part of the answer.
        clock: Time to wait with between retries.

    Concurrency: safe for several requests at a time from one event loop.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        session: aiohttp.ClientSession,
        timeouts: HopTimeouts = DEFAULT_TIMEOUTS,
        clock: Clock | None = None,
    ) -> None:
        self.model = model
        self.transport = EndpointTransport(base_url, session=session, timeouts=timeouts, clock=clock or SystemClock())
        self._token_texts: dict[int, str] = {}

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without `/v1`."""
        return self.transport.base_url

    @property
    def concurrent_prompts(self) -> int:
        """Prompts worth scoring at a time: two keep the engine busy while an answer is decoded."""
        return 2

    async def score_prompt(self, prompt: str | Sequence[int], *, top_k: int) -> PromptLogprobs:
        """Log-probabilities of every token of a text (or of these token ids), with the `top_k` likeliest alternatives.

        Raises:
            PromptTooLongError: the text does not fit the context.
            MeasurementError: the endpoint refuses, or answers with something else than prompt log-probabilities.
            NetworkError: it cannot be reached, breaks off, stays busy, or takes too long.
        """
        scored = self._prompt_logprobs(*await self._complete(prompt, top_k=top_k))
        if scored.text_offsets is None and isinstance(prompt, str):
            scored = replace(scored, text_offsets=await self._first_offsets(prompt, scored.token_ids[0]))
        return scored

    async def _first_offsets(self, text: str, token_id: int) -> tuple[int, int] | None:
        """Offsets of the first two tokens, from the text of the first; None where `/detokenize` does not give it."""
        if token_id not in self._token_texts:
            try:
                body = {"model": self.model, "tokens": [token_id]}
                reply = await self.transport.request("POST", "/detokenize", body, hint=None)
                detokenized = decoded(reply.content, _Detokenized)
            except MeasurementError:  # no such path: it is a courtesy
                detokenized = ""
            self._token_texts[token_id] = "" if isinstance(detokenized, str) else detokenized.prompt
        found = self._token_texts[token_id]
        return (0, len(found)) if found and text.startswith(found) else None

    async def tokenize(self, text: str) -> tuple[int, ...] | None:
        """Token ids of `text` as a prompt has them, special tokens included; None where `/tokenize` does not give them.

        Not a standard path: a server may have another one of this name, so compare with `score_prompt` before use.

        Raises: MeasurementError, NetworkError: see `score_prompt`.
        """
        body = {"model": self.model, "prompt": text}
        try:
            reply = await self.transport.request("POST", "/tokenize", body, hint=None)
        except PromptTooLongError:
            raise
        except MeasurementError:  # no such path, or one that wants something else: it is a courtesy
            return None
        tokens = decoded(reply.content, _Tokens)
        return None if isinstance(tokens, str) else tuple(tokens.tokens)

    async def probe_prompt_logprobs(self, *, top_k: int) -> EndpointTraits:
        """Traits of an endpoint that was shown to return real prompt log-probabilities.

        Raises:
            MeasurementError: it does not; the message says exactly what was wrong.
            NetworkError: see `score_prompt`.
        """
        replies = [await self._complete(text, top_k=top_k) for text in _PROBE_TEXTS]
        probed = [self._prompt_logprobs(reply, served) for reply, served in replies]
        for (reply, _), scored in zip(replies, probed, strict=True):
            self._check_counts(reply, scored)
            self._check_numbers(scored)
            self._check_alternatives(scored, top_k=top_k)
        return EndpointTraits(
            is_first_token_text=probed[0].token_ids[0] != probed[1].token_ids[0],
            context_length=await self._context_length(),
        )

    async def _complete(self, prompt: str | Sequence[int], *, top_k: int) -> tuple[_Completion, Served]:
        if not 0 < top_k <= MAX_TOP_LOGPROBS:
            raise MeasurementError(f"top_k must be 1..{MAX_TOP_LOGPROBS}, got {top_k}")
        body = {
            "model": self.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": 0,
            "echo": True,
            "logprobs": top_k,
            "return_tokens_as_token_ids": True,
            "temperature": 0,
        }
        reply = await self.transport.request("POST", "/v1/completions", body, hint=_SCORING_HINT)
        completion = decoded(reply.content, _Completion)
        if isinstance(completion, str):
            raise self._not_scored(f"its answer is not a completion: {completion}")
        return completion, reply.served(system_fingerprint=completion.system_fingerprint, model=completion.model)

    async def _context_length(self) -> int | None:
        # The list is a courtesy: scoring does not depend on it.
        try:
            reply = await self.transport.request("GET", "/v1/models", None, hint=None)
        except NotServedError:
            return None
        models = decoded(reply.content, _Models)
        if isinstance(models, str):
            return None
        return next((card.max_model_len for card in models.data if card.id == self.model), None)

    def _prompt_logprobs(self, reply: _Completion, served: Served) -> PromptLogprobs:
        logprobs = reply.choices[0].logprobs if reply.choices else None
        if logprobs is None or logprobs.top_logprobs is None:
            raise self._not_scored("its answer has no logprobs")
        lengths = {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.top_logprobs)}
        if lengths == {0}:
            raise self._not_scored("its answer has no logprobs for the prompt; it seems to ignore echo")
        if len(lengths) != 1:
            raise self._not_scored(
                f"it returned {len(logprobs.tokens)} tokens, {len(logprobs.token_logprobs)} log-probabilities and "
                f"{len(logprobs.top_logprobs)} sets of alternatives"
            )
        if logprobs.token_logprobs[0] is not None:
            raise self._not_scored(
                f"the first token has log-probability {logprobs.token_logprobs[0]} where nothing precedes it (null)"
            )
        offsets = logprobs.text_offset
        if offsets is not None and len(offsets) != len(logprobs.tokens):
            raise self._not_scored(f"it returned {len(logprobs.tokens)} tokens and {len(offsets)} text offsets")
        if offsets is not None and _counts_token_names(offsets, logprobs.tokens):
            offsets = None
        try:
            return PromptLogprobs(
                token_ids=tuple(_token_id(token) for token in logprobs.tokens),
                token_logprobs=tuple(logprobs.token_logprobs),
                top_logprobs=tuple(
                    None if entry is None else {_token_id(token): value for token, value in entry.items()}
                    for entry in logprobs.top_logprobs
                ),
                text_offsets=None if offsets is None else tuple(offsets),
                served=served,
            )
        except ValueError as error:
            raise self._not_scored(f"{error}; it seems to ignore return_tokens_as_token_ids") from error

    def _check_counts(self, reply: _Completion, scored: PromptLogprobs) -> None:
        if reply.usage is None:
            raise self._not_scored("its answer has no usage, so the number of scored tokens cannot be checked")
        num_prompt = reply.usage.prompt_tokens
        # vLLM generates one token where none was asked for, and counts it without returning it
        if len(scored.token_ids) not in {num_prompt, num_prompt + reply.usage.completion_tokens}:
            raise self._not_scored(
                f"it returned {len(scored.token_ids)} log-probabilities for {num_prompt} tokens; "
                "the prompt's are missing or cut"
            )
        if len(scored.token_ids) < 3:
            raise self._not_scored(f"it made only {len(scored.token_ids)} tokens of a sentence")

    def _check_numbers(self, scored: PromptLogprobs) -> None:
        values = scored.token_logprobs[1:]
        for position, value in enumerate(values, start=1):
            if value is None or not math.isfinite(value):
                raise self._not_scored(f"the log-probability at position {position} is {value}, not a finite number")
            if value > 0:
                raise self._not_scored(f"the log-probability at position {position} is {value}, above 0")
        if len(set(values)) == 1:
            raise self._not_scored(f"all {len(values)} log-probabilities equal {values[0]}")

    def _check_alternatives(self, scored: PromptLogprobs, *, top_k: int) -> None:
        for position, entry in enumerate(scored.top_logprobs[1:], start=1):
            num_entries = 0 if entry is None else len(entry)
            if num_entries < top_k and not covers_vocabulary(entry or {}):
                raise self._not_scored(
                    f"it returned {num_entries} alternatives at position {position} where {top_k} were asked for"
                )

    def _not_scored(self, reason: str) -> MeasurementError:
        return MeasurementError(
            f"the endpoint does not return real prompt log-probabilities: {reason}",
            where=self.base_url,
            hint="Text quality can only be measured on an engine that honours echo with logprobs.",
        )


def covers_vocabulary(entry: Mapping[int, float | None]) -> bool:
    """Whether the alternatives of one position make up the whole distribution (a vocabulary smaller than top-k)."""
    return abs(math.fsum(math.exp(value) for value in entry.values() if value is not None) - 1) < 1e-4


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None = None
    text_offset: list[int] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    """The part of a completion that scoring reads; unlike our own servers' record it tolerates null numbers."""

    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Detokenized(msgspec.Struct):
    prompt: str


class _ModelCard(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_ModelCard]


def _counts_token_names(offsets: Sequence[int], tokens: Sequence[str]) -> bool:
    """Whether the offsets are those of the text `token_id:1token_id:7...`, as vLLM counts them: of no use."""
    return len(tokens) > 1 and list(offsets) == [0, *accumulate(len(token) for token in tokens[:-1])]


def _token_id(token: str) -> int:
    digits = token.removeprefix(_TOKEN_ID_PREFIX)
    if digits == token or not digits.isdecimal() or int(digits) >= 2**32 - 1:
        raise ValueError(f"the token {token[:40]!r} is not of the form token_id:N")
    return int(digits)
