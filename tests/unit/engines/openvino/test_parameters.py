"""Every field of a request is used, refused by name, or accepted where it asks for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from lightship.engines.openvino import parameters
from lightship.engines.openvino.parameters import (
    ACCEPTED_WITHOUT_EFFECT,
    Sampling,
    chat_options,
    completion_options,
    config_fields,
    resolve_max_tokens,
)
from lightship.wire.errors import ApiError
from lightship.wire.requests import ChatRequest, CompletionRequest, StreamOptions

MESSAGES = [{"role": "user", "content": "hi"}]


def completion(**fields: Any) -> CompletionRequest:
    return msgspec.convert({"model": "m", "prompt": "p", **fields}, CompletionRequest)


def chat(**fields: Any) -> ChatRequest:
    return msgspec.convert({"model": "m", "messages": MESSAGES, **fields}, ChatRequest)


@dataclass(frozen=True)
class Refused:
    """Fields of a completion or chat request and the parameter the refusal names."""

    fields: dict[str, Any]
    param: str
    is_chat: bool = False


REFUSED = [
    Refused({"temperature": -0.1}, "temperature"),
    Refused({"temperature": 2.1}, "temperature"),
    Refused({"top_p": 0.0}, "top_p"),
    Refused({"top_p": 1.1}, "top_p"),
    Refused({"top_k": -2}, "top_k"),
    Refused({"min_p": 1.5}, "min_p"),
    Refused({"max_tokens": 0}, "max_tokens"),
    Refused({"max_tokens": -1, "echo": True}, "max_tokens"),
    Refused({"n": 0}, "n"),
    Refused({"n": 17}, "n"),
    Refused({"best_of": 2}, "best_of"),
    Refused({"suffix": "end"}, "suffix"),
    Refused({"stop": ""}, "stop"),
    Refused({"stop": ["x"] * 17}, "stop"),
    Refused({"logprobs": 65}, "logprobs"),
    Refused({"logprobs": -1}, "logprobs"),
    Refused({"logprobs": 2, "stream": True}, "logprobs"),
    Refused({"logprobs": 1, "echo": True, "stream": True}, "echo"),
    Refused({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
    Refused({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    Refused({"frequency_penalty": 2.5}, "frequency_penalty"),
    Refused({"repetition_penalty": 0.0}, "repetition_penalty"),
    Refused({"logit_bias": {"1": 2}}, "logit_bias"),
    Refused({"stream_options": {"include_usage": True}}, "stream_options"),
    Refused({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    Refused({"tools": [{"type": "function"}]}, "tools", is_chat=True),
    Refused({"tool_choice": "required"}, "tool_choice", is_chat=True),
    Refused({"response_format": {"type": "json_object"}}, "response_format", is_chat=True),
    Refused({"reasoning_effort": "high"}, "reasoning_effort", is_chat=True),
    Refused({"modalities": ["audio"]}, "modalities", is_chat=True),
    Refused({"audio": {}}, "audio", is_chat=True),
    Refused({"store": True}, "store", is_chat=True),
    Refused({"service_tier": "flex"}, "service_tier", is_chat=True),
    Refused({"web_search_options": {}}, "web_search_options", is_chat=True),
    Refused({"top_logprobs": 2}, "top_logprobs", is_chat=True),
    Refused({"logprobs": True, "top_logprobs": 21}, "top_logprobs", is_chat=True),
    Refused({"logprobs": True, "top_logprobs": 2, "stream": True}, "top_logprobs", is_chat=True),
    Refused({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", is_chat=True),
    Refused({"max_completion_tokens": 0}, "max_completion_tokens", is_chat=True),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.param}-{list(case.fields.values())[-1]}")
def test_parameters_that_cannot_be_honoured_are_named(case: Refused) -> None:
    with pytest.raises(ApiError) as refusal:
        chat_options(chat(**case.fields)) if case.is_chat else completion_options(completion(**case.fields))
    assert (refusal.value.status, refusal.value.param) == (400, case.param)


def test_parameters_neutral_values_ask_for_nothing() -> None:
    plain = chat_options(chat())
    neutral = {
        "n": 1,
        "logit_bias": {},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1,
        "top_p": 1,
        "top_k": -1,
        "min_p": 0,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "metadata": {"job": "1"},
        "user": "u",
        "safety_identifier": "s",
        "stop": None,
        "logprobs": False,
        "stream": False,
    }
    assert chat_options(chat(**neutral)) == plain


def test_parameters_every_field_is_classified() -> None:
    # fields that `completion_options`, `chat_options` or the endpoints read
    used = {
        "model", "prompt", "messages", "stream", "stream_options", "n", "temperature", "top_p", "top_k", "min_p",
        "seed", "stop", "frequency_penalty", "presence_penalty", "repetition_penalty", "ignore_eos", "min_tokens",
        "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "echo", "best_of",
        "return_tokens_as_token_ids", "add_special_tokens",
    }  # fmt: skip
    neutral = set(parameters._COMPLETION_NEUTRAL) | set(parameters._CHAT_NEUTRAL)
    declared = set(CompletionRequest.__struct_fields__) | set(ChatRequest.__struct_fields__)
    assert declared == used | neutral | ACCEPTED_WITHOUT_EFFECT


def test_completion_without_limit_generates_sixteen_tokens() -> None:
    options = completion_options(completion())
    assert (options.max_tokens, options.sampling, options.stop) == (16, Sampling(), ())


def test_completion_echo_alone_may_ask_for_no_tokens() -> None:
    options = completion_options(completion(echo=True, max_tokens=0, logprobs=64))
    assert (options.max_tokens, options.needs_scorer) == (0, True)


@dataclass(frozen=True)
class Scores:
    """Who computes the log-probabilities of a request: (scorer, pipeline)."""

    fields: dict[str, Any]
    expected: tuple[bool, bool]


@pytest.mark.parametrize(
    "case",
    [
        Scores({}, (False, False)),
        Scores({"logprobs": 0}, (False, True)),
        Scores({"logprobs": 1, "temperature": 0}, (False, True)),
        Scores({"logprobs": 1}, (True, False)),
        Scores({"logprobs": 1, "temperature": 0, "frequency_penalty": 1}, (True, False)),
        Scores({"logprobs": 2, "temperature": 0}, (True, False)),
        Scores({"logprobs": 0, "echo": True}, (True, False)),
        Scores({"echo": True}, (False, False)),
    ],
    ids=lambda case: "-".join(case.fields) or "none",
)
def test_logprobs_come_from_pipeline_only_where_it_knows_them(case: Scores) -> None:
    options = completion_options(completion(**case.fields))
    assert (options.needs_scorer, options.pipeline_gives_logprobs) == case.expected


def test_config_fields_greedy_leave_sampling_out() -> None:
    fields = config_fields(Sampling(temperature=0, top_p=0.5, top_k=3), max_tokens=7, seed=1, with_logprobs=False)
    assert fields == {"max_new_tokens": 7}


def test_config_fields_sampling_names_genai_attributes() -> None:
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, presence_penalty=1, min_tokens=2, ignore_eos=True
    )
    assert config_fields(sampling, max_tokens=7, seed=-1, with_logprobs=True) == {
        "max_new_tokens": 7,
        "logprobs": 1,
        "ignore_eos": True,
        "min_new_tokens": 2,
        "presence_penalty": 1.0,
        "do_sample": True,
        "temperature": 0.5,
        "rng_seed": 2**64 - 1,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
    }


def test_max_tokens_absent_takes_rest_of_context() -> None:
    options = chat_options(chat())
    assert resolve_max_tokens(options, num_prompt_tokens=90, context_length=100, param="messages") == 10


@pytest.mark.parametrize(("num_prompt_tokens", "max_tokens"), [(100, None), (101, None), (90, 11)])
def test_max_tokens_over_context_is_refused(num_prompt_tokens: int, max_tokens: int | None) -> None:
    options = chat_options(chat(max_tokens=max_tokens))
    with pytest.raises(ApiError) as refusal:
        resolve_max_tokens(options, num_prompt_tokens=num_prompt_tokens, context_length=100, param="messages")
    assert refusal.value.code == "context_length_exceeded"


def test_stream_options_usage_is_kept() -> None:
    options = chat_options(chat(stream=True, stream_options={"include_usage": True}))
    assert options.includes_usage
    assert StreamOptions().include_usage is False
