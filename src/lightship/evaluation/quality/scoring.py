"""Scores documents through an endpoint, and keeps per document what every later figure needs.

Window rule: a document of more than `window_tokens` tokens (BOS counted) is cut to a prefix that fits, at white space,
and the whole prefix is scored. So the bytes counted are exactly the bytes of scored text, whatever offsets a server
reports and even where one character spans several tokens. A tokenizer without BOS leaves its first token without a
log-probability; that token's bytes are not counted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightship.artifacts.texts import Document
from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import (
    EndpointTraits,
    PromptLogprobs,
    PromptTooLongError,
    covers_vocabulary,
)
from lightship.evaluation.scoring_endpoint import ScoringEndpoint

# The first prefix tried: more characters than this per token of window is rare, and the answer stays bounded.
_MAX_CHARS_PER_TOKEN = 8
_BISECTION_STEPS = 8  # leaves at most window_tokens / 32 characters unused


@dataclass(frozen=True, eq=False)
class DocumentScore:
    """What one variant says about one document.

    Shapes: `token_ids` (n + 1), `token_nats` (n), `top_ids` and `top_logprobs` (n, k), n scored positions; position i
    of the last three belongs to token i + 1. Alternatives are ordered by falling log-probability, ties by rising id.
    Units: natural logarithms; `token_nats` are negative log-probabilities.
    """

    document_id: str
    num_bytes: int
    num_chars: int
    is_cut: bool
    text_digest: str
    token_ids: NDArray[np.uint32] = field(repr=False)
    token_nats: NDArray[np.float64] = field(repr=False)
    top_ids: NDArray[np.uint32] = field(repr=False)
    top_logprobs: NDArray[np.float32] = field(repr=False)

    @property
    def num_tokens(self) -> int:
        """Scored tokens."""
        return len(self.token_nats)

    @property
    def sum_nats(self) -> float:
        """Negative log-likelihood of the scored tokens together."""
        return math.fsum(self.token_nats)


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """Scores of one variant on one text set; `text_label` and `window_tokens` say which, and how it was cut."""

    text_label: str
    window_tokens: int
    top_k: int
    documents: tuple[DocumentScore, ...]


def bits_per_byte(sum_nats: float, num_bytes: int) -> float:
    """Bits the model needs per byte of UTF-8 text: nats / (ln 2 * bytes). Comparable across tokenizers.

    >>> round(bits_per_byte(693.1472, 1000), 4)
    1.0
    """
    return sum_nats / (math.log(2) * num_bytes)


def perplexity(sum_nats: float, num_tokens: int) -> float:
    """exp(nats per token). Comparable only between models with the same tokenizer.

    >>> round(perplexity(2.302585 * 50, 50), 4)
    10.0
    """
    return math.exp(sum_nats / num_tokens)


async def score_document(
    endpoint: ScoringEndpoint, document: Document, *, traits: EndpointTraits, window_tokens: int, top_k: int
) -> DocumentScore:
    """The score of the document's longest fitting prefix; see the window rule above.

    Raises: MeasurementError: no usable log-probabilities, with document and position. NetworkError: see the endpoint.
    """
    text, reply = await _fitting_prefix(endpoint, document, window_tokens=window_tokens, top_k=top_k)
    return score_of_reply(document, text, reply, traits=traits, top_k=top_k)


def score_of_reply(
    document: Document, scored_text: str, reply: PromptLogprobs, *, traits: EndpointTraits, top_k: int
) -> DocumentScore:
    """The reply's numbers as arrays, all proven finite, with the bytes they stand for. Pure.

    Raises: MeasurementError: names document and position of the first number that is missing or not finite.
    """
    where = _place(document.document_id)
    if len(reply.token_ids) < 2:
        raise MeasurementError("the document has no token with something before it", where=where)
    num_bytes = len(scored_text.encode())
    if traits.is_first_token_text:
        num_bytes -= _first_token_bytes(scored_text, reply, where=where)
    nats = np.array([math.nan if value is None else -value for value in reply.token_logprobs[1:]], dtype=np.float64)
    _require_finite(nats, where=where)
    top_ids, top_logprobs = _top_table(reply, top_k=top_k, where=where)
    return DocumentScore(
        document_id=document.document_id,
        num_bytes=num_bytes,
        num_chars=len(scored_text),
        is_cut=len(scored_text) < len(document.scored_text),
        text_digest=hashlib.sha256(scored_text.encode()).hexdigest(),
        token_ids=np.array(reply.token_ids, dtype=np.uint32),
        token_nats=nats,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )


async def _fitting_prefix(
    endpoint: ScoringEndpoint, document: Document, *, window_tokens: int, top_k: int
) -> tuple[str, PromptLogprobs]:
    """The whole text where it fits, else a long prefix found by bisection; the same for every server of a tokenizer."""
    text = document.scored_text
    attempt = _prefix_at_white_space(text, window_tokens * _MAX_CHARS_PER_TOKEN)
    fitting: tuple[str, PromptLogprobs] | None = None
    num_fitting_chars, num_excess_chars = 0, len(attempt) + 1
    for _ in range(1 + _BISECTION_STEPS):
        reply = await _score_if_fitting(endpoint, attempt, window_tokens=window_tokens, top_k=top_k)
        if reply is None:
            num_excess_chars = len(attempt)
        else:
            fitting, num_fitting_chars = (attempt, reply), len(attempt)
        attempt = _prefix_at_white_space(text, (num_fitting_chars + num_excess_chars) // 2)
        if not num_fitting_chars < len(attempt) < num_excess_chars:
            break
    if fitting is None:
        raise MeasurementError(
            f"no prefix fits a window of {window_tokens} tokens",
            where=_place(document.document_id),
            hint="Raise the window, up to the model's context.",
        )
    return fitting


async def _score_if_fitting(
    endpoint: ScoringEndpoint, text: str, *, window_tokens: int, top_k: int
) -> PromptLogprobs | None:
    try:
        reply = await endpoint.score_prompt(text, top_k=top_k)
    except PromptTooLongError:
        return None
    return reply if len(reply.token_ids) <= window_tokens else None


def _prefix_at_white_space(text: str, num_chars: int) -> str:
    """The longest prefix of at most `num_chars` that ends before white space; cut anywhere where there is none."""
    if num_chars >= len(text):
        return text
    for end in range(num_chars, 0, -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return text[:end]
    return text[: max(1, num_chars)]


def _first_token_bytes(text: str, reply: PromptLogprobs, *, where: str) -> int:
    offsets = reply.text_offsets
    if offsets is None or offsets[0] != 0 or not 0 < offsets[1] <= len(text):
        raise MeasurementError(
            "the model has no BOS token and the endpoint does not say where the second token begins (text_offset), "
            "so the scored bytes cannot be counted",
            where=where,
        )
    return len(text[: offsets[1]].encode())


def _top_table(reply: PromptLogprobs, *, top_k: int, where: str) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    rows = [entry or {} for entry in reply.top_logprobs[1:]]
    shortest = min(map(len, rows))
    width = min(top_k, shortest)
    for position, row in enumerate(rows, start=1):
        is_complete = len(row) >= top_k or (len(row) == width and covers_vocabulary(row))
        if None not in row.values() and not is_complete:
            raise MeasurementError(
                f"{len(row)} alternatives at token position {position} where {top_k} were asked for", where=where
            )
    ids = np.zeros((len(rows), width), dtype=np.uint32)
    logprobs = np.zeros((len(rows), width), dtype=np.float32)
    for index, row in enumerate(rows):
        _require_finite(_as_floats(list(row.values())), where=where, position=index + 1)
        ranked = sorted(row.items(), key=_likeliest_first)[:width]
        ids[index] = [token for token, _ in ranked]
        logprobs[index] = [value for _, value in ranked]
    return ids, logprobs


def _likeliest_first(item: tuple[int, float | None]) -> tuple[float, int]:
    token, value = item
    return (-value if value is not None else math.inf, token)


def _as_floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _require_finite(values: NDArray[np.float64], *, where: str, position: int | None = None) -> None:
    is_finite = np.isfinite(values)
    if not is_finite.all():
        found = position if position is not None else 1 + int(np.argmin(is_finite))
        raise MeasurementError(
            f"a log-probability at token position {found} is not a finite number",
            where=where,
            hint="The variant computes NaN or infinity on this engine; it must not be served.",
        )


def _place(document_id: str) -> str:
    return f"document {document_id!r}"
