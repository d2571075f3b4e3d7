from __future__ import annotations

from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.harness.generation import cut_at_stops, generation_options


def options(**arguments: Any) -> Any:
    return generation_options(arguments, where="r")


def test_generation_options_nothing_given_is_greedy_with_the_harness_default_length() -> None:
    assert options().request_fields == {"max_tokens": 256, "temperature": 0.0}


@pytest.mark.parametrize(
    ("arguments", "temperature"),
    [
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 0.0}, 0.0),
        ({"do_sample": True, "temperature": 0.0}, 0.0),
    ],
)
def test_generation_options_sampling_follows_the_harness(arguments: dict[str, Any], temperature: float) -> None:
    chosen = options(**arguments)
    assert chosen.fields["temperature"] == temperature
    assert chosen.is_greedy is (temperature == 0.0)


def test_generation_options_sampling_arguments_are_sent() -> None:
    chosen = options(do_sample=True, temperature=0.5, top_p=0.9, top_k=5, seed=3)
    assert chosen.request_fields == {"max_tokens": 256, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3}


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_generation_options_every_name_of_the_length_is_known(name: str) -> None:
    assert options(**{name: 7}).max_tokens == 7


def test_generation_options_only_four_stops_are_sent_but_all_cut() -> None:
    chosen = options(until=["1", "2", "", "3", "4", "5", "1"])
    assert chosen.request_fields["stop"] == ["1", "2", "3", "4"]
    assert chosen.stops == ("1", "2", "3", "4", "5")
    assert cut_at_stops("ab5cd2", chosen.stops) == "ab"
    assert options(until="\n").stops == ("\n",)


def test_cut_at_stops_no_stop_in_the_text_keeps_all() -> None:
    assert cut_at_stops("abc", ("x",)) == "abc"
    assert cut_at_stops("abc", ()) == "abc"


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        ({"num_beams": 4}, "'num_beams' has no meaning", "Known:"),
        ({"temprature": 1}, "'temprature' has no meaning", "Did you mean 'temperature'"),
        ({"max_tokens": 5, "max_gen_toks": 6}, "say different things", "Keep one"),
        ({"max_gen_toks": 0}, "whole number from 1", ""),
        ({"max_gen_toks": 2.5}, "whole number from 1", ""),
        ({"max_gen_toks": True}, "whole number from 1", ""),
        ({"top_p": "0.9"}, "top_p must be a number", ""),
        ({"until": [1]}, "until must be a text", ""),
    ],
)
def test_generation_options_what_cannot_be_honoured_is_refused(arguments: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(MeasurementError, match=says) as refusal:
        options(**arguments)
    assert hint in (refusal.value.hint or "")
