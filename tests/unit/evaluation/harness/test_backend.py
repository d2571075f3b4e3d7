from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from lightship.errors import MeasurementError, NetworkError
from lightship.evaluation.harness.backend import HarnessBackend, HarnessSettings, ModelFacts
from lightship.testing.recording_progress import RecordingProgress

if TYPE_CHECKING:
    from tests.unit.evaluation.harness.conftest import TokenServer

BOS = 0


def backend_for(server: TokenServer, **settings: Any) -> HarnessBackend:
    return HarnessBackend(f"{server.url}/v1/", model="m", settings=HarnessSettings(**settings))


def test_loglikelihoods_pairs_get_the_tables_numbers_in_order(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        found = backend_for(server).loglikelihoods([("a queen.", " king"), ("a queen.", "s"), ("ab", "c")])
        ids = [server.tokens("a queen. king"), server.tokens("a queen.s"), server.tokens("abc")]
        assert [answer.nats for answer in found] == pytest.approx([server.nats(i, 1) for i in ids])


def test_loglikelihoods_whole_split_differently_is_scored_after_the_contexts_tokens(
    token_server: type[TokenServer],
) -> None:
    with token_server().running() as server:
        found = backend_for(server).loglikelihoods([("the", " king"), ("the ", "king")])
        the, the_k, i, n, g = (server.tokens(piece)[1] for piece in ("the", "the k", "i", "n", "g"))
        assert server.tokens("the king")[1:] == [the_k, i, n, g]
        expected = server.nats([BOS, the, i, n, g], 3)
        assert [answer.nats for answer in found] == pytest.approx([expected, expected])


def test_loglikelihoods_first_choices_are_greedy(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        letters = "abcdefghijklmnopqrstuvwxyz"
        found = backend_for(server).loglikelihoods([("x", letter) for letter in letters])
        best = server.likeliest_after(server.tokens("x")[-1])
        assert [a.is_greedy for a in found] == [server.tokens(letter)[-1] == best for letter in letters]


def test_loglikelihoods_empty_context_is_the_prefix_token(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        (found,) = backend_for(server).loglikelihoods([("", "ab")])
        assert found.nats == pytest.approx(server.nats([BOS, *server.tokens("ab")[1:]], 2))


def test_loglikelihoods_empty_context_without_a_prefix_token_needs_one(token_server: type[TokenServer]) -> None:
    with token_server(has_bos=False).running() as server:
        with pytest.raises(MeasurementError, match="nothing stands before this one's first token") as refusal:
            backend_for(server).loglikelihoods([("", "ab")])
        assert "prefix_token_id" in str(refusal.value.hint)
        (found,) = backend_for(server, prefix_token_id=4).loglikelihoods([("", "ab")])
        assert found.nats == pytest.approx(server.nats([4, *server.tokens("ab")], 2))


def test_loglikelihoods_text_that_brings_its_own_bos_gets_no_second(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        backend_for(server).loglikelihoods([("<s>a", "b")])
        assert server.scored[-1] == [BOS, *server.tokens("ab")[1:]]


def test_loglikelihoods_without_special_tokens_sends_none(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        backend_for(server, add_special_tokens=False).loglikelihoods([("a", "b")])
        assert server.scored[-1] == server.tokens("ab")[1:]


def test_loglikelihoods_equal_pairs_are_scored_once_and_delivered_to_each(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        delivered: dict[int, float] = {}
        backend = backend_for(server)
        found = backend.loglikelihoods(
            [("a", "b"), ("c", "d"), ("a", "b")], deliver=lambda i, answer: delivered.update({i: answer.nats})
        )
        num_probes = 1
        assert len(server.scored) == num_probes + 2
        assert delivered == {index: answer.nats for index, answer in enumerate(found)}


def test_loglikelihoods_second_call_does_not_probe_again(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        backend = backend_for(server)
        backend.loglikelihoods([("a", "b")])
        num_asked = len(server.asked)
        backend.loglikelihoods([("a", "c")])
        assert len(server.asked) == num_asked + 1


def test_loglikelihoods_requests_in_flight_are_bounded(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        backend_for(server, concurrency=3).loglikelihoods([(letter, "x") for letter in "abcdefghijklmnopq"])
        assert server.max_in_flight <= 3


def test_loglikelihoods_request_over_the_context_is_refused_unless_cutting_is_allowed(
    token_server: type[TokenServer],
) -> None:
    pair = ("a" * 70, "b")
    with token_server().running() as server:
        with pytest.raises(MeasurementError, match="72 tokens do not fit the model's context of 64") as refusal:
            backend_for(server).loglikelihoods([pair])
        assert "truncate_context" in str(refusal.value.hint)
        (found,) = backend_for(server, truncate_context=True).loglikelihoods([pair])
        assert len(server.scored[-1]) == 64
        assert found.nats == pytest.approx(server.nats(server.tokens("ab"), 1))


def test_loglikelihoods_endpoint_without_tokenize_tells_tokens_by_scoring(token_server: type[TokenServer]) -> None:
    with token_server(has_tokenize=False).running() as server:
        found = backend_for(server).loglikelihoods([("the", " king"), ("", "ab")])
        the, i, n, g = (server.tokens(piece)[1] for piece in ("the", "i", "n", "g"))
        expected = [server.nats([BOS, the, i, n, g], 3), server.nats(server.tokens("ab"), 2)]
        assert [answer.nats for answer in found] == pytest.approx(expected)
        assert server.paths == []


def test_rolling_text_over_the_context_needs_tokenize(token_server: type[TokenServer]) -> None:
    with (
        token_server(has_tokenize=False).running() as server,
        pytest.raises(MeasurementError, match="there is no `/tokenize`"),
    ):
        backend_for(server).rolling_loglikelihoods(["a" * 100])


def test_loglikelihoods_endpoint_that_ignores_echo_is_refused_before_any_request(
    token_server: type[TokenServer],
) -> None:
    with token_server(ignores_echo=True).running() as server:
        with pytest.raises(MeasurementError, match="does not return real prompt log-probabilities"):
            backend_for(server).loglikelihoods([("a", "b")])
        assert server.scored == []


def test_loglikelihoods_endpoint_that_changes_token_prompts_is_refused(token_server: type[TokenServer]) -> None:
    with (
        token_server(takes_token_ids=False).running() as server,
        pytest.raises(MeasurementError, match="a prompt of a list of token ids was scored as"),
    ):
        backend_for(server).loglikelihoods([("a", "b")])


def test_loglikelihoods_nobody_listens_is_a_network_error(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        pass
    with pytest.raises(NetworkError, match="cannot be reached"):
        backend_for(server).loglikelihoods([("a", "b")])


def test_loglikelihoods_no_requests_ask_nothing() -> None:
    assert HarnessBackend("http://127.0.0.1:9", model="m").loglikelihoods([]) == []


def test_loglikelihoods_inside_a_running_loop_work(token_server: type[TokenServer]) -> None:
    async def in_a_notebook() -> float:
        return backend_for(server).loglikelihoods([("a", "b")])[0].nats

    with token_server().running() as server:
        assert asyncio.run(in_a_notebook()) == pytest.approx(server.nats(server.tokens("ab"), 1))


def test_loglikelihoods_progress_counts_answers(token_server: type[TokenServer]) -> None:
    progress = RecordingProgress()
    with token_server().running() as server:
        HarnessBackend(server.url, model="m", progress=progress).loglikelihoods([("a", "b"), ("a", "c")])
    assert progress.titles == ["log-likelihoods of m"]


def test_rolling_long_text_is_scored_once_per_token_after_the_prefix(token_server: type[TokenServer]) -> None:
    text = "a queen. a king. b queens. " * 8
    with token_server(context_length=48).running() as server:
        (found,) = backend_for(server).rolling_loglikelihoods([text])
        # a bigram model sees one token back, so windows cannot change its sum; the tokenizer's BOS is scored, as there
        ids = server.tokens(text)
        assert len(ids) > 3 * 48
        assert found == pytest.approx(server.nats([BOS, *ids], len(ids)))


def test_rolling_endpoint_that_hides_its_context_needs_it_told(token_server: type[TokenServer]) -> None:
    with token_server(says_context_length=False).running() as server:
        with pytest.raises(MeasurementError, match="does not say how long the model's context is"):
            backend_for(server).rolling_loglikelihoods(["ab"])
        (found,) = backend_for(server, context_length=64).rolling_loglikelihoods(["ab"])
        assert found == pytest.approx(server.nats([BOS, *server.tokens("ab")], 3))


def test_continuations_end_before_the_stops_and_need_no_scoring(token_server: type[TokenServer]) -> None:
    with token_server(ignores_echo=True).running() as server:
        found = backend_for(server).continuations([("once", {"until": [" on"], "max_gen_toks": 8})])
        assert found == [" and so"]
        assert server.asked == [{"model": "m", "prompt": "once", "max_tokens": 8, "temperature": 0.0, "stop": [" on"]}]


def test_continuations_equal_greedy_requests_are_sent_once_sampled_ones_each_time(
    token_server: type[TokenServer],
) -> None:
    texts = iter(["first", "second", "third"])
    with token_server(continuation=lambda body: next(texts)).running() as server:
        backend = backend_for(server, concurrency=1)
        assert backend.continuations([("a", {"max_gen_toks": 8})] * 2) == ["first", "first"]
        assert backend.continuations([("a", {"max_gen_toks": 8, "temperature": 1.0})] * 2) == ["second", "third"]
        assert len(server.asked) == 3


def test_continuations_prompt_over_the_context_is_cut_only_when_allowed(token_server: type[TokenServer]) -> None:
    request = ("a" * 30 + "b" * 40, {"max_gen_toks": 24})
    with token_server().running() as server:
        with pytest.raises(MeasurementError, match="does not fit the model's context"):
            backend_for(server).continuations([request])
        backend_for(server, truncate_context=True).continuations([request])
        assert server.asked[-1]["prompt"] == server.tokens("b" * 40)[1:]


def test_continuations_argument_that_cannot_be_honoured_is_refused_before_anything_is_sent(
    token_server: type[TokenServer],
) -> None:
    with token_server().running() as server:
        with pytest.raises(MeasurementError, match="num_beams"):
            backend_for(server).continuations([("a", {}), ("b", {"num_beams": 2})])
        assert server.asked == []


def test_facts_say_which_variant_answers(token_server: type[TokenServer]) -> None:
    with token_server().running() as server:
        facts = backend_for(server).facts()
    assert facts == ModelFacts(context_length=64, variant="int8", variant_digest="sha256:ab")


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"context_length": 1}, {"prefix_token_id": -1}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match="must be"):
        HarnessSettings(**settings)
