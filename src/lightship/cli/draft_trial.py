"""A variant's speculative draft on trial: the same prompts on a real worker without it, then on one with it.

What comes of it is stored as two figures of the (variant, target with the draft): the share of greedy completions that
are the same, and the speed with it over that without it at the target concurrency. A draft that changes what is
generated, or is not faster, is left out of the ladder with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import aiohttp

from lightship.artifacts.draft_file import read_draft
from lightship.artifacts.machine import Machine
from lightship.cli.prepare import Surroundings
from lightship.cli.variant_worker import started_worker
from lightship.cli.worker_setup import worker_setup
from lightship.compression.drafts import DraftTrial, OutputComparison, accept_draft, compare_outputs
from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.greedy import GreedyRun, greedy_outputs
from lightship.evaluation.statistics.student import mean_of_runs
from lightship.ports.measurements import Measurement, Metric
from lightship.ports.variants import Variant
from lightship.spec.document import Spec
from lightship.spec.engines import VllmEngineSpec

_MAX_TOKENS = 64
_LEAST_PROMPTS = 32
_PROMPT_CHARACTERS = 200


@dataclass(frozen=True)
class TrialProtocol:
    """How a trial is held: rounds on each worker, with a prompt for each request at once (at least 32)."""

    concurrency: int
    num_rounds: int

    @property
    def num_prompts(self) -> int:
        """Prompts of a round."""
        return max(_LEAST_PROMPTS, self.concurrency)

    @property
    def name(self) -> str:
        """The protocol of both figures."""
        return (
            f"greedy-with-and-without-draft-1/{self.num_prompts}x{_MAX_TOKENS}/c{self.concurrency}/{self.num_rounds}x"
        )

    def wanted(self) -> Iterable[tuple[Metric, int, str]]:
        """Metric, concurrency and protocol name of the figures."""
        yield Metric.GREEDY_AGREEMENT, self.concurrency, self.name
        yield Metric.DRAFT_SPEEDUP, self.concurrency, self.name


def uses_draft(spec: Spec, variant: Variant) -> bool:
    """Whether a worker of this variant proposes tokens by a draft.

    Raises: ArtifactError: the draft cannot be read.
    """
    return (spec.engines.vllm is None or spec.engines.vllm.draft) and read_draft(variant.folder) is not None


async def hold_trial(
    spec: Spec,
    variant: Variant,
    around: Surroundings,
    machine: Machine,
    *,
    protocol: TrialProtocol,
    texts: Sequence[str],
) -> list[Measurement]:
    """The two figures of the variant's draft.

    Args:
        texts: What prompts are cut from.

    Raises: EngineError, NetworkError, MeasurementError.
    Effects: starts two workers, one after the other: an accelerator seldom has room for both.
    """
    prompts = cut_prompts(texts, protocol.num_prompts)
    base = await _greedy_runs(_without_draft(spec), variant, around, prompts, protocol)
    drafted = await _greedy_runs(spec, variant, around, prompts, protocol)
    compared = compare_outputs(base[0].output_ids, drafted[0].output_ids)
    speedup = mean_of_runs(speedups(base, drafted), confidence=0.95)

    def figure(metric: Metric, value: float, **details: float) -> Measurement:
        return Measurement(
            metric=metric,
            value=value,
            variant_digest=variant.manifest.digest,
            target=worker_setup(spec, variant, around).target,
            protocol=protocol.name,
            num_items=compared.num_prompts,
            interval=speedup.interval if metric is Metric.DRAFT_SPEEDUP else None,
            measured_unix_s=around.clock.unix_s(),
            machine=machine.fingerprint,
            concurrency=protocol.concurrency,
            details=details,
        )

    where = compared.first_difference
    places = {} if where is None else {"first_prompt": float(where[0]), "first_token": float(where[1])}
    return [
        figure(Metric.GREEDY_AGREEMENT, 1 - compared.differing_share, **places),
        figure(Metric.DRAFT_SPEEDUP, speedup.value, base_tokens_per_s=_mean_speed(base)),
    ]


def draft_refusal(figures: Iterable[Measurement], *, is_16_bit: bool) -> str | None:
    """Why the draft is not worth serving, as a sentence; None where it is, or where no trial was held."""
    found = {one.metric: one for one in sorted(figures, key=lambda one: one.measured_unix_s)}
    agreement, speedup = found.get(Metric.GREEDY_AGREEMENT), found.get(Metric.DRAFT_SPEEDUP)
    if agreement is None or speedup is None:
        return None
    places = agreement.details
    first = (int(places["first_prompt"]), int(places["first_token"])) if "first_prompt" in places else None
    num_identical = round(agreement.value * agreement.num_items)
    base = speedup.details["base_tokens_per_s"]
    outputs = OutputComparison(agreement.num_items, num_identical, first)
    trial = DraftTrial(outputs, base, speedup.value * base, speedup.concurrency)
    is_accepted, reason = accept_draft(trial, is_16_bit=is_16_bit)
    return None if is_accepted else f"The draft is not worth serving; {reason}."


def cut_prompts(texts: Sequence[str], num_prompts: int) -> list[str]:
    """Beginnings of the texts, then of their later parts, until there are enough.

    >>> [len(prompt) for prompt in cut_prompts(["a" * 250, "b"], 4)]
    [200, 1, 50, 200]

    Texts that are too short for so many give the same prompts again.
    """
    longest = max(map(len, texts))
    starts = range(0, longest, _PROMPT_CHARACTERS)
    cut = [part for start in starts for text in texts if (part := text[start : start + _PROMPT_CHARACTERS])]
    return [cut[index % len(cut)] for index in range(num_prompts)]


async def _greedy_runs(
    spec: Spec, variant: Variant, around: Surroundings, prompts: Sequence[str], protocol: TrialProtocol
) -> list[GreedyRun]:
    """The rounds on one worker; one more before them fills caches and compiles what is compiled late."""
    async with started_worker(spec, variant, around) as worker, aiohttp.ClientSession() as session:
        endpoint = CompletionEndpoint(worker.base_url, model=spec.model.name, session=session)
        with around.progress.task(f"trial of {variant.manifest.name}"):
            runs = [
                await greedy_outputs(
                    endpoint, prompts, max_tokens=_MAX_TOKENS, concurrency=protocol.concurrency, clock=around.clock
                )
                for _ in range(1 + protocol.num_rounds)
            ]
    return runs[1:]


def _without_draft(spec: Spec) -> Spec:
    vllm = (spec.engines.vllm or VllmEngineSpec()).model_copy(update={"draft": False})
    return spec.model_copy(update={"engines": spec.engines.model_copy(update={"vllm": vllm})})


def speedups(base: Sequence[GreedyRun], drafted: Sequence[GreedyRun]) -> list[float]:
    """Tokens per second with the draft over those without, round by round.

    Raises: MeasurementError: nothing was generated without it.
    """
    if any(run.tokens_per_s <= 0 for run in base):
        raise MeasurementError(
            "the model generates nothing after any of the prompts, so that no draft can be judged",
            hint="Name texts that it continues as `quality.text`, or take a recipe without a draft.",
        )
    return [after.tokens_per_s / before.tokens_per_s for before, after in zip(base, drafted, strict=True)]


def _mean_speed(runs: Sequence[GreedyRun]) -> float:
    return sum(run.tokens_per_s for run in runs) / len(runs)
