"""The error object of the OpenAI API, as an exception that every HTTP surface here knows how to send.

Rule: 429 only when the *caller* passed its own limit; 503 when *we* lack capacity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec


class ApiError(Exception):
    """One refused or failed API request.

    Args:
        status: HTTP status.
        message: What happened and what to do, for the client's developer.
        type: OpenAI error type, for example `invalid_request_error`.
        code: OpenAI error code or None.
        param: The request field that is wrong, or None.
        headers: Extra response headers, for example `retry-after`.
        origin: Which part answers: `gateway`, `engine`.
        was_queued: The request waited before it was refused.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        was_queued: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.origin = origin
        self.was_queued = was_queued

    def body(self) -> dict[str, Any]:
        """The JSON object to send."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error if self.origin is None else {**error, "origin": self.origin}}

    def body_bytes(self) -> bytes:
        """The JSON object, encoded."""
        return msgspec.json.encode(self.body())


def invalid_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, message, type="invalid_request_error", param=param, code=code)


def unsupported_parameter(param: str, *, reason: str) -> ApiError:
    """400: a parameter this engine cannot honour; never silently ignored."""
    return invalid_request(f"{param} is not supported here: {reason}", param=param, code="unsupported_parameter")


def context_length_exceeded(*, num_prompt_tokens: int, max_tokens: int, context_length: int) -> ApiError:
    """400: prompt plus requested output do not fit the model's context."""
    return invalid_request(
        f"This model's context length is {context_length} tokens, but the prompt has {num_prompt_tokens} "
        f"and max_tokens asks for {max_tokens} more. Shorten the prompt or lower max_tokens.",
        param="messages",
        code="context_length_exceeded",
    )


def payload_too_large(*, limit_bytes: int) -> ApiError:
    """413: the body is over the configured limit."""
    return ApiError(
        413,
        f"The request body is over the limit of {limit_bytes} bytes.",
        type="invalid_request_error",
        code="payload_too_large",
    )


def unsupported_media_type(content_type: str) -> ApiError:
    """415: not JSON."""
    return ApiError(
        415,
        f"Content-Type is {content_type!r}; send application/json.",
        type="invalid_request_error",
        code="unsupported_media_type",
    )


def model_not_found(model: str, *, known: list[str]) -> ApiError:
    """404: no such model here."""
    return ApiError(
        404,
        f"The model {model!r} does not exist here. Available: {', '.join(known)}.",
        type="not_found_error",
        code="model_not_found",
        param="model",
    )


def route_not_found(path: str) -> ApiError:
    """404: no such path."""
    return ApiError(404, f"Nothing is served at {path}.", type="not_found_error", code="route_not_found")


def path_not_supported(path: str, *, reason: str) -> ApiError:
    """404: a path of the API that this engine has not got."""
    return ApiError(404, f"{path} is not served here: {reason}", type="not_found_error", code="unsupported_path")


def method_not_allowed(method: str, path: str) -> ApiError:
    """405: the path exists, but not with this method."""
    return ApiError(405, f"{method} is not allowed at {path}.", type="invalid_request_error", code="method_not_allowed")


def overloaded(message: str, *, reason: str, retry_after_s: float = 1.0) -> ApiError:
    """503: we lack capacity; `reason` is a word of the closed list in `x-reject-reason`."""
    headers = {
        "retry-after": str(max(1, round(retry_after_s))),
        "retry-after-ms": str(round(retry_after_s * 1000)),
        "x-reject-reason": reason,
    }
    return ApiError(503, message, type="service_unavailable_error", code="server_is_overloaded", headers=headers)


# Client libraries do not wait longer; told to wait longer, they would try again at once.
_LONGEST_RETRY_S = 60.0


def rate_limited(
    message: str, *, reason: str, retry_after_s: float, should_retry: bool = True, code: str = "rate_limit_exceeded"
) -> ApiError:
    """429: the caller passed its own limit; `reason` is `rate-limit` or `budget`. An infinite wait never ends."""
    headers = {"x-reject-reason": reason}
    if retry_after_s < math.inf:
        headers["retry-after"] = str(math.ceil(retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(retry_after_s * 1000))
    if not should_retry or retry_after_s > _LONGEST_RETRY_S:
        headers["x-should-retry"] = "false"
    return ApiError(429, message, type="rate_limit_error", code=code, headers=headers)


def key_missing() -> ApiError:
    """401: no key was sent."""
    return _unauthorized("A key is needed: send it as `Authorization: Bearer KEY`.")


def key_refused() -> ApiError:
    """401: the key is unknown, expired or disabled; which of them is not told, as it would help to guess."""
    return _unauthorized("The key is not valid.")


def keys_contradict() -> ApiError:
    """400: two different keys were sent."""
    message = "Authorization and x-api-key name different keys. Send one of them."
    return invalid_request(message, param="x-api-key", code="ambiguous_key")


def _unauthorized(message: str) -> ApiError:
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, type="authentication_error", code="invalid_api_key", headers=headers)


def upstream_failed(message: str) -> ApiError:
    """502: the engine broke before the first byte."""
    return ApiError(502, message, type="server_error", code="upstream_error")


def upstream_timed_out(message: str) -> ApiError:
    """504: the engine did not answer in time, before the first byte."""
    return ApiError(504, message, type="server_error", code="upstream_timeout")


def internal_error(request_id: str) -> ApiError:
    """500: our bug; the log has the details under this id."""
    return ApiError(
        500,
        f"Something broke on the server. Quote request {request_id} when you report it.",
        type="server_error",
        code="internal_error",
    )
