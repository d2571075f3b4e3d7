"""What is to be known of a response that an engine writes itself: its first token, its end, its usage. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from lightship.gateway.api.responses import count_or_none
from lightship.ports.engine import StreamBrokenError, TokenUsage
from lightship.wire.response_records import InputTokensDetails, ResponseUsage
from lightship.wire.sse import EventSplitter, EventTooLargeError

# Promises, not tokens: another replica can still keep them.
_BEFORE_FIRST_TOKEN = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_part.added",
        "response.reasoning_summary_part.added",
    }
)
_LAST = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "error"})


class _Response(msgspec.Struct, frozen=True):
    usage: Any = None


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    response: _Response | None = None


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


class NativeStream:
    """Watches a stream of an engine that has `/v1/responses` itself.

    Args:
        usage: Filled in: deltas are counted until the engine says how many tokens there were.
        limit_bytes: Of one event.
    """

    def __init__(self, usage: TokenUsage, *, limit_bytes: int) -> None:
        self.has_token = False
        self.is_complete = False
        self._usage = usage
        self._splitter = EventSplitter(limit_bytes=limit_bytes)

    def feed(self, chunk: bytes) -> None:
        """Looks at what came.

        Raises: StreamBrokenError: the engine says that it failed before its first token, or an event has no end.
        """
        try:
            for data in self._splitter.feed(chunk):
                self._look_at(data)
        except EventTooLargeError as error:
            raise StreamBrokenError(str(error)) from error

    def _look_at(self, data: bytes) -> None:
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # nothing of ours; the client gets the bytes
        if event.type in _BEFORE_FIRST_TOKEN:
            return
        if event.type in _FAILED and not self.has_token:
            raise StreamBrokenError("the engine's response failed before its first token")
        self.has_token = True
        self.is_complete = self.is_complete or event.type in _LAST
        if event.response is not None and (usage := _usage_of(event.response.usage)) is not None:
            fill_usage(self._usage, usage)
        elif event.type.endswith(".delta") and not self._usage.is_reported:
            self._usage.num_output_tokens += 1


def usage_of_response(body: bytes) -> ResponseUsage | None:
    """Token counts of a whole response, or None where there are none."""
    try:
        return _usage_of(_RESPONSE.decode(body).usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def fill_usage(usage: TokenUsage, counted: ResponseUsage) -> None:
    """Effects: `usage` says what the engine counted."""
    usage.num_prompt_tokens = counted.input_tokens
    usage.num_cached_tokens = min(counted.input_tokens_details.cached_tokens, counted.input_tokens)
    usage.num_output_tokens = counted.output_tokens
    usage.is_reported = True


def _usage_of(value: object) -> ResponseUsage | None:
    if not isinstance(value, dict):
        return None
    num_input, num_output = count_or_none(value.get("input_tokens")), count_or_none(value.get("output_tokens"))
    if num_input is None or num_output is None:
        return None
    details = value.get("input_tokens_details")
    num_cached = count_or_none(details.get("cached_tokens")) if isinstance(details, dict) else None
    return ResponseUsage(num_input, num_output, num_input + num_output, InputTokensDetails(num_cached or 0))
