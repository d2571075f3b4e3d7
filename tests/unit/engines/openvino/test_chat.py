"""Messages become a prompt, or a refusal that names the message."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.engines.openvino.chat import render_prompt
from lightship.wire.errors import ApiError
from lightship.wire.requests import ChatMessage


class FakeTemplate:
    """Writes `role:content|`, and refuses assistants first, as some templates do."""

    def __init__(self, *, has_chat_template: bool) -> None:
        self.has_chat_template = has_chat_template

    def apply_chat_template(self, messages: list[dict[str, str]]) -> str:
        if messages[0]["role"] == "assistant":
            raise RuntimeError("Exception from somewhere.cpp:1:\nroles must alternate\n")
        return "".join(f"{message['role']}:{message['content']}|" for message in messages)


WITH, WITHOUT = FakeTemplate(has_chat_template=True), FakeTemplate(has_chat_template=False)


def message(role: str = "user", content: Any = "hi", **fields: Any) -> ChatMessage:
    return ChatMessage(role, content, **fields)


def test_render_template_writes_its_own_special_tokens() -> None:
    turns = [message("developer", "be kind"), message(), message("assistant", "hello"), message("user", "bye")]
    assert render_prompt(turns, WITH) == ("system:be kind|user:hi|assistant:hello|user:bye|", False)


def test_render_without_template_joins_contents() -> None:
    assert render_prompt([message("system", "A tale."), message("user", "Once")], WITHOUT) == ("A tale.\n\nOnce", True)


def test_render_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render_prompt([message(content=parts)], WITHOUT)[0] == "ab"


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (message(content=[{"type": "image_url"}]), "messages[1].content[0].type"),
        (message(content=[{"type": "text", "text": 5}]), "messages[1].content[0].text"),
        (message(content=None), "messages[1].content"),
        (message("tool", "42", tool_call_id="x"), "messages[1].role"),
        (message("assistant", "", tool_calls=[{}]), "messages[1].tool_calls"),
    ],
)
def test_render_message_that_cannot_be_used_is_named(bad: ChatMessage, param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        render_prompt([message(), bad], WITH)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_render_template_error_is_the_clients() -> None:
    with pytest.raises(ApiError, match="roles must alternate") as refusal:
        render_prompt([message("assistant")], WITH)
    assert (refusal.value.status, refusal.value.code) == (400, "chat_template_error")


def test_render_no_messages_is_refused() -> None:
    with pytest.raises(ApiError):
        render_prompt([], WITH)
