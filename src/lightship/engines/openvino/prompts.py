"""The prompts of a completion request as tokens, whichever of the four forms the client used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightship.engines.openvino.parameters import MAX_PROMPTS
from lightship.wire.errors import invalid_request


class PromptTokenizer(Protocol):
    """What turns text into tokens."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text."""
        ...


def prompt_tokens(
    prompt: str | list[str | int | list[int]],
    tokenizer: PromptTokenizer,
    *,
    vocab_size: int,
    add_special_tokens: bool,
) -> list[list[int]]:
    """The tokens of each prompt. Prompts that come as tokens are used as they are.

    Raises: ApiError: 400, no prompt, too many, an empty one, or a token the model does not know.
    """
    batch = _as_batch(prompt)
    if not batch:
        raise invalid_request("prompt is empty.", param="prompt")
    if len(batch) > MAX_PROMPTS:
        raise invalid_request(f"prompt has {len(batch)} prompts; at most {MAX_PROMPTS} work.", param="prompt")
    encoded = [
        tokenizer.encode(entry, add_special_tokens=add_special_tokens) if isinstance(entry, str) else list(entry)
        for entry in batch
    ]
    for token_ids in encoded:
        check_tokens(token_ids, vocab_size=vocab_size, param="prompt")
    return encoded


def check_tokens(token_ids: Sequence[int], *, vocab_size: int, param: str) -> None:
    """Returns when these are tokens of the model, at least one.

    Raises: ApiError: 400 otherwise.
    """
    if not token_ids:
        raise invalid_request(f"{param} has no tokens.", param=param)
    bad = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
    if bad is not None:
        raise invalid_request(
            f"{param} has token {bad}; this model's tokens go from 0 to {vocab_size - 1}.", param=param
        )


def _as_batch(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    token_ids = [entry for entry in prompt if isinstance(entry, int)]
    if not token_ids:
        return [entry for entry in prompt if not isinstance(entry, int)]
    if len(token_ids) < len(prompt):
        raise invalid_request("prompt mixes tokens with texts or lists.", param="prompt")
    return [token_ids]
