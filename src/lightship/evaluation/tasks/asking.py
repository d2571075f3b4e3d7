"""Puts one item of a task to an endpoint and judges the answer: by log-likelihood, or by a scorer.

Each way is an `Asker`; `run` drives any of them alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.generation import Generation, generate
from lightship.evaluation.tasks.choices import (
    ChoiceRule,
    ChoiceScore,
    choose,
    continuation_logprob,
    split_at_white_space,
)
from lightship.evaluation.tasks.items import content_hash
from lightship.evaluation.tasks.results import EXCERPT_CHARS, ItemResult
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.task import GeneratedAnswers, Task
from lightship.evaluation.transport import Served

# One alternative is the least that servers accept beside log-probabilities, and the quickest.
_TOP_K = 1
# Any sentence does: it only has to become the same tokens both ways.
_TOKENIZER_CHECK = "Does the lighthouse keeper, at 73, still count every ship?"


@dataclass(frozen=True)
class Asked:
    """One item's result, who answered, and counts worth summing over a run."""

    result: ItemResult
    served: Served
    counts: Mapping[str, float] = field(default_factory=dict)


class Asker(Protocol):
    """One way of asking."""

    async def prepare(self) -> None:
        """Returns when the endpoint can be asked in this way.

        Raises: MeasurementError: it cannot; NetworkError: it cannot be reached.
        """

    async def ask(self, item: Item) -> Asked:
        """The item, asked and scored.

        Raises: MeasurementError: no honest score is possible; NetworkError: the endpoint failed.
        """


def asker(endpoint: CompletionEndpoint, task: Task) -> Asker:
    """The way this task is asked."""
    if isinstance(task.method, ChoiceRule):
        return LikelihoodAsker(endpoint, task, task.method)
    return GenerationAsker(endpoint, task, task.method)


class LikelihoodAsker:
    """Scores prompt and choice together, once per choice; see `choices` for the procedure."""

    def __init__(self, endpoint: CompletionEndpoint, task: Task, rule: ChoiceRule) -> None:
        self._endpoint = endpoint
        self._task = task
        self._rule = rule
        self._has_tokenize = False
        self._start_ids: tuple[int, ...] = ()

    async def prepare(self) -> None:
        """See `Asker`: the endpoint is shown to score prompts, and how to count a prompt's tokens is found out."""
        traits = await self._endpoint.probe_prompt_logprobs(top_k=_TOP_K)
        scored = await self._endpoint.score_prompt(_TOKENIZER_CHECK, top_k=_TOP_K)
        self._start_ids = () if traits.is_first_token_text else scored.token_ids[:1]
        # Servers have other paths of this name, so it is used where it says exactly what scoring says.
        self._has_tokenize = await self._endpoint.tokenize(_TOKENIZER_CHECK) == scored.token_ids

    async def ask(self, item: Item) -> Asked:
        """See `Asker`. Counts `num_joined_choices`, whose first token begins inside the prompt."""
        prompt = self._task.prompt(item)
        texts = self._rule.texts(item.fields)
        context, _ = split_at_white_space(prompt, "")
        context_ids = await self._context_ids(context)
        logprobs = []
        num_joined = 0
        served: Served | None = None
        for text in texts:
            _, continuation = split_at_white_space(prompt, self._rule.prefix + text)
            whole = await self._endpoint.score_prompt(context + continuation, top_k=_TOP_K)
            logprobs.append(continuation_logprob(whole, num_context_tokens=len(context_ids)))
            num_joined += whole.token_ids[: len(context_ids)] != context_ids
            served = _same(served, whole.served, where=self._endpoint.base_url)
        score = choose(logprobs, texts)
        result = _result(
            self._task,
            item,
            sent=[prompt, self._rule.prefix, *texts],
            prompt=prompt,
            answer=_shown(score, texts),
            scores=score.scores(self._rule.answer_index(item.fields)),
        )
        return Asked(result, served or Served(), {"num_joined_choices": float(num_joined)})

    async def _context_ids(self, context: str) -> tuple[int, ...]:
        if not context:  # servers refuse to score an empty text
            return self._start_ids
        if self._has_tokenize:
            ids = await self._endpoint.tokenize(context)
            if ids is None:
                raise MeasurementError("the endpoint stopped giving token ids", where=self._endpoint.base_url)
            return ids
        return (await self._endpoint.score_prompt(context, top_k=_TOP_K)).token_ids


class GenerationAsker:
    """Generates the samples one after the other and hands them to the task's scorer."""

    def __init__(self, endpoint: CompletionEndpoint, task: Task, answers: GeneratedAnswers) -> None:
        self._endpoint = endpoint
        self._task = task
        self._answers = answers

    async def prepare(self) -> None:
        """See `Asker`: nothing is needed beyond an endpoint that answers."""

    async def ask(self, item: Item) -> Asked:
        """See `Asker`. Counts tokens, answers cut by `max_tokens`, and empty ones."""
        prompt = self._task.prompt(item)
        sent = [{"role": "user", "content": prompt}] if self._answers.is_chat else prompt
        samples: list[Generation] = []
        served: Served | None = None
        for index in range(self._answers.num_samples):
            parameters = self._answers.parameters
            if parameters.temperature > 0:
                seed = sample_seed(self._task.seed, item.item_id, index)
                parameters = replace(parameters, seed=seed)
            sample = await generate(self._endpoint, sent, parameters)
            served = _same(served, sample.served, where=self._endpoint.base_url)
            samples.append(sample)
        texts = [sample.text for sample in samples]
        scores = await self._answers.scorer.score(item, texts)
        self._check(scores)
        result = _result(self._task, item, sent=sent, prompt=prompt, answer="\n---\n".join(texts), scores=scores)
        return Asked(result, served or Served(), _counts(samples))

    def _check(self, scores: Mapping[str, float]) -> None:
        scorer = self._answers.scorer
        assert set(scores) == set(scorer.metrics), f"{scorer.kind} scored {sorted(scores)}"
        for metric, value in scores.items():
            is_binary = metric in scorer.binary_metrics
            assert value in {0.0, 1.0} if is_binary else 0 <= value <= 1, f"{scorer.kind} scored {metric} {value}"


def sample_seed(task_seed: int, item_id: str, index: int) -> int:
    """The seed of one sample, 0 to 2^31 - 1: the same whatever else was asked before, and after a resumption.

    >>> sample_seed(0, "a", 0) == sample_seed(0, "a", 0) != sample_seed(0, "a", 1)
    True
    """
    digest = hashlib.sha256(f"{task_seed}/{index}/{item_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # engines differ in how wide a seed may be; 31 bits fit all


class ServedModelChangedError(MeasurementError):
    """Another model answered than before."""


def check_served(first: Served, now: Served, *, where: str) -> None:
    """Returns when both answers came from the same model, as far as they tell.

    Raises: ServedModelChangedError: they did not; names both.
    """
    if first.name != now.name:
        raise ServedModelChangedError(
            f"the endpoint answered as {first.name or 'unnamed'!r} and then as {now.name or 'unnamed'!r}",
            where=where,
            hint="Scores of two models do not belong into one run. Address one variant by its name, as model@variant.",
        )


def _same(first: Served | None, now: Served, *, where: str) -> Served:
    if first is not None:
        check_served(first, now, where=where)
    return first or now


def _counts(samples: list[Generation]) -> dict[str, float]:
    counts = {
        "num_cut_answers": sum(sample.finish_reason == "length" for sample in samples),
        "num_empty_answers": sum(not sample.text.strip() for sample in samples),
    }
    for name in ("num_prompt_tokens", "num_completion_tokens"):
        values = [getattr(sample, name) for sample in samples]
        if None not in values:
            counts[name] = sum(values)
    return {name: float(value) for name, value in counts.items()}


def _result(
    task: Task, item: Item, *, sent: object, prompt: str, answer: str, scores: Mapping[str, float]
) -> ItemResult:
    target = task.target(item)
    return ItemResult(
        item_id=item.item_id,
        item_hash=content_hash(item.fields),
        prompt_hash=content_hash(sent),
        target_hash=content_hash(target),
        cluster=item.cluster,
        scores=dict(scores),
        prompt=prompt[-EXCERPT_CHARS:],  # the question stands at its end, after any examples
        target=target[:EXCERPT_CHARS],
        answer=answer[:EXCERPT_CHARS],
    )


def _shown(score: ChoiceScore, texts: tuple[str, ...]) -> str:
    """Each choice with its log-probability; the likeliest one is marked."""
    lines = zip(score.logprobs, texts, strict=True)
    return "\n".join(
        f"{'>' if index == score.likeliest else ' '} {logprob:.4f} {text}"
        for index, (logprob, text) in enumerate(lines)
    )
