from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lightship.artifacts.texts import Document
from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import EndpointTraits, PromptLogprobs
from lightship.evaluation.quality.scoring import (
    DocumentScore,
    bits_per_byte,
    perplexity,
    score_document,
    score_of_reply,
)

if TYPE_CHECKING:
    from tests.unit.evaluation.conftest import BigramServer

WITH_BOS = EndpointTraits(is_first_token_text=False, context_length=None)
WITHOUT_BOS = EndpointTraits(is_first_token_text=True, context_length=None)
LONG = Document("long", "The miller counted sacks, and the goose counted the miller. " * 40)


def score(
    server: BigramServer, document: Document, *, window_tokens: int = 4000, top_k: int = 5, traits: EndpointTraits
) -> DocumentScore:
    async def run() -> DocumentScore:
        async with server.endpoint() as endpoint:
            return await score_document(endpoint, document, traits=traits, window_tokens=window_tokens, top_k=top_k)

    return asyncio.run(run())


def test_bits_per_byte_of_a_uniform_byte_model_is_eight() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)


def test_perplexity_of_a_uniform_model_is_its_vocabulary() -> None:
    assert perplexity(70 * math.log(4096), 70) == pytest.approx(4096)


def test_score_document_with_bos_scores_every_byte(bigram_server: type[BigramServer]) -> None:
    server, document = bigram_server(), Document("owl", "An owl\nasked.", heading="Who")
    scored = score(server, document, traits=WITH_BOS)
    assert (scored.num_bytes, scored.num_tokens, scored.is_cut) == (18, 18, False)
    assert scored.sum_nats == pytest.approx(server.sum_nats("Who\n\nAn owl\nasked."), abs=1e-9)
    assert scored.top_ids.shape == scored.top_logprobs.shape == (18, 5)
    last_id = server.token_ids(".")[-1]
    before = server.token_ids("d")[-1]
    assert scored.token_ids[-1] == last_id
    assert list(scored.top_ids[-1]) == list(np.argsort(-server.log_table[before], kind="stable")[:5])


def test_score_document_without_bos_leaves_out_the_first_tokens_bytes(bigram_server: type[BigramServer]) -> None:
    server = bigram_server(has_bos=False)
    scored = score(server, Document("owl", "An owl."), traits=WITHOUT_BOS)
    assert (scored.num_bytes, scored.num_tokens) == (6, 6)
    assert scored.sum_nats == pytest.approx(server.sum_nats("An owl."), abs=1e-9)


def test_score_document_long_text_is_cut_to_a_prefix_whose_bytes_are_all_scored(
    bigram_server: type[BigramServer],
) -> None:
    server = bigram_server()
    scored = score(server, LONG, window_tokens=300, traits=WITH_BOS)
    prefix = LONG.text[: scored.num_chars]
    assert scored.is_cut
    assert 280 <= len(scored.token_ids) <= 300
    assert LONG.text[scored.num_chars] == " "
    assert scored.num_bytes == len(prefix.encode()) == scored.num_tokens
    assert scored.sum_nats == pytest.approx(server.sum_nats(prefix), abs=1e-9)


def test_score_document_cut_does_not_depend_on_the_servers_limit(bigram_server: type[BigramServer]) -> None:
    cuts = {
        score(bigram_server(context_length=limit), LONG, window_tokens=300, traits=WITH_BOS).num_chars
        for limit in (301, 1000, 9000)
    }
    assert len(cuts) == 1


def test_score_document_text_without_white_space_is_cut_anywhere(bigram_server: type[BigramServer]) -> None:
    scored = score(bigram_server(), Document("a", "a" * 5000), window_tokens=64, traits=WITH_BOS)
    assert 60 <= scored.num_chars <= 63


def test_score_document_that_fits_is_asked_for_once(bigram_server: type[BigramServer]) -> None:
    server = bigram_server()
    score(server, Document("owl", "An owl."), window_tokens=8, traits=WITH_BOS)
    assert server.prompts == ["An owl."]


def test_score_document_no_fitting_prefix_is_an_error(bigram_server: type[BigramServer]) -> None:
    with pytest.raises(MeasurementError, match="document 'long': no prefix fits a window of 2000 tokens"):
        score(bigram_server(context_length=1), LONG, window_tokens=2000, traits=WITH_BOS)


def test_score_document_nan_in_the_engine_names_document_and_position(bigram_server: type[BigramServer]) -> None:
    def nan_as_json_sends_it(body: dict[str, Any]) -> None:
        body["choices"][0]["logprobs"]["token_logprobs"][4] = None

    with pytest.raises(
        MeasurementError, match="document 'owl': a log-probability at token position 4 is not a finite number"
    ):
        score(bigram_server(mangle=nan_as_json_sends_it), Document("owl", "An owl."), traits=WITH_BOS)


def reply(
    *, token_logprobs: tuple[float | None, ...], top: tuple[dict[int, float | None] | None, ...]
) -> PromptLogprobs:
    num_tokens = len(token_logprobs)
    return PromptLogprobs(
        token_ids=tuple(range(num_tokens)), token_logprobs=token_logprobs, top_logprobs=top, text_offsets=None
    )


def test_score_of_reply_infinite_alternative_names_document_and_position() -> None:
    bad = reply(token_logprobs=(None, -1.0, -1.0), top=(None, {1: -0.5, 2: -1.0}, {1: -0.5, 2: -math.inf}))
    with pytest.raises(MeasurementError, match=r"document 'd': .* position 2 is not a finite number"):
        score_of_reply(Document("d", "ab"), "ab", bad, traits=WITH_BOS, top_k=2)


def test_score_of_reply_fewer_alternatives_than_asked_is_refused() -> None:
    short = reply(token_logprobs=(None, -1.0, -1.0), top=(None, {1: -1.0, 2: -1.5}, {1: -1.0}))
    with pytest.raises(MeasurementError, match="1 alternatives at token position 2 where 2 were asked for"):
        score_of_reply(Document("d", "ab"), "ab", short, traits=WITH_BOS, top_k=2)


def test_score_of_reply_ties_go_to_the_smallest_id_and_extra_entries_are_left_out() -> None:
    tied = reply(token_logprobs=(None, -1.0), top=(None, {9: -0.5, 4: -0.5, 7: -3.0}))
    scored = score_of_reply(Document("d", "a"), "a", tied, traits=WITH_BOS, top_k=2)
    assert scored.top_ids.tolist() == [[4, 9]]


def test_score_of_reply_without_bos_and_offsets_cannot_count_bytes() -> None:
    plain = reply(token_logprobs=(None, -1.0), top=(None, {0: -0.5, 1: -1.0}))
    with pytest.raises(MeasurementError, match="document 'd': the model has no BOS token"):
        score_of_reply(Document("d", "ab"), "ab", plain, traits=WITHOUT_BOS, top_k=2)


def test_score_of_reply_text_of_one_token_has_nothing_to_score() -> None:
    with pytest.raises(MeasurementError, match="no token with something before it"):
        score_of_reply(Document("d", "a"), "a", reply(token_logprobs=(None,), top=(None,)), traits=WITHOUT_BOS, top_k=2)
