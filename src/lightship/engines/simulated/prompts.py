"""Prompts as tokens of the simulated engine, with the refusals of the other engines."""

from __future__ import annotations

from collections.abc import Sequence

from lightship.engines.openvino.chat import render_prompt
from lightship.engines.simulated.text import encode_text
from lightship.wire.errors import invalid_request
from lightship.wire.requests import ChatMessage


class SimulatedTokenizer:
    """See `text` for what the tokens are. There are no special tokens."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text.

        Raises: ApiError: 400, a text that other engines do not take either.
        """
        del add_special_tokens
        if "\x00" in text:
            raise invalid_request("The prompt contains a NUL character.", param="prompt", code="invalid_prompt")
        return encode_text(text)


class _PlainMessages:
    """Takes the checked messages instead of rendering them."""

    has_chat_template = True

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []

    def apply_chat_template(self, messages: list[dict[str, str]]) -> str:
        self.messages = messages
        return ""


def chat_tokens(messages: Sequence[ChatMessage], tokenizer: SimulatedTokenizer) -> list[int]:
    """The tokens of a conversation: each role and each text by itself, then the role that answers.

    Nothing runs over the border of a message, so a conversation that goes on begins with the tokens it had before,
    the answer's included, and finds them in the prefix cache.

    Raises: ApiError: 400, naming the message or part that cannot be used.
    """
    plain = _PlainMessages()
    render_prompt(messages, plain)
    tokens: list[int] = []
    for message in plain.messages:
        tokens += tokenizer.encode(f"<|{message['role']}|>")
        tokens += tokenizer.encode(message["content"])
    return [*tokens, *tokenizer.encode("<|assistant|>")]
