"""From messages to a prompt: the model's own chat template, or a stated default.

Default, for models that bring no template: the contents of the messages in their order, with an empty line between
them. A model without a template was not trained for roles; it continues the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lightship.wire.errors import ApiError, invalid_request, unsupported_parameter
from lightship.wire.requests import ChatMessage

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Accepted roles and what templates call them: `developer` is the newer name of `system`."""


class ChatTemplate(Protocol):
    """What turns a conversation into a text."""

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a template."""
        ...

    def apply_chat_template(self, messages: list[dict[str, str]]) -> str:
        """The text. Raises: RuntimeError: the template refuses the conversation."""
        ...


def render_prompt(messages: Sequence[ChatMessage], template: ChatTemplate) -> tuple[str, bool]:
    """(prompt text, whether the tokenizer should add its special tokens).

    A template writes the special tokens itself.

    Raises: ApiError: 400, naming the message or part that cannot be used.
    """
    if not messages:
        raise invalid_request("messages is empty.", param="messages")
    plain = [_plain_message(index, message) for index, message in enumerate(messages)]
    if not template.has_chat_template:
        return "\n\n".join(message["content"] for message in plain), True
    try:
        return template.apply_chat_template(plain), False
    except RuntimeError as error:
        raise _template_error(error) from error


def _plain_message(index: int, message: ChatMessage) -> dict[str, str]:
    where = f"messages[{index}]"
    if message.role not in _ROLES:
        known = ", ".join(_ROLES)
        raise invalid_request(f"{where}.role is {message.role!r}; this engine knows {known}.", param=f"{where}.role")
    if message.tool_calls not in (None, []) or message.tool_call_id is not None:
        raise unsupported_parameter(f"{where}.tool_calls", reason="this engine does not call tools.")
    plain = {"role": _ROLES[message.role], "content": _text_of(message.content, where=f"{where}.content")}
    return plain if message.name is None else {**plain, "name": message.name}


def _text_of(content: str | list[dict[str, Any]] | None, *, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise invalid_request(f"{where} is missing.", param=where)
    texts = []
    for index, part in enumerate(content):
        kind, text = part.get("type"), part.get("text")
        if kind != "text":
            raise unsupported_parameter(f"{where}[{index}].type", reason=f"{kind!r} parts cannot be read, only text.")
        if not isinstance(text, str):
            raise invalid_request(f"{where}[{index}].text is not a string.", param=f"{where}[{index}].text")
        texts.append(text)
    return "".join(texts)


def _template_error(error: RuntimeError) -> ApiError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception")]
    reason = lines[0] if lines else "no reason given"
    return invalid_request(
        f"The model's chat template does not accept these messages: {reason}",
        param="messages",
        code="chat_template_error",
    )
