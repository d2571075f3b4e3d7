"""Parts of the API's description that many operations share: errors, headers, parameters."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

ERROR_SCHEMA: Json = {
    "type": "object",
    "description": "The error object of the OpenAI API, with who answers.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field or header that is wrong."},
                "code": {"type": ["string", "null"]},
                "origin": {"type": "string", "enum": ["gateway", "engine"]},
            },
        }
    },
}

RESPONSE_HEADERS: Json = {
    "x-request-id": {"description": "The client's own id, or a new one.", "schema": {"type": "string"}},
    "x-served-variant": {"description": "Digest of the variant that answered.", "schema": {"type": "string"}},
    "x-degraded": {
        "description": "`no`, or the rung that answered and why it is not the one asked for.",
        "schema": {"type": "string"},
    },
    "x-quality-loss": {
        "description": "Measured loss of that variant, with its interval.",
        "schema": {"type": "string"},
    },
    "x-queue-ms": {"description": "Time in the queue.", "schema": {"type": "string"}},
    "x-overhead-ms": {"description": "The gateway's own time up to the first byte.", "schema": {"type": "string"}},
    "x-cache": {"description": "Whether a stored answer was given.", "schema": {"type": "string"}},
    "x-cold-start": {
        "description": "`true` where the request was held while its model woke.",
        "schema": {"type": "string"},
    },
}

RETRY_HEADERS: Json = {
    "retry-after": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "retry-after-ms": {"description": "Milliseconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "x-reject-reason": {
        "description": "Why, as a word from a closed list.",
        "schema": {"type": "string"},
    },
    "x-should-retry": {
        "description": "`false` where trying again soon cannot help.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}

# What each status means; the keys are every status that an answer of the gateway can have, apart from 200.
ERRORS: dict[int, str] = {
    400: "The request is wrong, or asks for what the model's engine cannot do; `param` names the field.",
    401: "The key is missing, unknown or expired.",
    403: "The key may not do this.",
    404: "No such model, or the model's engine has no such path.",
    405: "Another method is needed; `allow` names it.",
    408: "The body came too slowly.",
    413: "The body is over the limit.",
    415: "The body is not `application/json`.",
    429: "The caller passed a limit of its own: requests, tokens, a budget.",
    431: "The head of the request is over the limit.",
    500: "Something broke here; the message names the request's id.",
    502: "The model's engine broke before its first byte.",
    503: "There is no capacity, or no engine is ready.",
    504: "The model's engine gave no first byte in time.",
}
# The server itself answers these, whatever the path.
_OF_THE_SERVER = (400, 431)
OF_ALL = (*_OF_THE_SERVER, 401, 403, 405, 500)
OF_BODIES = (*OF_ALL, 404, 408, 413, 415, 429, 502, 503, 504)
WITH_RETRY = frozenset({429, 503})

_MILLISECONDS: Json = {"type": "number", "minimum": 0, "maximum": 86_400_000}


def header_parameter(name: str, description: str, schema: Json) -> Json:
    """A request header that may be left out."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


PARAMETERS: dict[str, Json] = {
    "request-id": header_parameter(
        "x-request-id",
        "Comes back, and goes into logs; another one is made where it is not plain.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:/+=-]{1,128}$"},
    ),
    "priority": header_parameter("x-priority", "Name of a configured class.", {"type": "string"}),
    "session": header_parameter(
        "x-session-id",
        "Requests of one session stay on one replica and rung where they can.",
        {"type": "string", "pattern": "^[!-~]{1,128}$"},
    ),
    "deadline": header_parameter("x-deadline-ms", "Nobody waits for the first byte any longer.", _MILLISECONDS),
    "ttft": header_parameter("x-slo-ttft-ms", "Time to first token that is wanted.", _MILLISECONDS),
    "tpot": header_parameter("x-slo-tpot-ms", "Time per output token that is wanted.", _MILLISECONDS),
    "quality": header_parameter(
        "x-min-quality",
        "Least share of the reference's quality that is accepted.",
        {"type": "number", "minimum": 0, "maximum": 1},
    ),
    "no-degrade": header_parameter(
        "x-no-degrade", "No lower rung may answer.", {"type": "string", "enum": ["true", "false", "1", "0"]}
    ),
    "cache-control": header_parameter(
        "cache-control", "`no-store`: do not keep the answer. `no-cache`: give no stored one.", {"type": "string"}
    ),
}


def error_response(status: int) -> Json:
    """The description of one error."""
    headers = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    if status in WITH_RETRY:
        headers |= {name: {"$ref": f"#/components/headers/{name}"} for name in RETRY_HEADERS}
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": ERRORS[status], "headers": headers, "content": {"application/json": {"schema": schema}}}
