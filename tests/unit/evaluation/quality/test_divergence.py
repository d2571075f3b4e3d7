from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from lightship.errors import MeasurementError
from lightship.evaluation.quality.divergence import document_divergence, kl_nats_by_position

if TYPE_CHECKING:
    from tests.unit.evaluation.quality.conftest import MakeScore

Table = NDArray[np.float64]


def log_softmax(logits: Table) -> Table:
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def two_tables(*, vocabulary: int, sharpness: float, noise: float, num_positions: int = 200) -> tuple[Table, Table]:
    """Reference and candidate: the candidate's logits are the reference's plus noise, as quantization makes them."""
    generator = np.random.default_rng(17)
    logits = generator.normal(0.0, sharpness, (num_positions, vocabulary))
    return log_softmax(logits), log_softmax(logits + generator.normal(0.0, noise, logits.shape))


def exact_kl(reference: Table, candidate: Table) -> Table:
    return np.asarray((np.exp(reference) * (reference - candidate)).sum(axis=1))


def test_kl_whole_vocabulary_is_exact(make_score: MakeScore) -> None:
    reference, candidate = two_tables(vocabulary=50, sharpness=2.0, noise=0.5)
    bound = kl_nats_by_position(make_score(reference, top_k=50), make_score(candidate, top_k=50))
    np.testing.assert_allclose(bound, exact_kl(reference, candidate), rtol=1e-4, atol=2e-6)


def test_kl_identical_sides_is_zero(make_score: MakeScore) -> None:
    reference, _ = two_tables(vocabulary=4000, sharpness=4.0, noise=0.0)
    score = make_score(reference, top_k=64)
    assert kl_nats_by_position(score, score).max() == 0.0


def test_kl_top_64_is_a_lower_bound_close_to_the_truth_on_peaked_distributions(make_score: MakeScore) -> None:
    reference, candidate = two_tables(vocabulary=4000, sharpness=5.0, noise=0.3)
    bound = kl_nats_by_position(make_score(reference, top_k=64), make_score(candidate, top_k=64))
    truth = exact_kl(reference, candidate)
    assert (bound <= truth + 2e-6).all()
    assert bound.mean() == pytest.approx(truth.mean(), rel=0.05)


def test_kl_more_alternatives_bring_the_bound_closer(make_score: MakeScore) -> None:
    reference, candidate = two_tables(vocabulary=4000, sharpness=5.0, noise=0.3)
    bounds = [
        kl_nats_by_position(make_score(reference, top_k=k), make_score(candidate, top_k=k)).mean() for k in (1, 8, 64)
    ]
    assert 0 < bounds[0] < bounds[1] < bounds[2]


def test_kl_nothing_shared_is_finite_and_compares_only_tails(make_score: MakeScore) -> None:
    reference = np.log(np.array([[0.97, 0.01, 0.01, 0.01]]))
    candidate = np.log(np.array([[0.01, 0.97, 0.01, 0.01]]))
    assert kl_nats_by_position(make_score(reference, top_k=1), make_score(candidate, top_k=1)).tolist() == [0.0]


def test_kl_tail_by_hand(make_score: MakeScore) -> None:
    reference = np.log(np.array([[0.7, 0.1, 0.1, 0.1]]))
    candidate = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    bound = kl_nats_by_position(make_score(reference, top_k=1), make_score(candidate, top_k=1))
    assert bound[0] == pytest.approx(0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6), rel=1e-6)


def test_kl_tail_the_candidate_rounds_to_nothing_stays_finite(make_score: MakeScore) -> None:
    reference = np.log(np.array([[0.9, 0.05, 0.05]]))
    candidate = log_softmax(np.array([[60.0, 0.0, 0.0]]))
    bound = kl_nats_by_position(make_score(reference, top_k=1), make_score(candidate, top_k=1))
    assert bound[0] == pytest.approx(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 1e-6), rel=1e-5)


def test_document_divergence_is_the_mean_over_its_tokens(make_score: MakeScore) -> None:
    reference = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5], [0.4, 0.6]]))
    candidate = np.log(np.array([[0.8, 0.2], [0.1, 0.9], [0.5, 0.5], [0.4, 0.6]]))
    found = document_divergence(make_score(reference, top_k=2), make_score(candidate, top_k=2))
    assert found.num_tokens == 4
    assert found.top1_agreement == 0.75  # the tie of the third position goes to the smallest id on both sides
    assert found.kl_nats_per_token == pytest.approx((0.8 * math.log(8) + 0.2 * math.log(2 / 9)) / 4, rel=1e-5)


def test_document_divergence_other_tokens_are_refused_with_the_place(make_score: MakeScore) -> None:
    table, _ = two_tables(vocabulary=5, sharpness=1.0, noise=0.0, num_positions=3)
    reference = make_score(table, top_k=5, token_ids=[0, 1, 2, 3])
    with pytest.raises(
        MeasurementError, match=r"document 'd': .*different tokens of it, first at position 2 \(4 and 4"
    ):
        document_divergence(reference, make_score(table, top_k=5, token_ids=[0, 1, 4, 3]))
    with pytest.raises(MeasurementError, match=r"first at position 3 \(4 and 3 tokens"):
        document_divergence(reference, make_score(table[:2], top_k=5, token_ids=[0, 1, 2]))


def test_document_divergence_other_documents_are_refused(make_score: MakeScore) -> None:
    table, _ = two_tables(vocabulary=5, sharpness=1.0, noise=0.0, num_positions=3)
    reference = make_score(table, top_k=5)
    with pytest.raises(MeasurementError, match="paired with document 'e'"):
        document_divergence(reference, make_score(table, top_k=5, document_id="e"))
    with pytest.raises(MeasurementError, match="scored different text"):
        document_divergence(reference, dataclasses.replace(reference, text_digest="other"))
