"""Windows of calibration tokens, by the checkpoint's own `tokenizer.json`. Runs in a toolchain."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from lightship.compression.job_texts import read_job_texts, token_windows


def calibration_windows(
    checkpoint: Path, texts: Path, *, num_windows: int, window_tokens: int, context_length: int
) -> list[list[int]]:
    """At most `num_windows` windows of equally many ids.

    The file is read as it is: transformers' AutoTokenizer replaces parts of it by what the model's family usually has.

    Raises: ValueError: the texts do not fill a single window.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return token_windows(
        read_job_texts(texts),
        lambda text: list(tokenizer.encode(text).ids),
        num_windows=num_windows,
        window_tokens=min(window_tokens, context_length),
    )
