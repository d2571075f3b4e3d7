"""Answers the harness's three kinds of requests through an endpoint. Knows nothing of the harness's classes.

    pairs  -> tokens of context and whole -> window -> score      (multiple choice)
    texts  -> tokens -> rolling windows   -> scores               (perplexity of documents)
    texts  -> continuation                                        (generation)

The harness is synchronous and hands over all requests of a kind at once; `HarnessBackend` runs an event loop per call,
with a bounded number of requests in flight. Equal requests are sent once, except where answers are sampled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from lightship.errors import LightshipError, MeasurementError
from lightship.evaluation.endpoint import DEFAULT_TIMEOUTS, CompletionEndpoint
from lightship.evaluation.harness.endpoint import TokenEndpoint
from lightship.evaluation.harness.generation import GenerationOptions, cut_at_stops, generation_options
from lightship.evaluation.harness.windows import (
    Likelihood,
    TokenIds,
    Window,
    excerpt,
    fitted,
    likelihood,
    pair_window,
    rolling_windows,
    split_pair,
    without_doubled_prefix,
)
from lightship.evaluation.transport import PromptTooLongError
from lightship.ports.engine import HopTimeouts
from lightship.ports.progress import Progress, SilentProgress, Task

T = TypeVar("T")
Deliver = Callable[[int, T], None]
"""Called with a request's index as soon as its answer is there, in any order."""


@dataclass(frozen=True)
class HarnessSettings:
    """How requests are made.

    Args:
        concurrency: Requests in flight. Our worker scores one text at a time; a few keep it busy.
        truncate_context: Whether a context that does not fit is cut at its front, as the harness's torch backend does
            without asking; otherwise such a request is an error.
        add_special_tokens: Whether texts get what the tokenizer adds (BOS); the harness's `add_bos_token`.
        prefix_token_id: The token that stands for an empty context; None takes the one the tokenizer adds.
        context_length: Tokens the model takes; None takes what the endpoint says.

    Raises: MeasurementError: a value is out of its bounds.
    """

    concurrency: int = 4
    truncate_context: bool = False
    add_special_tokens: bool = True
    prefix_token_id: int | None = None
    context_length: int | None = None

    def __post_init__(self) -> None:
        bounds = {"concurrency": (1, 1024), "prefix_token_id": (0, 2**32 - 1), "context_length": (2, 2**31)}
        for name, (lowest, highest) in bounds.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise MeasurementError(f"{name} must be {lowest}..{highest}, got {value}", where="lm-eval adapter")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model behind an endpoint; None for what it does not say."""

    context_length: int | None
    prefix_token_id: int | None = None
    variant: str | None = None
    variant_digest: str | None = None


class HarnessBackend:
    """Scores and generates through one endpoint, synchronously.

    Args:
        base_url: Scheme, host and port, with or without the trailing `/v1`.
        model: The name to send.
        settings: How requests are made.
        headers: Sent with every request, such as an API key.
        timeouts: Limits per hop.
        progress: Told of every answer.

    Concurrency: one call at a time; may be called where an event loop is running.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        settings: HarnessSettings | None = None,
        headers: Mapping[str, str] | None = None,
        timeouts: HopTimeouts = DEFAULT_TIMEOUTS,
        progress: Progress | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.settings = settings or HarnessSettings()
        self._headers = dict(headers or {})
        self._timeouts = timeouts
        self._progress = progress or SilentProgress()
        self._probed: ModelFacts | None = None

    def facts(self) -> ModelFacts:
        """What the endpoint says of its model, without scoring anything."""
        return self._run(self._card_facts)

    def loglikelihoods(
        self, pairs: Sequence[tuple[str, str]], *, deliver: Deliver[Likelihood] | None = None
    ) -> list[Likelihood]:
        """The log-likelihood of each continuation after its context, in order.

        Raises: MeasurementError: the endpoint cannot score prompts, or a pair cannot be scored exactly. NetworkError.
        """
        return self._all(pairs, "log-likelihoods", deliver, _likelihoods, is_scoring=True)

    def rolling_loglikelihoods(self, texts: Sequence[str], *, deliver: Deliver[float] | None = None) -> list[float]:
        """The log-likelihood of each whole text, in nats, in order; see `rolling_windows`.

        Raises: as `loglikelihoods`.
        """
        return self._all(texts, "rolling log-likelihoods", deliver, _rolling, is_scoring=True)

    def continuations(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]], *, deliver: Deliver[str] | None = None
    ) -> list[str]:
        """The text after each context, under the harness's generation arguments, in order.

        Raises: MeasurementError: an argument cannot be honoured, or a prompt does not fit. NetworkError.
        """
        checked = [
            (context, generation_options(arguments, where=excerpt([context]))) for context, arguments in requests
        ]
        return self._all(checked, "continuations", deliver, _continuations, is_scoring=False)

    def _all(
        self,
        items: Sequence[Any],
        title: str,
        deliver: Deliver[T] | None,
        work: Callable[[_Session, Sequence[Any], Deliver[T]], Awaitable[None]],
        *,
        is_scoring: bool,
    ) -> list[T]:
        answers: dict[int, T] = {}
        if not items:
            return []

        def take(index: int, answer: T) -> None:
            answers[index] = answer
            task.advance(done=len(answers), total=len(items))
            if deliver is not None:
                deliver(index, answer)

        async def run(endpoint: TokenEndpoint) -> None:
            facts = await self._scoring_facts(endpoint) if is_scoring else await self._card_facts(endpoint)
            await work(_Session(endpoint, self.settings, facts), items, take)

        task: Task
        with self._progress.task(f"{title} of {self.model}") as task:
            self._run(run)
        return [answers[index] for index in range(len(items))]

    async def _scoring_facts(self, endpoint: TokenEndpoint) -> ModelFacts:
        if self._probed is None:
            await endpoint.probe()
            facts, given = await self._card_facts(endpoint), self.settings.prefix_token_id
            prefix_token_id = await endpoint.prefix_token_id() if given is None else given
            self._probed = ModelFacts(facts.context_length, prefix_token_id, facts.variant, facts.variant_digest)
        return self._probed

    async def _card_facts(self, endpoint: TokenEndpoint) -> ModelFacts:
        card = await endpoint.model_card()
        return ModelFacts(
            context_length=self.settings.context_length or card.max_model_len,
            variant=card.variant,
            variant_digest=card.variant_digest,
        )

    def _run(self, work: Callable[[TokenEndpoint], Awaitable[T]]) -> T:
        async def in_session() -> T:
            async with aiohttp.ClientSession(headers=self._headers) as session:
                endpoint = CompletionEndpoint(self.base_url, model=self.model, session=session, timeouts=self._timeouts)
                return await work(TokenEndpoint(endpoint))

        return _run_blocking(in_session())


@dataclass(frozen=True)
class _Session:
    """An open endpoint and what is known of it."""

    endpoint: TokenEndpoint
    settings: HarnessSettings
    facts: ModelFacts

    async def tokens(self, text: str) -> TokenIds:
        found = await self.endpoint.tokens(text, adds_special_tokens=self.settings.add_special_tokens)
        return without_doubled_prefix(found, self.facts.prefix_token_id)

    async def score(self, window: Window, *, where: str) -> Likelihood:
        fitting = fitted(
            window,
            context_length=self.facts.context_length,
            may_cut=self.settings.truncate_context,
            where=where,
        )
        return likelihood(fitting, await self.endpoint.score_tokens(fitting.token_ids), where=where)

    def prefix(self, *, where: str) -> int:
        if self.facts.prefix_token_id is None:
            raise MeasurementError(
                "the tokenizer adds no token in front of a text, so nothing stands before this one's first token",
                where=where,
                hint="Give the id of BOS or of the end-of-text token (prefix_token_id).",
            )
        return self.facts.prefix_token_id


async def _likelihoods(session: _Session, pairs: Sequence[tuple[str, str]], deliver: Deliver[Likelihood]) -> None:
    groups: dict[str, dict[str, list[int]]] = {}
    for index, (context, continuation) in enumerate(pairs):
        groups.setdefault(context, {}).setdefault(continuation, []).append(index)

    async def score_group(group: tuple[str, dict[str, list[int]]]) -> None:
        context, continuations = group
        context_ids = await session.tokens(context.rstrip()) if context else ()
        for continuation, indices in continuations.items():
            where = f"request {excerpt([context, continuation])}"
            window = await _pair_window(session, context, context_ids, continuation, where=where)
            answer = await session.score(window, where=where)
            for index in indices:
                deliver(index, answer)

    await _each(groups.items(), score_group, concurrency=session.settings.concurrency)


async def _pair_window(
    session: _Session, context: str, context_ids: TokenIds, continuation: str, *, where: str
) -> Window:
    if context:
        return pair_window(context_ids, await session.tokens("".join(split_pair(context, continuation))), where=where)
    prefix = session.prefix(where=where)
    scored = await session.endpoint.tokens(continuation, adds_special_tokens=False)
    return pair_window((prefix,), scored if scored[:1] == (prefix,) else (prefix, *scored), where=where)


async def _rolling(session: _Session, texts: Sequence[str], deliver: Deliver[float]) -> None:
    async def score(item: tuple[str, list[int]]) -> None:
        text, indices = item
        where = f"text {excerpt([text])}"
        if session.facts.context_length is None:
            raise MeasurementError(
                "the endpoint does not say how long the model's context is",
                where=session.endpoint.base_url,
                hint="Give it (context_length).",
            )
        windows = rolling_windows(
            await session.tokens(text),
            prefix_token_id=session.prefix(where=where),
            context_length=session.facts.context_length,
        )
        nats = math.fsum([(await session.score(window, where=where)).nats for window in windows])
        for index in indices:
            deliver(index, nats)

    await _each(_indices(texts).items(), score, concurrency=session.settings.concurrency)


async def _continuations(
    session: _Session, requests: Sequence[tuple[str, GenerationOptions]], deliver: Deliver[str]
) -> None:
    # sampled answers differ, and a task that repeats a request wants all of them
    keys = [
        (
            context,
            options.max_tokens,
            options.stops,
            *sorted(options.fields.items()),
            -1 if options.is_greedy else index,
        )
        for index, (context, options) in enumerate(requests)
    ]

    async def answer(indices: list[int]) -> None:
        context, options = requests[indices[0]]
        text = cut_at_stops(await _continued(session, context, options), options.stops)
        for index in indices:
            deliver(index, text)

    await _each(_indices(keys).values(), answer, concurrency=session.settings.concurrency)


async def _continued(session: _Session, context: str, options: GenerationOptions) -> str:
    fields = options.request_fields
    if not session.settings.add_special_tokens:
        fields["add_special_tokens"] = False
    try:
        return await session.endpoint.continue_prompt(context, fields)
    except PromptTooLongError as error:
        context_length = session.facts.context_length
        num_kept = (context_length or 0) - options.max_tokens
        if not session.settings.truncate_context or context_length is None or num_kept < 1:
            raise MeasurementError(
                error.what,
                where=f"request {excerpt([context])}",
                hint="Ask for fewer tokens, or allow cutting contexts at the front (truncate_context=True).",
            ) from error
    token_ids = await session.tokens(context)
    return await session.endpoint.continue_prompt(token_ids[-num_kept:], options.request_fields)


def _indices(keys: Iterable[T]) -> dict[T, list[int]]:
    """Where each distinct key stands, in the order of first appearance."""
    found: dict[T, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, concurrency: int) -> None:
    """Does the work for every item, `concurrency` at a time.

    Raises: the first error a user can act on; several tasks may fail of the same cause.
    """
    waiting = iter(items)

    async def work_in_turn() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work_in_turn())
    except ExceptionGroup as errors:
        raise (errors.subgroup(LightshipError) or errors).exceptions[0] from errors


def _run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine; in a thread of its own where this one runs an event loop already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
