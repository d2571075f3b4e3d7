"""The little a gateway reads of a request body, and the one value it may replace.

The body is never built up as objects nor written again: servers disagree on numbers, escapes and duplicate keys, so
what the client wrote is what the engine gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from lightship.wire.errors import ApiError, invalid_request
from lightship.wire.requests import RequestHead, decode_body

# No request needs more; without a bound a body of nothing but keys would keep the event loop for seconds.
MAX_PARAMETERS = 10_000
_MODEL_MEMBER = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*+")')
_HEAD_KEY = re.compile(('"(?:' + "|".join(RequestHead.__struct_fields__) + ')"').encode())
# How a letter or an underscore of those names begins when it is escaped.
_ESCAPED_LETTER = re.compile(rb"\\u00[567]")
_OPENING = re.compile(rb"[ \t\r\n]*\{")
_UP_TO_VALUE = re.compile(rb'[ \t\r\n,]*"(?:[^"\\]|\\.)*+"[ \t\r\n]*:[ \t\r\n]*')


def read_head(body: bytes) -> RequestHead:
    """What a gateway decides by, once the whole body is known to be JSON that gives each of these fields once.

    Of two members with one name some servers take the first and some the last: an engine would do what nobody decided.

    Raises: ApiError: 400, naming what is wrong.
    """
    if not body.isascii():
        _check_utf8(body)
    head = decode_body(body, RequestHead)
    if head.model is None:
        raise invalid_request("Missing required parameter 'model'.", param="model", code="missing_parameter")
    if not _is_head_unambiguous(body):
        _refuse_duplicates(body)
    return head


def with_model(body: bytes, model: str) -> bytes:
    """The body with another top-level `model`; every other byte stays. `body` has passed `read_head`."""
    start, end = _model_span(body)
    return b"".join((body[:start], msgspec.json.encode(model), body[end:]))


def with_members(body: bytes, values: Mapping[str, Any], *, add: str | None = None) -> bytes:
    """The body with other values for top-level members that it has; every other byte stays.

    Args:
        body: Has passed `read_head`.
        values: New values by key; a key that is not there is left out...
        add: ... but this one, which is added where none of them is there.
    """
    if add is not None and b"\\u00" not in body and not any(f'"{key}"'.encode() in body for key in values):
        return _with_new_member(body, add, values[add])  # none of them can be there, however it is spelled
    spans = sorted((start, end, key) for key, start, end in _members(body) if key in values)
    if not spans and add is not None:
        return _with_new_member(body, add, values[add])
    parts, done = [], 0
    for start, end, key in spans:
        parts += [body[done:start], msgspec.json.encode(values[key])]
        done = end
    return b"".join((*parts, body[done:]))


def _with_new_member(body: bytes, key: str, value: Any) -> bytes:
    opening = _OPENING.match(body).end()  # type: ignore[union-attr] # read_head has seen an object
    member = msgspec.json.encode(key) + b":" + msgspec.json.encode(value)
    return b"".join((body[:opening], member, b",", body[opening:]))  # there is at least `model`


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"The request body is not valid UTF-8: byte {error.start} is wrong."
        raise invalid_request(message, code="invalid_json") from error


def _is_head_unambiguous(body: bytes) -> bool:
    """Whether no field of the head can stand there twice, however it is spelled; else a closer look is needed."""
    seen: set[bytes] = set()
    for match in _HEAD_KEY.finditer(body):  # ends at the first repetition: a body may hold millions
        key = match[0]
        if key in seen:
            return False
        seen.add(key)
    return _ESCAPED_LETTER.search(body) is None


def _refuse_duplicates(body: bytes) -> None:
    seen: set[str] = set()
    for key, _, _ in _members(body):
        if key in seen:
            raise invalid_request(f"{key!r} is given more than once.", param=key, code="duplicate_parameter")
        if key in RequestHead.__struct_fields__:
            seen.add(key)


def _is_model_unambiguous(body: bytes) -> bool:
    """Whether the bytes `"model"` stand there once and cannot be spelled with escapes: then it is the top-level key.

    Every letter of the word is \\u006. when escaped. Inside a string the quotes would have backslashes.
    """
    return body.count(b'"model"') == 1 and b"\\u006" not in body


def _model_span(body: bytes) -> tuple[int, int]:
    if _is_model_unambiguous(body) and (member := _MODEL_MEMBER.search(body)) is not None:
        return member.span(1)
    return next((start, end) for key, start, end in _members(body) if key == "model")


class _Key:
    """A key that equals only itself, so that a dict keeps duplicates, in their order."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """(key, start, end) of every top-level value; nested values are skipped, not built."""
    position = _OPENING.match(body).end()  # type: ignore[union-attr] # read_head has seen an object
    for key, raw in _decoded_members(body).items():
        start = _UP_TO_VALUE.match(body, position).end()  # type: ignore[union-attr] # the decoder has seen this key
        position = start + len(bytes(raw))
        yield key.text, start, position


def _decoded_members(body: bytes) -> dict[_Key, msgspec.Raw]:
    num_keys = 0

    def new_key(kind: type, text: str) -> _Key:
        nonlocal num_keys
        num_keys += 1
        if num_keys > MAX_PARAMETERS:
            raise _TooManyParametersError
        return kind(text)  # type: ignore[no-any-return] # `kind` is _Key

    try:
        return msgspec.json.decode(body, type=dict[_Key, msgspec.Raw], dec_hook=new_key)
    except _TooManyParametersError as error:
        raise error.api_error() from error


class _TooManyParametersError(Exception):
    @staticmethod
    def api_error() -> ApiError:
        message = f"The request has more than {MAX_PARAMETERS} parameters."
        return invalid_request(message, code="too_many_parameters")
