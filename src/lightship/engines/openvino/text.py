"""From a growing list of tokens to pieces of text: whole characters only, and nothing after a stop string.

The text is decoded in a sliding window, because some tokenizers treat the first token of a text specially and because
one character may span several tokens:

    tokens:  ... t3 t4 [t5 t6 t7 t8 t9]      window = the tokens from `_begin`
    text:    sent sent |sent sent|held       held = an incomplete character, at most three U+FFFD
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
_MAX_INCOMPLETE = 3  # bytes of an unfinished UTF-8 character
_WINDOW_TOKENS = 24
_KEPT_TOKENS = 12  # a multiple of 2, 3 and 4: runs of characters of so many one-byte tokens can be cut between two
_FORCED_CUT_TOKENS = 96  # a window never grows beyond, even where no border between characters is found


DecodeBatch = Callable[[list[list[int]]], list[str]]


class TokenWindow:
    """The end of one sequence, for decoding; the caller decodes `tokens` and hands the text to `advance`.

    Decoding is left to the caller so that many sequences share one call.

    Args:
        context_tokens: The end of what the sequence continues, or nothing.
        context_text: The text of `context_tokens`.
    """

    def __init__(self, context_tokens: Sequence[int] = (), context_text: str = "") -> None:
        self.tokens: list[int] = list(context_tokens)
        self._num_sent_chars = _final_length(context_text)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Adds new tokens."""
        self.tokens += token_ids

    @property
    def is_long(self) -> bool:
        """Whether `shorten` should be called, to keep decoding cheap."""
        return len(self.tokens) > _WINDOW_TOKENS

    def advance(self, text: str, *, is_last: bool = False) -> str:
        """What is new and final, given the text of `tokens`."""
        end = len(text) if is_last else _final_length(text)
        piece = text[self._num_sent_chars : end]
        self._num_sent_chars = max(self._num_sent_chars, end)
        return piece

    def kept(self) -> list[int]:
        """The tokens that would stay after `shorten`."""
        return self.tokens[-_KEPT_TOKENS:]

    def shorten(self, text: str, kept_text: str) -> None:
        """Forgets all but the last tokens, if their text alone reads like the end of the whole.

        Args:
            text: The text of `tokens`.
            kept_text: The text of `kept()`.
        """
        num_dropped_chars = len(text) - len(kept_text)
        if not text.endswith(kept_text) or num_dropped_chars > self._num_sent_chars:
            return
        if kept_text.startswith(REPLACEMENT) and len(self.tokens) < _FORCED_CUT_TOKENS:
            return  # the border would cut through a character
        self.tokens = self.kept()
        self._num_sent_chars -= num_dropped_chars


def context_tail(token_ids: Sequence[int]) -> list[int]:
    """The end of a prompt, enough to decode what follows it."""
    return list(token_ids[-_KEPT_TOKENS:])


def _final_length(text: str) -> int:
    held = 0
    while held < _MAX_INCOMPLETE and held < len(text) and text[-1 - held] == REPLACEMENT:
        held += 1
    return len(text) - held


def advance_all(decode: DecodeBatch, windows: Sequence[tuple[TokenWindow, bool]]) -> list[str]:
    """New text of each window, decoded together; the flag says that no more tokens follow."""
    texts = decode([window.tokens for window, _ in windows])
    pieces = [window.advance(text, is_last=is_last) for (window, is_last), text in zip(windows, texts, strict=True)]
    long = [(window, text) for (window, _), text in zip(windows, texts, strict=True) if window.is_long]
    if long:
        kept_texts = decode([window.kept() for window, _ in long])
        for (window, text), kept_text in zip(long, kept_texts, strict=True):
            window.shorten(text, kept_text)
    return pieces


class StopMatcher:
    """Ends a text before the first stop string, wherever the borders of its pieces are."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._held = ""

    def feed(self, piece: str, *, is_last: bool = False) -> tuple[str, bool]:
        """(text that may be sent, whether a stop string was met); nothing may be fed after a match.

        Text that could be the beginning of a stop string is held back until it is decided.
        """
        if not self._stop_strings:
            return piece, False
        text = self._held + piece
        found = [start for start in (text.find(stop) for stop in self._stop_strings) if start >= 0]
        if found:
            return text[: min(found)], True
        num_held = 0 if is_last else max(_overlap(text, stop) for stop in self._stop_strings)
        cut = len(text) - num_held
        self._held = text[cut:]
        return text[:cut], False


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
