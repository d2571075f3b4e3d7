"""The quality protocol: scores a text set on a serving endpoint and makes figures with intervals of it.

    texts -> probe -> scores per document -> bits/byte, perplexity
                         reference scores -> quality recovery, KL divergence, top-1 agreement (paired)

The items are documents: every interval is a bootstrap over documents, and pairs stay together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightship.artifacts.texts import Document, TextSet
from lightship.errors import LightshipError, MeasurementError
from lightship.evaluation.endpoint import MAX_TOP_LOGPROBS, EndpointTraits
from lightship.evaluation.quality.divergence import DocumentDivergence, check_same_tokens, document_divergence
from lightship.evaluation.quality.scoring import DocumentScore, DocumentScores, score_document
from lightship.evaluation.scoring_endpoint import ScoringEndpoint
from lightship.evaluation.statistics.bootstrap import Estimate, bootstrap_mean, bootstrap_ratio_of_sums
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.ports.progress import Task

MIN_WINDOW_TOKENS = 16
_PROCEDURES = {
    Metric.BITS_PER_BYTE: "bits-per-byte",
    Metric.PERPLEXITY: "perplexity",
    Metric.QUALITY_RECOVERY: "bits-per-byte-recovery",
    Metric.KL_NATS: "kl-divergence",
    Metric.TOP1_AGREEMENT: "top1-agreement",
}
SELF_METRICS = (Metric.BITS_PER_BYTE, Metric.PERPLEXITY)
PAIRED_METRICS = (Metric.QUALITY_RECOVERY, Metric.KL_NATS, Metric.TOP1_AGREEMENT)


@dataclass(frozen=True)
class QualityProtocol:
    """What is done, so that equal protocol names mean comparable figures.

    Args:
        window_tokens: Longest prefix scored, in tokens, BOS counted; it must leave the model's context one token.
        top_k: Alternatives per position that divergence is computed from.
        num_documents: How many documents of the set are scored, from its beginning.
        bootstrap_resamples: Resamples per interval.
        seed: Seed of the resampling.
        confidence: Level of the intervals.

    Raises: MeasurementError: a value is out of its bounds.
    """

    window_tokens: int = 1023
    top_k: int = 64
    num_documents: int = 24
    bootstrap_resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        bounds = {
            "window_tokens": (MIN_WINDOW_TOKENS, 2**20),
            "top_k": (1, MAX_TOP_LOGPROBS),
            "num_documents": (1, 10**6),
            "bootstrap_resamples": (100, 10**6),
            "seed": (0, 2**63 - 1),
        }
        for name, (lowest, highest) in bounds.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise MeasurementError(f"{name} must be {lowest}..{highest}, got {value}", where="quality protocol")
        if not 0.5 <= self.confidence < 1:
            raise MeasurementError(f"confidence must be 0.5..1, got {self.confidence}", where="quality protocol")

    def name(self, metric: Metric, texts: TextSet) -> str:
        """Protocol name of one figure on `texts` (the whole set, of which `num_documents` are scored).

        Known before anything is measured, so a stored figure can be looked up by it. Perplexity and the paired figures
        compare only variants of one tokenizer; for the paired ones that is checked.

        >>> from lightship.artifacts.texts import Document, TextSet
        >>> texts = TextSet("mine", (Document("a", "Once."),))
        >>> QualityProtocol(num_documents=1).name(Metric.BITS_PER_BYTE, texts)
        'bits-per-byte/echo/window=1023/documents=1/text=mine:710689ab'
        """
        top = f"/top={self.top_k}" if metric in {Metric.KL_NATS, Metric.TOP1_AGREEMENT} else ""
        label = texts.first(self.num_documents).label
        window = f"window={self.window_tokens}/documents={self.num_documents}"
        return f"{_PROCEDURES[metric]}/echo{top}/{window}/text={label}"


@dataclass(frozen=True)
class Figure:
    """One figure with its protocol name; `num_items` counts documents."""

    metric: Metric
    value: float
    interval: Interval | None
    num_items: int
    protocol: str
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class QualityResult:
    """Figures of one candidate, and what they were made of; `divergences` is empty without a reference."""

    figures: tuple[Figure, ...]
    scores: DocumentScores
    divergences: tuple[DocumentDivergence, ...]


async def measure_quality(
    candidate: ScoringEndpoint,
    *,
    protocol: QualityProtocol,
    texts: TextSet,
    reference: DocumentScores | None = None,
    task: Task | None = None,
) -> QualityResult:
    """Figures of the variant that serves at `candidate`; the paired ones too where `reference` scores are given.

    Raises:
        MeasurementError: the endpoint cannot score prompts, a number is not finite, the window passes the context, or
            the reference was scored on other texts, in another window, or with another tokenizer.
        NetworkError: the endpoint cannot be reached or is too slow.
    Concurrency: as many prompts at a time as the endpoint says are worth it.
    """
    chosen = texts.first(protocol.num_documents)
    if reference is not None:
        _check_reference(reference, protocol=protocol, texts=chosen)
    traits = await candidate.probe_prompt_logprobs(top_k=protocol.top_k)
    _check_window(protocol, traits, where=candidate.base_url)
    scores = await _score_all(candidate, chosen, protocol=protocol, traits=traits, task=task)
    figures, divergences = await asyncio.to_thread(quality_figures, scores, reference, protocol=protocol, texts=texts)
    return QualityResult(figures=figures, scores=scores, divergences=divergences)


def quality_figures(
    scores: DocumentScores, reference: DocumentScores | None, *, protocol: QualityProtocol, texts: TextSet
) -> tuple[tuple[Figure, ...], tuple[DocumentDivergence, ...]]:
    """All figures the scores allow. Pure.

    - bits/byte: nats of all documents / (ln 2 * bytes of all documents)
    - perplexity: exp(nats of all documents / tokens of all documents)
    - quality recovery: bits/byte of the reference / bits/byte of the candidate, on the same documents; 1 means nothing
      lost, above 1 better than the reference. It says what compression costs in prediction of text, not in task skill.
    - KL divergence, top-1 agreement: mean over documents of the document's mean; see `divergence`

    Raises: MeasurementError: reference and scores do not pair.
    """
    documents = scores.documents
    nats = [document.sum_nats for document in documents]
    details = {
        "num_scored_tokens": float(sum(document.num_tokens for document in documents)),
        "num_scored_bytes": float(sum(document.num_bytes for document in documents)),
        "num_cut_documents": float(sum(document.is_cut for document in documents)),
    }
    estimates = {
        Metric.BITS_PER_BYTE: _ratio(nats, [float(d.num_bytes) for d in documents], protocol).mapped(
            lambda nats_per_byte: nats_per_byte / math.log(2)
        ),
        Metric.PERPLEXITY: _ratio(nats, [float(d.num_tokens) for d in documents], protocol).mapped(math.exp),
    }
    divergences: tuple[DocumentDivergence, ...] = ()
    if reference is not None:
        pairs = _paired(reference, scores)
        divergences = tuple(document_divergence(ours, theirs) for ours, theirs in pairs)
        estimates[Metric.QUALITY_RECOVERY] = _ratio([ours.sum_nats for ours, _ in pairs], nats, protocol)
        estimates[Metric.KL_NATS] = _mean([pair.kl_nats_per_token for pair in divergences], protocol)
        estimates[Metric.TOP1_AGREEMENT] = _mean([pair.top1_agreement for pair in divergences], protocol)
    figures = tuple(
        Figure(
            metric=metric,
            value=estimate.value,
            interval=estimate.interval,
            num_items=estimate.num_items,
            protocol=protocol.name(metric, texts),
            details=details,
        )
        for metric, estimate in estimates.items()
    )
    return figures, divergences


def quality_measurements(
    result: QualityResult,
    *,
    variant_digest: str,
    target: Target,
    machine: str,
    measured_unix_s: float,
    reference_digest: str | None = None,
) -> list[Measurement]:
    """The figures as records for the store; paired ones carry the reference's digest.

    Raises: MeasurementError: there are paired figures, but no reference digest to name.
    """
    if reference_digest is None and any(figure.metric in PAIRED_METRICS for figure in result.figures):
        raise MeasurementError("paired figures need the digest of the reference they were paired with")
    return [
        Measurement(
            metric=figure.metric,
            value=figure.value,
            variant_digest=variant_digest,
            target=target,
            protocol=figure.protocol,
            num_items=figure.num_items,
            interval=figure.interval,
            measured_unix_s=measured_unix_s,
            machine=machine,
            reference_digest=reference_digest if figure.metric in PAIRED_METRICS else None,
            details=dict(figure.details),
        )
        for figure in result.figures
    ]


async def _score_all(
    candidate: ScoringEndpoint,
    texts: TextSet,
    *,
    protocol: QualityProtocol,
    traits: EndpointTraits,
    task: Task | None,
) -> DocumentScores:
    scored: dict[str, DocumentScore] = {}
    waiting = iter(texts.documents)

    async def score_in_turn() -> None:
        for document in waiting:  # one iterator for all tasks: each document goes to whoever is free
            scored[document.document_id] = await _score(candidate, document, protocol=protocol, traits=traits)
            if task is not None:
                task.advance(done=len(scored), total=len(texts.documents), note=document.document_id)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(candidate.concurrent_prompts):
                group.create_task(score_in_turn())
    except ExceptionGroup as errors:
        raise _first_of_ours(errors) from errors
    return DocumentScores(
        text_label=texts.label,
        window_tokens=protocol.window_tokens,
        top_k=protocol.top_k,
        documents=tuple(scored[document.document_id] for document in texts.documents),
    )


async def _score(
    candidate: ScoringEndpoint, document: Document, *, protocol: QualityProtocol, traits: EndpointTraits
) -> DocumentScore:
    return await score_document(
        candidate, document, traits=traits, window_tokens=protocol.window_tokens, top_k=protocol.top_k
    )


def _first_of_ours(errors: ExceptionGroup) -> Exception:
    """The first error a user can act on; several tasks may fail of the same cause."""
    ours = errors.subgroup(LightshipError)
    return (ours or errors).exceptions[0]


def _check_window(protocol: QualityProtocol, traits: EndpointTraits, *, where: str) -> None:
    if traits.context_length is not None and protocol.window_tokens >= traits.context_length:
        raise MeasurementError(
            f"a window of {protocol.window_tokens} tokens does not fit a context of {traits.context_length}",
            where=where,
            hint=f"Use a window of at most {traits.context_length - 1} tokens, for the reference too.",
        )


def _check_reference(reference: DocumentScores, *, protocol: QualityProtocol, texts: TextSet) -> None:
    ours = (texts.label, protocol.window_tokens, protocol.top_k)
    theirs = (reference.text_label, reference.window_tokens, reference.top_k)
    if ours != theirs:
        raise MeasurementError(
            f"the reference was scored under (text, window, top) = {theirs}, the candidate under {ours}",
            hint="Measure the reference again under this protocol.",
        )


def _paired(reference: DocumentScores, candidate: DocumentScores) -> Sequence[tuple[DocumentScore, DocumentScore]]:
    if len(reference.documents) != len(candidate.documents):
        raise MeasurementError(
            f"the reference has {len(reference.documents)} documents, the candidate {len(candidate.documents)}"
        )
    pairs = list(zip(reference.documents, candidate.documents, strict=True))
    for ours, theirs in pairs:
        check_same_tokens(ours, theirs)
    return pairs


def _ratio(numerators: list[float], denominators: list[float], protocol: QualityProtocol) -> Estimate:
    return bootstrap_ratio_of_sums(
        numerators,
        denominators,
        confidence=protocol.confidence,
        num_resamples=protocol.bootstrap_resamples,
        seed=protocol.seed,
    )


def _mean(values: list[float], protocol: QualityProtocol) -> Estimate:
    return bootstrap_mean(
        values, confidence=protocol.confidence, num_resamples=protocol.bootstrap_resamples, seed=protocol.seed
    )
