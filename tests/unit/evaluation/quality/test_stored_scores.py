from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.evaluation.quality.stored_scores import decode_scores, encode_scores

if TYPE_CHECKING:
    from tests.unit.evaluation.quality.conftest import MakeScore


def scores(make_score: MakeScore, *, largest_id: int = 300) -> DocumentScores:
    generator = np.random.default_rng(1)
    tables = [np.log(generator.dirichlet(np.ones(400), size=num_positions)) for num_positions in (3, 70)]
    documents = (
        make_score(tables[0], top_k=64, document_id="a", token_ids=[5, 7, 9, 11]),
        make_score(tables[1], top_k=64, document_id="b"),
    )
    documents[1].token_ids[0] = largest_id
    return DocumentScores(text_label="t:1", window_tokens=100, top_k=64, documents=documents)


@pytest.mark.parametrize("largest_id", [300, 65_536, 4_000_000_000])
def test_decode_scores_gives_back_what_was_encoded(largest_id: int, make_score: MakeScore) -> None:
    before = scores(make_score, largest_id=largest_id)
    after = decode_scores(encode_scores(before))
    assert (after.text_label, after.window_tokens, after.top_k) == ("t:1", 100, 64)
    for ours, theirs in zip(before.documents, after.documents, strict=True):
        for name in ("token_ids", "token_nats", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
        for name in ("document_id", "num_bytes", "num_chars", "is_cut", "text_digest"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_encode_scores_is_bounded(make_score: MakeScore) -> None:
    with pytest.raises(MeasurementError, match="over the limit of 1000"):
        encode_scores(scores(make_score), max_plain_bytes=1000)


def test_decode_scores_that_unpack_to_too_much_are_refused(make_score: MakeScore) -> None:
    content = encode_scores(scores(make_score))
    with pytest.raises(MeasurementError, match="cut off, or over 1000 bytes"):
        decode_scores(content, max_plain_bytes=1000)


def test_decode_scores_damaged_content_is_refused(make_score: MakeScore) -> None:
    content = encode_scores(scores(make_score))
    plain = msgspec.msgpack.decode(zlib.decompress(content))
    other_format = zlib.compress(msgspec.msgpack.encode(plain | {"format": "other/9"}))
    plain["documents"][0]["arrays"][3] = b"1234567"
    short_array = zlib.compress(msgspec.msgpack.encode(plain))
    bad = (b"", b"not zlib", content[:-20], zlib.compress(b"not msgpack"), other_format, short_array)
    for damaged in bad:
        with pytest.raises(MeasurementError, match="stored scores"):
            decode_scores(damaged)


def test_decode_scores_with_a_number_that_is_not_finite_are_refused(make_score: MakeScore) -> None:
    broken = scores(make_score)
    broken.documents[0].top_logprobs[1, 1] = np.nan
    with pytest.raises(MeasurementError, match="document 'a' has numbers that are not finite"):
        decode_scores(encode_scores(broken))
