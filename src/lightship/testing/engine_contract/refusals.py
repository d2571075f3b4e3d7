"""Checks on what an engine refuses: a table of bodies that make no sense, and features it does not declare."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.testing.engine_contract.checks import Checks
from lightship.testing.engine_contract.subject import Answer, EngineUnderTest, expect

REFUSALS = Checks()
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_TEXT: dict[str, Any] = {"prompt": "hi", "max_tokens": 2}
_TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
# Text of more tokens than any model here has context.
_ENDLESS = "a dog and " * 20_000


@dataclass(frozen=True)
class BadBody:
    """A body and how it is refused.

    Args:
        path: Where it is sent.
        body: Without `model`, unless it is about that; bytes go as they are.
        param: What the refusal names, where the engine names parameters.
        status: Of the refusal.
        excused_by: The quirk of engines that answer it all the same, or with another status.
        excused_status: That of such an engine.
    """

    path: str
    body: dict[str, Any] | bytes
    param: str | None = None
    status: int = 400
    excused_by: EngineQuirk | None = None
    excused_status: int = 200


_LENIENT, _OTHERS_FAULT = EngineQuirk.LENIENT_VALUES, EngineQuirk.CLIENT_ERRORS_AS_500
BAD_BODIES = {
    "malformed": BadBody(COMPLETIONS, b'{"prompt": ', excused_by=_OTHERS_FAULT, excused_status=500),
    "no_object": BadBody(COMPLETIONS, b"[1]"),
    "unknown_field": BadBody(
        COMPLETIONS, {**_TEXT, "temprature": 1}, "temprature", excused_by=EngineQuirk.IGNORES_UNKNOWN_FIELDS
    ),
    "no_prompt": BadBody(COMPLETIONS, {"max_tokens": 2}, "prompt"),
    "empty_prompt": BadBody(COMPLETIONS, {**_TEXT, "prompt": []}, "prompt"),
    "token_out_of_vocabulary": BadBody(COMPLETIONS, {**_TEXT, "prompt": [5, 10**12]}, "prompt"),
    "max_tokens_no_number": BadBody(COMPLETIONS, {**_TEXT, "max_tokens": "many"}, "max_tokens"),
    "max_tokens_negative": BadBody(COMPLETIONS, {**_TEXT, "max_tokens": -2}, "max_tokens"),
    "seed_no_number": BadBody(COMPLETIONS, {**_TEXT, "seed": "x"}, "seed"),
    "stop_no_text": BadBody(COMPLETIONS, {**_TEXT, "stop": 5}, "stop", excused_by=_LENIENT),
    "top_p_too_high": BadBody(COMPLETIONS, {**_TEXT, "top_p": 7}, "top_p", excused_by=_LENIENT),
    "too_hot": BadBody(CHAT, {**_TALK, "temperature": 2.5}, "temperature", excused_by=_LENIENT),
    "no_choices": BadBody(CHAT, {**_TALK, "n": 0}, "n"),
    "no_messages": BadBody(CHAT, {"max_tokens": 2}, "messages"),
    "messages_no_list": BadBody(CHAT, {"messages": 7}, "messages"),
    "tool_without_name": BadBody(CHAT, {**_TALK, "tools": [{}]}, excused_by=_OTHERS_FAULT, excused_status=500),
    "image": BadBody(
        CHAT, {"messages": [{"role": "user", "content": [_IMAGE]}]}, excused_by=_OTHERS_FAULT, excused_status=500
    ),
    "prompt_beyond_context": BadBody(COMPLETIONS, {**_TEXT, "prompt": _ENDLESS}, "prompt"),
    "conversation_beyond_context": BadBody(CHAT, {"messages": [{"role": "user", "content": _ENDLESS}]}, "messages"),
    "output_beyond_context": BadBody(
        COMPLETIONS, {**_TEXT, "max_tokens": 10_000_000}, None, excused_by=EngineQuirk.CUTS_LONG_OUTPUTS
    ),
    "unknown_model": BadBody(
        COMPLETIONS, {**_TEXT, "model": "other"}, "model", 404, excused_by=EngineQuirk.ANY_MODEL_NAME
    ),
    "unknown_model_in_chat": BadBody(
        CHAT, {**_TALK, "model": "other"}, "model", 404, excused_by=EngineQuirk.ANY_MODEL_NAME
    ),
}


def _is_refused(case: BadBody, engine: EngineUnderTest) -> None:
    body = case.body if isinstance(case.body, bytes) else {"model": engine.model, **case.body}
    answer = engine.ask("POST", case.path, body)
    is_excused = case.excused_by is not None and engine.has(case.excused_by)
    status = case.excused_status if is_excused else case.status
    expect(answer.status == status, f"answered with {answer.status}, not {status}: {answer.content[:300]!r}")
    if status != HTTPStatus.OK:
        error = _error_of(answer)
        if engine.has(EngineFeature.NAMED_PARAMETERS) and case.param is not None:
            expect(error.get("param") == case.param, f"the refusal names {error.get('param')!r}: {error['message']}")


for _name, _case in BAD_BODIES.items():
    REFUSALS.add(f"refuses_{_name}", partial(_is_refused, _case))


def _error_of(answer: Answer) -> dict[str, Any]:
    """The OpenAI error object of an answer. Raises: ContractError: there is none."""
    error = answer.document.get("error")
    expect(isinstance(error, dict), f"no error object: {answer.content[:300]!r}")
    assert isinstance(error, dict)
    expect(isinstance(error.get("message"), str) and error["message"], f"the error says nothing: {error}")
    expect(isinstance(error.get("type"), str), f"the error has no type: {error}")
    return error


@REFUSALS.needing()
def refuses_text_that_is_no_utf8(engine: EngineUnderTest) -> None:
    answer = engine.ask("POST", COMPLETIONS, b'{"model":"' + engine.model.encode() + b'","prompt":"\xff"}')
    status = 500 if engine.has(EngineQuirk.CLIENT_ERRORS_AS_500) else 400
    expect(answer.status == status, f"answered with {answer.status}")
    if not engine.has(EngineQuirk.PLAIN_ERRORS):
        _error_of(answer)


@REFUSALS.needing()
def refuses_unknown_path(engine: EngineUnderTest) -> None:
    answer = engine.ask("GET", "/v1/nothing")
    expect(answer.status == HTTPStatus.NOT_FOUND, f"answered with {answer.status}")
    is_object = isinstance(answer.document.get("error"), dict)
    expect(is_object is not engine.has(EngineQuirk.PLAIN_ERRORS), f"the error is {answer.content[:300]!r}")


@REFUSALS.needing()
def refuses_get_of_completions(engine: EngineUnderTest) -> None:
    status = engine.ask("GET", COMPLETIONS).status
    expect(status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}, f"answered with {status}")


# A request for each feature that an engine may lack; one that ignores what it does not know ignores these, too.
_UNDECLARED: dict[EngineFeature, tuple[str, dict[str, Any]]] = {
    EngineFeature.LOGPROBS: (COMPLETIONS, {**_TEXT, "logprobs": 1}),
    EngineFeature.PROMPT_LOGPROBS: (COMPLETIONS, {**_TEXT, "echo": True, "logprobs": 1}),
    EngineFeature.TOP_LOGPROBS: (CHAT, {**_TALK, "logprobs": True, "top_logprobs": 2}),
    EngineFeature.STRUCTURED_OUTPUT: (CHAT, {**_TALK, "response_format": {"type": "json_object"}}),
    EngineFeature.TOOLS: (CHAT, {**_TALK, "tools": [_TOOL]}),
    EngineFeature.EMBEDDINGS: ("/v1/embeddings", {"input": "hi"}),
}


def _undeclared_is_refused(feature: EngineFeature, engine: EngineUnderTest) -> None:
    path, body = _UNDECLARED[feature]
    if engine.has(feature):
        answer = engine.ask("POST", path, {"model": engine.model, **body})
        expect(answer.status == HTTPStatus.OK, f"declared, and answered with {answer.status}: {answer.content[:300]!r}")
    elif not engine.has(EngineQuirk.IGNORES_UNKNOWN_FIELDS):
        status = engine.ask("POST", path, {"model": engine.model, **body}).status
        is_refused = 400 <= status < 500 or status == HTTPStatus.NOT_IMPLEMENTED
        expect(is_refused, f"not declared, and answered with {status}")


for _feature in _UNDECLARED:
    REFUSALS.add(f"declares_{_feature}_as_it_is", partial(_undeclared_is_refused, _feature))
