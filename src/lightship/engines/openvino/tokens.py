"""Text to tokens and back, as the model's own tokenizer does it."""

from __future__ import annotations

from typing import Any

from lightship.engines.openvino.runtime import load_genai
from lightship.errors import CheckpointError
from lightship.wire.errors import invalid_request


class ModelTokenizer:
    """The tokenizer that lies beside the model. Calls take about 0.1 ms whatever the batch; use batches."""

    def __init__(self, folder: str) -> None:
        genai = load_genai()
        try:
            self._tokenizer: Any = genai.Tokenizer(folder)
        except RuntimeError as error:
            raise CheckpointError(f"cannot load the tokenizer: {error}", where=folder) from error
        self._token_texts: dict[int, str] = {}
        self._text_lengths: dict[int, int] = {}
        self._anchor = self._find_anchor()

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brings a chat template."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text.

        Raises: ApiError: 400, a text the tokenizer would change silently.
        """
        if "\x00" in text:
            # the tokenizer would end the text there without a word
            raise invalid_request("The prompt contains a NUL character.", param="prompt", code="invalid_prompt")
        if not text and not add_special_tokens:
            return []
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids
        return [int(token_id) for token_id in encoded.data[0]]

    def decode_batch(self, batch: list[list[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each list of tokens; an incomplete UTF-8 character reads as U+FFFD."""
        if not batch:
            return []
        return list(self._tokenizer.decode(batch, skip_special_tokens=skip_special_tokens))

    def decode(self, token_ids: list[int]) -> str:
        """The text of a list of tokens."""
        return self.decode_batch([token_ids])[0]

    def token_texts(self, token_ids: list[int]) -> list[str]:
        """The text of each token by itself, special tokens by their names, leading spaces kept."""
        self._learn(token_ids)
        return [self._token_texts[token_id] for token_id in token_ids]

    def text_lengths(self, token_ids: list[int]) -> list[int]:
        """The characters each token adds to a text; special tokens add none."""
        self._learn(token_ids)
        return [self._text_lengths[token_id] for token_id in token_ids]

    def apply_chat_template(self, messages: list[dict[str, str]]) -> str:
        """The prompt text of a conversation.

        Raises: RuntimeError: the template refuses it.
        """
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    def _learn(self, token_ids: list[int]) -> None:
        new = [token_id for token_id in dict.fromkeys(token_ids) if token_id not in self._token_texts]
        anchor_ids, anchor_text = self._anchor
        rows = [[*anchor_ids, token_id] for token_id in new]
        named = self.decode_batch(rows, skip_special_tokens=False)
        shown = self.decode_batch(rows)
        for token_id, name, text in zip(new, named, shown, strict=True):
            self._token_texts[token_id] = name.removeprefix(anchor_text)
            self._text_lengths[token_id] = max(0, len(text) - len(anchor_text))

    def _find_anchor(self) -> tuple[list[int], str]:
        # some tokenizers drop the space in front of a text's first token; a token before it keeps it
        for text in ("a", "."):
            token_ids = self.encode(text, add_special_tokens=False)
            if len(token_ids) == 1:
                return token_ids, self._tokenizer.decode([token_ids], skip_special_tokens=False)[0]
        return [], ""
