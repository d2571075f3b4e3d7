"""What `/v1/responses` answers: the response as a whole, and the events of its stream.

Source: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Where input tokens came from."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """What output tokens were for."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts as the engine counted them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()


class OutputText(msgspec.Struct, frozen=True):
    """A text of a message."""

    text: str
    type: Literal["output_text"] = "output_text"
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(msgspec.Struct, frozen=True):
    """The assistant's message."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class ResponseFault(msgspec.Struct, frozen=True):
    """Why a response failed. `code` is from a closed list, on which an engine's own codes are not."""

    message: str
    code: Literal["server_error"] = "server_error"


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response ended before its end."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response. What the client sent comes back in it; null where it sent nothing."""

    id: str
    created_at: int
    model: str
    status: ResponseStatus
    output: list[OutputMessage] = []
    usage: ResponseUsage | None = None
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool = True
    tool_choice: str = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    truncation: Literal["disabled"] = "disabled"
    store: Literal[False] = False
    background: Literal[False] = False
    previous_response_id: None = None
    object: Literal["response"] = "response"


class StatusEvent(msgspec.Struct, frozen=True):
    """`response.created`, `.in_progress`, `.completed`, `.incomplete`, `.failed`."""

    type: str
    sequence_number: int
    response: ResponseObject


class ItemEvent(msgspec.Struct, frozen=True):
    """`response.output_item.added` and `.done`."""

    type: str
    sequence_number: int
    item: OutputMessage
    output_index: int = 0


class PartEvent(msgspec.Struct, frozen=True):
    """`response.content_part.added` and `.done`."""

    type: str
    sequence_number: int
    item_id: str
    part: OutputText
    output_index: int = 0
    content_index: int = 0


class TextDeltaEvent(msgspec.Struct, frozen=True):
    """`response.output_text.delta`."""

    type: str
    sequence_number: int
    item_id: str
    delta: str
    output_index: int = 0
    content_index: int = 0
    logprobs: list[Any] = []


class TextDoneEvent(msgspec.Struct, frozen=True):
    """`response.output_text.done`."""

    type: str
    sequence_number: int
    item_id: str
    text: str
    output_index: int = 0
    content_index: int = 0
    logprobs: list[Any] = []


class ErrorObject(msgspec.Struct, frozen=True):
    """The error object that every other answer has too."""

    message: str
    type: str
    param: str | None
    code: str | None
    origin: str | None = None


class ErrorEvent(msgspec.Struct, frozen=True):
    """`error`: as documented, and with the error object by which clients of other streams know an error.

    The object stands first: a relay tells by the first bytes that an error was sent.
    """

    error: ErrorObject
    sequence_number: int
    message: str
    code: str | None
    param: str | None
    type: Literal["error"] = "error"
