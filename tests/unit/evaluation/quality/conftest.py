"""Document scores made from whole next-token tables, of which the tests compute the exact divergence directly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lightship.evaluation.quality.scoring import DocumentScore

MakeScore = Callable[..., DocumentScore]


def score_of_table(
    log_table: NDArray[np.float64], *, top_k: int, document_id: str = "d", token_ids: list[int] | None = None
) -> DocumentScore:
    """The score of a document whose next-token log-probabilities at each position are the table's rows."""
    ids = [0] * (len(log_table) + 1) if token_ids is None else token_ids
    order = np.argsort(-log_table, axis=1, kind="stable")[:, :top_k]
    return DocumentScore(
        document_id=document_id,
        num_bytes=3 * len(log_table),
        num_chars=3 * len(log_table),
        is_cut=False,
        text_digest="text",
        token_ids=np.array(ids, dtype=np.uint32),
        token_nats=-log_table[np.arange(len(log_table)), ids[1:]],
        top_ids=order.astype(np.uint32),
        top_logprobs=np.take_along_axis(log_table, order, axis=1).astype(np.float32),
    )


@pytest.fixture
def make_score() -> MakeScore:
    """See `score_of_table`."""
    return score_of_table
