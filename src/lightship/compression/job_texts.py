"""Reads texts inside a job, and cuts them into windows of token ids. Needs nothing but the standard library."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path


def read_job_texts(path: Path) -> list[str]:
    """The texts of a file that `calibration.write_text_file` wrote."""
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def token_windows(
    texts: Sequence[str], encode: Callable[[str], list[int]], *, num_windows: int, window_tokens: int
) -> list[list[int]]:
    """At most `num_windows` windows of exactly `window_tokens` ids, cut from the texts joined in order.

    Args:
        encode: Ids of a text with the special tokens that a prompt has.

    Raises: ValueError: the texts do not fill a single window.
    """
    windows: list[list[int]] = []
    buffer: list[int] = []
    for text in texts:
        buffer += encode(text)
        while len(buffer) >= window_tokens and len(windows) < num_windows:
            windows.append(buffer[:window_tokens])
            buffer = buffer[window_tokens:]
        if len(windows) == num_windows:
            break
    if not windows:
        raise ValueError(
            f"the texts make {len(buffer)} tokens, fewer than one window of {window_tokens}; give more text"
        )
    return windows
