"""How far a candidate's next-token distributions are from the reference's, on the same tokens.

Both sides report only their k likeliest tokens, so the exact divergence cannot be computed. Per position let S be the
tokens that both report. Both distributions are reduced to the tokens of S and one *tail* bucket with everything else:

    KL = sum over S of p ln(p / q)  +  p_tail ln(p_tail / q_tail),   p_tail = 1 - sum over S of p,  q_tail likewise

Merging outcomes never raises a divergence (data-processing inequality), so this is a **lower bound** of the true
KL(reference || candidate), and equals it when both sides report the whole vocabulary. It is finite, also where the
candidate gives a token of the reference no chance worth reporting.

Divergence rejects variants; it does not rank good ones: near the reference its correlation with task accuracy is about
zero (arXiv 2606.19558).
Source: Cover and Thomas, "Elements of Information Theory", 2nd ed., theorem 2.7.1 (log sum inequality).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightship.errors import MeasurementError
from lightship.evaluation.quality.scoring import DocumentScore

# Log-probabilities are single precision, so a tail below this is rounding noise of 1 - sum(p).
_TAIL_RESOLUTION = 1e-6


@dataclass(frozen=True)
class DocumentDivergence:
    """Means over one document's scored tokens: divergence in nats, and the share of equal likeliest tokens."""

    document_id: str
    num_tokens: int
    kl_nats_per_token: float
    top1_agreement: float


def document_divergence(reference: DocumentScore, candidate: DocumentScore) -> DocumentDivergence:
    """Divergence of the candidate from the reference on one document.

    The likeliest token of a position is the one with the highest log-probability, of equal ones the smallest id.

    Raises: MeasurementError: not the same text, or not the same tokens.
    """
    check_same_tokens(reference, candidate)
    agreement = reference.top_ids[:, 0] == candidate.top_ids[:, 0]
    return DocumentDivergence(
        document_id=reference.document_id,
        num_tokens=reference.num_tokens,
        kl_nats_per_token=float(kl_nats_by_position(reference, candidate).mean()),
        top1_agreement=float(agreement.mean()),
    )


def kl_nats_by_position(reference: DocumentScore, candidate: DocumentScore) -> NDArray[np.float64]:
    """The lower bound of KL(reference || candidate) at each scored position, never negative; see the module."""
    num_positions = reference.num_tokens
    in_reference, in_candidate = _shared_entries(reference.top_ids, candidate.top_ids)
    rows = in_reference // reference.top_ids.shape[1]
    log_p = reference.top_logprobs.reshape(-1)[in_reference].astype(np.float64)
    log_q = candidate.top_logprobs.reshape(-1)[in_candidate].astype(np.float64)
    p, q = np.exp(log_p), np.exp(log_q)
    shared = np.bincount(rows, weights=p * (log_p - log_q), minlength=num_positions)
    p_tail = np.maximum(1 - np.bincount(rows, weights=p, minlength=num_positions), 0.0)
    q_tail = np.maximum(1 - np.bincount(rows, weights=q, minlength=num_positions), _TAIL_RESOLUTION)
    is_tail_real = p_tail > _TAIL_RESOLUTION
    tail = np.where(is_tail_real, p_tail * np.log(np.where(is_tail_real, p_tail, 1.0) / q_tail), 0.0)
    return np.maximum(shared + tail, 0.0)


def check_same_tokens(reference: DocumentScore, candidate: DocumentScore) -> None:
    """Returns when both scored the same text as the same tokens.

    Raises: MeasurementError: they did not; says where they part.
    """
    where = f"document {reference.document_id!r}"
    if reference.document_id != candidate.document_id:
        raise MeasurementError(f"paired with document {candidate.document_id!r}", where=where)
    ours, theirs = reference.token_ids, candidate.token_ids
    if not np.array_equal(ours, theirs):
        shorter = min(len(ours), len(theirs))
        differs = np.flatnonzero(ours[:shorter] != theirs[:shorter])
        position = int(differs[0]) if len(differs) else shorter
        raise MeasurementError(
            f"reference and candidate make different tokens of it, first at position {position} "
            f"({len(ours)} and {len(theirs)} tokens)",
            where=where,
            hint="Paired figures need the same tokenizer; compare bits/byte instead.",
        )
    if reference.text_digest != candidate.text_digest or reference.num_bytes != candidate.num_bytes:
        raise MeasurementError("reference and candidate scored different text", where=where)


def _shared_entries(
    reference_ids: NDArray[np.uint32], candidate_ids: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices of the entries both sides report at the same position."""
    first, second = (
        ids.astype(np.int64) + (np.arange(len(ids), dtype=np.int64) << 32)[:, None]
        for ids in (reference_ids, candidate_ids)
    )
    _, in_first, in_second = np.intersect1d(
        first.reshape(-1), second.reshape(-1), assume_unique=True, return_indices=True
    )
    return in_first, in_second
