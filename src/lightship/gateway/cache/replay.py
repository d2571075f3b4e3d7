"""A stored answer as the client wants it: as it was, or a whole one as a stream and a stream as a whole one.

Pure. A conversion either loses nothing or is not made (None): a field it does not know, or parts that do not fit
together, make it a miss. Values are never decoded where they only move, so numbers keep their spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from lightship.gateway.cache.answer import StoredAnswer, data_of, split_events
from lightship.wire.paths import CHAT_COMPLETIONS
from lightship.wire.sse import CONTENT_TYPE, DONE, data_event

Object = dict[str, Raw]
_OBJECT = msgspec.json.Decoder(Object)
_OBJECTS = msgspec.json.Decoder(list[Object])
_RAWS = msgspec.json.Decoder(list[Raw])
_TEXT = msgspec.json.Decoder(str)
_INDEX = msgspec.json.Decoder(int)

_ENVELOPE = ("id", "created", "model", "system_fingerprint", "service_tier")
_TEXT_PARTS = ("reasoning_content", "reasoning", "content", "refusal")
# vLLM adds these beside `finish_reason`, the same in both forms.
_END_FIELDS = ("finish_reason", "stop_reason")
_JSON_TYPE = "application/json"


class _InexactError(Exception):
    """The other form of the answer would not say the same."""


def replayed(answer: StoredAnswer, *, path: str, is_streaming: bool, wants_usage: bool) -> tuple[str, bytes] | None:
    """Content type and body of the answer in the form that is asked for; None where it has no exact one."""
    try:
        if answer.is_stream:
            if is_streaming:
                return answer.content_type, _stream(answer, wants_usage=wants_usage)
            return _JSON_TYPE, _stream_as_whole(answer, path)
        if is_streaming:
            return CONTENT_TYPE, _whole_as_stream(answer, path, wants_usage=wants_usage)
        return answer.content_type, answer.body
    except (_InexactError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _stream(answer: StoredAnswer, *, wants_usage: bool) -> bytes:
    usage_event = b""
    if wants_usage:
        usage_event = answer.usage_event or _usage_event(_first_chunk(answer.body), answer.usage)
    return b"".join((answer.body, usage_event, answer.last_event))


def _first_chunk(body: bytes) -> Object:
    for event in split_events(body):
        if (data := data_of(event)) is not None:
            return _OBJECT.decode(data)
    raise _InexactError


def _usage_event(chunk: Mapping[str, Raw], usage: bytes) -> bytes:
    if not usage:
        raise _InexactError  # nobody counted
    envelope = {name: chunk[name] for name in (*_ENVELOPE, "object") if name in chunk}
    return data_event(msgspec.json.encode({**envelope, "choices": [], "usage": Raw(usage)}))


def _whole_as_stream(answer: StoredAnswer, path: str, *, wants_usage: bool) -> bytes:
    whole = _OBJECT.decode(answer.body)
    choices = _OBJECTS.decode(_take(whole, "choices"))
    usage = whole.pop("usage", Raw(b"null"))
    envelope = _envelope(whole)
    is_chat = path == CHAT_COMPLETIONS
    envelope["object"] = Raw(b'"chat.completion.chunk"' if is_chat else b'"text_completion"')
    pieces = _chat_pieces if is_chat else _text_pieces
    events = [_chunk_event(envelope, piece) for choice in choices for piece in pieces(choice)]
    if wants_usage:
        events.append(_usage_event(envelope, b"" if bytes(usage) == b"null" else bytes(usage)))
    return b"".join((*events, DONE))


def _chunk_event(envelope: Object, choice: Mapping[str, object]) -> bytes:
    return data_event(msgspec.json.encode({**envelope, "choices": [choice]}))


def _text_pieces(choice: Object) -> Iterable[Mapping[str, object]]:
    """A choice of `/v1/completions` looks the same in both forms."""
    yield choice


def _chat_pieces(choice: Object) -> Iterable[Mapping[str, object]]:
    """The pieces of one choice: role, what was thought, text, calls of tools, and its end."""
    index = choice.pop("index", Raw(b"0"))
    message = _OBJECT.decode(_take(choice, "message"))
    logprobs = choice.pop("logprobs", Raw(b"null"))
    end = {name: choice.pop(name) for name in _END_FIELDS if name in choice}
    _refuse_rest(choice)
    deltas: list[dict[str, object]] = [{"role": message.pop("role", Raw(b'"assistant"')), "content": ""}]
    deltas += [{name: message.pop(name)} for name in _TEXT_PARTS if not _is_empty(message, name)]
    calls = _OBJECTS.decode(message.pop("tool_calls", Raw(b"[]"))) if not _is_empty(message, "tool_calls") else []
    deltas += [{"tool_calls": [{"index": place, **_known_call(call)}]} for place, call in enumerate(calls)]
    _refuse_rest(message)
    has_logprobs = bytes(logprobs) != b"null"
    if has_logprobs and len(deltas) < 2:
        raise _InexactError  # log-probabilities of nothing
    for place, delta in enumerate(deltas):
        # All of them stand beside the text, which is one piece here as it was there.
        beside = logprobs if has_logprobs and place == len(deltas) - 1 else Raw(b"null")
        yield {"index": index, "delta": delta, "logprobs": beside, "finish_reason": None}
    yield {"index": index, "delta": {}, "logprobs": None, **end}


def _known_call(call: Object) -> Object:
    if set(call) - {"id", "type", "function"}:
        raise _InexactError
    return call


def _stream_as_whole(answer: StoredAnswer, path: str) -> bytes:
    if not answer.usage:
        raise _InexactError  # a whole answer has its counts
    is_chat = path == CHAT_COMPLETIONS
    merged = _ChatChoice() if is_chat else _TextChoice()
    envelope: Object = {}
    for event in split_events(answer.body):
        if (data := data_of(event)) is None:
            continue
        chunk = _OBJECT.decode(data)
        choices = _OBJECTS.decode(_take(chunk, "choices"))
        chunk.pop("usage", None)
        own = _envelope(chunk)
        if envelope and {**envelope, **own} != envelope:
            raise _InexactError
        envelope = envelope or own
        for choice in choices:
            if _INDEX.decode(choice.pop("index", Raw(b"0"))) != 0:
                raise _InexactError
            merged.add(choice)
    envelope["object"] = Raw(b'"chat.completion"' if is_chat else b'"text_completion"')
    return msgspec.json.encode({**envelope, "choices": [merged.choice()], "usage": Raw(answer.usage)})


class _Ending:
    """How a choice ended: said once, and nothing after it."""

    def __init__(self) -> None:
        self._end: Object = {}

    def take_end(self, choice: Object) -> None:
        end = {name: choice.pop(name) for name in _END_FIELDS if name in choice}
        if not _is_empty(end, "finish_reason"):
            if self._end:
                raise _InexactError
            self._end = end
        elif any(not _is_empty(end, name) for name in end):
            raise _InexactError

    def end(self) -> Object:
        if not self._end:
            raise _InexactError
        return self._end


class _ChatChoice(_Ending):
    """The choice of a chat's stream, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._role: Raw | None = None
        self._texts: dict[str, list[str]] = {}
        self._calls: list[_ToolCall] = []
        self._logprobs: dict[str, list[Raw]] | None = None

    def add(self, choice: Object) -> None:
        """Takes in one piece."""
        delta = _OBJECT.decode(choice.pop("delta", Raw(b"{}")))
        self.take_end(choice)
        if not _is_empty(choice, "logprobs"):
            self._add_logprobs(_OBJECT.decode(choice.pop("logprobs")))
        choice.pop("logprobs", None)
        _refuse_rest(choice)
        role = delta.pop("role", None)
        if role is not None and bytes(role) != b"null":
            if self._role is not None and bytes(self._role) != bytes(role):
                raise _InexactError
            self._role = role
        for name in _TEXT_PARTS:
            if not _is_empty(delta, name):
                self._texts.setdefault(name, []).append(_TEXT.decode(delta.pop(name)))
        if not _is_empty(delta, "tool_calls"):
            self._add_calls(_OBJECTS.decode(delta.pop("tool_calls")))
        _refuse_rest({name: value for name, value in delta.items() if name != "tool_calls"})

    def choice(self) -> dict[str, object]:
        """The choice of the whole answer."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        content: str | None = texts.pop("content", "")
        if not content and (self._calls or "refusal" in texts):
            content = None
        message: dict[str, object] = {"role": self._role or "assistant", "content": content, "refusal": None, **texts}
        if self._calls:
            message["tool_calls"] = [call.whole() for call in self._calls]
        return {"index": 0, "message": message, "logprobs": self._logprobs, **self.end()}

    def _add_logprobs(self, logprobs: Object) -> None:
        if self._logprobs is None:
            self._logprobs = {}
        for name in ("content", "refusal"):
            value = logprobs.pop(name, Raw(b"null"))
            if bytes(value) != b"null":
                self._logprobs.setdefault(name, []).extend(_RAWS.decode(value))
        _refuse_rest(logprobs)

    def _add_calls(self, pieces: list[Object]) -> None:
        for piece in pieces:
            place = _INDEX.decode(_take(piece, "index"))
            if place == len(self._calls):
                self._calls.append(_ToolCall())
            elif not 0 <= place < len(self._calls):
                raise _InexactError
            self._calls[place].add(piece)


class _ToolCall:
    """One call of a tool: what it is comes once, its arguments in pieces."""

    def __init__(self) -> None:
        self._once: dict[str, Raw] = {}
        self._name: Raw | None = None
        self._arguments: list[str] = []

    def add(self, piece: Object) -> None:
        """Takes in one piece."""
        function = _OBJECT.decode(piece.pop("function", Raw(b"{}")))
        for name in ("id", "type"):
            value = piece.pop(name, Raw(b"null"))
            if bytes(value) != b"null" and bytes(self._once.setdefault(name, value)) != bytes(value):
                raise _InexactError
        _refuse_rest(piece)
        if not _is_empty(function, "name"):
            if self._name is not None:
                raise _InexactError  # once more the same, or the next part: nobody can tell
            self._name = function.pop("name")
        function.pop("name", None)
        if not _is_empty(function, "arguments"):
            self._arguments.append(_TEXT.decode(function.pop("arguments")))
        function.pop("arguments", None)
        _refuse_rest(function)

    def whole(self) -> dict[str, object]:
        """The call of the whole answer."""
        if self._name is None or "id" not in self._once:
            raise _InexactError
        function = {"name": self._name, "arguments": "".join(self._arguments)}
        return {"id": self._once["id"], "type": self._once.get("type", "function"), "function": function}


class _TextChoice(_Ending):
    """The choice of a completion's stream, piece by piece."""

    _LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._logprobs: dict[str, list[Raw]] | None = None

    def add(self, choice: Object) -> None:
        """Takes in one piece."""
        self.take_end(choice)
        self._texts.append(_TEXT.decode(choice.pop("text", Raw(b'""'))))
        if not _is_empty(choice, "logprobs"):
            self._add_logprobs(_OBJECT.decode(choice.pop("logprobs")))
        choice.pop("logprobs", None)
        _refuse_rest(choice)

    def choice(self) -> dict[str, object]:
        """The choice of the whole answer."""
        offsets = self._logprobs.get("text_offset", []) if self._logprobs else []
        places = [_INDEX.decode(offset) for offset in offsets]
        if places != sorted(places):
            raise _InexactError  # counted from each piece, not from the beginning
        lengths = {len(values) for values in (self._logprobs or {}).values()}
        if len(lengths) > 1:
            raise _InexactError  # a list is missing in some pieces
        return {"index": 0, "text": "".join(self._texts), "logprobs": self._logprobs, **self.end()}

    def _add_logprobs(self, logprobs: Object) -> None:
        if self._logprobs is None:
            self._logprobs = {}
        for name in self._LISTS:
            value = logprobs.pop(name, Raw(b"null"))
            if bytes(value) != b"null":
                self._logprobs.setdefault(name, []).extend(_RAWS.decode(value))
        _refuse_rest(logprobs)


def _take(fields: Object, name: str) -> Raw:
    try:
        return fields.pop(name)
    except KeyError:
        raise _InexactError from None


def _envelope(fields: Object) -> Object:
    fields.pop("object", None)
    envelope = {name: fields.pop(name) for name in _ENVELOPE if name in fields}
    _refuse_rest(fields)
    return envelope


def _refuse_rest(fields: Mapping[str, Raw]) -> None:
    """Raises: _InexactError: something is left that says anything, and nobody knows where it belongs."""
    if any(not _is_empty(fields, name) for name in fields):
        raise _InexactError


def _is_empty(fields: Mapping[str, Raw], name: str) -> bool:
    value = fields.get(name)
    return value is None or bytes(value) in {b"null", b"[]"}
