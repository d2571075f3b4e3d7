"""The gateway's API as OpenAPI 3.1: the records of `wire` as schemas, the table of paths as operations.

What depends on a gateway (its model names, its keys) is not in it: it is the same for every caller.
Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from lightship import __version__
from lightship.gateway.api.openapi_parts import (
    ERROR_SCHEMA,
    ERRORS,
    OF_ALL,
    OF_BODIES,
    PARAMETERS,
    RESPONSE_HEADERS,
    RETRY_HEADERS,
    Json,
    error_response,
)
from lightship.wire import paths
from lightship.wire.paths import API_PATHS, ApiPath
from lightship.wire.replies import (
    ChatChunk,
    ChatCompletion,
    Completion,
    DetokenizeReply,
    ModelCard,
    ModelList,
    TokenizeReply,
)
from lightship.wire.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from lightship.wire.response_records import (
    ErrorEvent,
    ItemEvent,
    PartEvent,
    ResponseObject,
    StatusEvent,
    TextDeltaEvent,
    TextDoneEvent,
)

_RESPONSE_EVENTS = (StatusEvent, ItemEvent, PartEvent, TextDeltaEvent, TextDoneEvent, ErrorEvent)
_REQUESTS: dict[str, type] = {
    paths.CHAT_COMPLETIONS: ChatRequest,
    paths.COMPLETIONS: CompletionRequest,
    paths.RESPONSES: ResponsesRequest,
    paths.EMBEDDINGS: EmbeddingsRequest,
    paths.TOKENIZE: TokenizeRequest,
    paths.DETOKENIZE: DetokenizeRequest,
}
_REPLIES: dict[str, type | None] = {
    paths.CHAT_COMPLETIONS: ChatCompletion,
    paths.COMPLETIONS: Completion,
    paths.RESPONSES: ResponseObject,
    paths.EMBEDDINGS: None,  # no engine of ours makes them; what others answer is passed on
    paths.TOKENIZE: TokenizeReply,
    paths.DETOKENIZE: DetokenizeReply,
}
_EVENTS: dict[str, tuple[type, ...]] = {
    paths.CHAT_COMPLETIONS: (ChatChunk,),
    paths.COMPLETIONS: (Completion,),
    paths.RESPONSES: _RESPONSE_EVENTS,
}
_MESSAGES = [{"role": "user", "content": "Once upon a time"}]
_EXAMPLES: dict[str, Json] = {
    paths.CHAT_COMPLETIONS: {"messages": _MESSAGES, "max_tokens": 16},
    paths.COMPLETIONS: {"prompt": "Once upon a time", "max_tokens": 16},
    paths.RESPONSES: {"input": "Once upon a time", "max_output_tokens": 16},
    paths.EMBEDDINGS: {"input": "Once upon a time"},
    paths.TOKENIZE: {"prompt": "Once upon a time"},
    paths.DETOKENIZE: {"tokens": [1, 2, 3]},
}
_DESCRIPTION = """\
OpenAI-compatible front of a ladder of measured variants of one model.

Bodies go to the model's engine as they are. A field that an engine cannot honour is refused with a 400 that names it; \
an engine may know fields beyond those described here.
`Authorization: Bearer KEY`, or `x-api-key`, is needed where keys are in use.
An error after the first byte of a stream is an event with an error object, and the stream ends without its last event.
"""


@cache
def openapi_json() -> bytes:
    """The description, encoded."""
    return msgspec.json.encode(openapi_document())


def openapi_document() -> Json:
    """The description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lightship gateway", "version": __version__, "description": _DESCRIPTION},
        "security": [{}, {"key": []}, {"header-key": []}],
        "paths": {
            **{path: {"post": _body_operation(path, entry)} for path, entry in API_PATHS.items()},
            **_QUESTIONS,
        },
        "components": {
            "schemas": _schemas(),
            "responses": {str(status): error_response(status) for status in ERRORS},
            "headers": {**RESPONSE_HEADERS, **RETRY_HEADERS},
            "parameters": PARAMETERS,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "header-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _body_operation(path: str, entry: ApiPath) -> Json:
    """One path of the table. `path` is how clients call it, `entry.path` how engines do."""
    request = _ref(_REQUESTS[entry.path].__name__)
    example = {"model": "MODEL", **_EXAMPLES[entry.path]}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": entry.summary,
        "parameters": [_parameter(name) for name in PARAMETERS],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": example}},
        },
        "responses": {"200": _success(entry), **_errors(OF_BODIES)},
    }


def _success(entry: ApiPath) -> Json:
    reply = _REPLIES[entry.path]
    content: Json = {"application/json": {"schema": _ref(reply.__name__) if reply else {"type": "object"}}}
    if entry.is_streamable:
        content["text/event-stream"] = {"schema": _event(entry)}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in RESPONSE_HEADERS}
    return {"description": "The answer.", "headers": headers, "content": content}


def _event(entry: ApiPath) -> Json:
    """One event of a stream, as later versions of OpenAPI describe it: its fields, and in `data` another document."""
    kinds = [*(_ref(kind.__name__) for kind in _EVENTS[entry.path]), _ref("Error")]
    document = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    return {
        "type": "object",
        "description": "With `stream: true`: one event of many. After an error none follows.",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": {"anyOf": [{"const": "[DONE]"}, document]} if entry.ends_with_done else document,
        },
    }


def _question(name: str, summary: str, schema: Json, *errors: int, content_type: str = "application/json") -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [_parameter("request-id")],
        "responses": {
            "200": {"description": "The answer.", "content": {content_type: {"schema": schema}}},
            **_errors((*OF_ALL, *errors)),
        },
    }


def _status(word: str) -> Json:
    return {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "const": word}}}


def _errors(statuses: tuple[int, ...]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_MODEL_PARAMETER: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The model's name, or `NAME@VARIANT`.",
    "schema": {"type": "string", "minLength": 1},
}
_QUESTIONS: dict[str, Json] = {
    "/v1/models": {"get": _question("models", "The models there are", _ref("ModelList"))},
    "/v1/models/{model}": {
        "get": _question("model", "One model", _ref("ModelCard"), 404),
        "parameters": [_MODEL_PARAMETER],
    },
    "/health": {"get": _question("health", "Whether requests are wanted", _status("ready"), 503)},
    "/health/ready": {"get": _question("ready", "Whether requests are wanted", _status("ready"), 503)},
    "/health/live": {"get": _question("live", "Whether the process lives", _status("live"))},
    "/metrics": {
        "get": _question("metrics", "Metrics for Prometheus", {"type": "string"}, content_type="text/plain"),
    },
    "/openapi.json": {"get": _question("openapi", "This description", {"type": "object"})},
}


def _schemas() -> Json:
    records = [
        *_REQUESTS.values(),
        *(reply for reply in _REPLIES.values() if reply is not None),
        *(kind for kinds in _EVENTS.values() for kind in kinds),
        ModelList,
        ModelCard,
    ]
    _, components = msgspec.json.schema_components(records, ref_template="#/components/schemas/{name}")
    schemas: Json = {**components, "Error": ERROR_SCHEMA}
    for name in ("ChatRequest", "CompletionRequest", "ResponsesRequest", "EmbeddingsRequest", "TokenizeRequest"):
        schemas[name]["additionalProperties"] = True  # the engine knows its own, and refuses the rest
    for name in ("TokenizeRequest", "DetokenizeRequest"):
        _require_model(schemas[name])
    _widen_replies(schemas)
    return schemas


def _require_model(schema: dict[str, Any]) -> None:
    """An engine has one model and does not ask for its name; a gateway does."""
    schema["required"] = sorted({*schema.get("required", []), "model"})
    schema["properties"]["model"] = {"type": "string"}


def _widen_replies(schemas: Json) -> None:
    """Replies as engines other than ours may send them, too: tools, other reasons to finish, no content."""
    finish = {"type": ["string", "null"], "examples": ["stop", "length", "tool_calls", "content_filter", None]}
    for name in ("CompletionChoice", "ChatChoice", "ChatChunkChoice"):
        schemas[name]["properties"]["finish_reason"] = finish
    schemas["ChatReplyMessage"]["properties"] |= {
        "content": {"type": ["string", "null"]},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
    }
    schemas["ChatDelta"]["properties"] |= {"tool_calls": {"type": ["array", "null"], "items": {"type": "object"}}}
    for name in ("ChatChunk", "Completion"):
        choices = schemas[name]["properties"]["choices"]
        schemas[name]["properties"]["choices"] = {"anyOf": [choices, {"type": "null"}]}
