"""Reads a JSONL corpus, joins passages into tales, and packs token ids into fixed windows.

Not a streaming loader: the corpora meant here (tens of megabytes) fit in memory as 16-bit or 32-bit ids.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

BOS_ID = 1
EOS_ID = 2

TokenIds = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Tale:
    """One document: a heading and its whole text."""

    heading: str
    text: str

    @property
    def document(self) -> str:
        """The text the model is trained on; the chat template writes prompts in the same shape."""
        return f"{self.heading.strip()}\n\n{self.text.strip()}"


def read_tales(path: Path) -> list[Tale]:
    """Tales of a `.jsonl` or `.jsonl.gz` file with `title`, `chapter`, `text`; neighbouring passages are joined.

    Raises: ValueError: a line is not such a record (names the line), or there is none.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    records: list[tuple[str, str, str]] = []
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                records.append((str(record["title"]), str(record["chapter"]), str(record["text"])))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a corpus record with title, chapter, text: {error}") from error
    if not records:
        raise ValueError(f"{path}: the corpus has no records")
    grouped = groupby(records, key=lambda record: record[:2])
    return [Tale(heading=key[1], text="\n".join(record[2] for record in group)) for key, group in grouped]


def encode_tales(tales: Sequence[Tale], tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """All tales as one stream of ids: BOS, document, EOS, BOS, ... Vocabulary must be below 65,536."""
    encoded = tokenizer.encode_batch([tale.document for tale in tales], add_special_tokens=False)
    pieces = [np.asarray([BOS_ID, *item.ids, EOS_ID], dtype=np.uint16) for item in encoded]
    return np.concatenate(pieces)


def token_ids(ids: Sequence[int], *, vocab_size: int) -> TokenIds:
    """The ids in the smallest type that holds the vocabulary."""
    return np.asarray(ids, dtype=np.uint16) if vocab_size <= 2**16 else np.asarray(ids, dtype=np.uint32)


@dataclass(frozen=True)
class DocumentMarks:
    """Ids between which a model's documents stand; None where it has no such id.

    A tokenizer may write the first one itself when it encodes a text; then it is not written twice.
    """

    bos_id: int | None
    eos_id: int | None

    def around(self, ids: Sequence[int]) -> list[int]:
        """A document's ids between the marks."""
        document = list(ids)
        if self.bos_id is not None and document[:1] != [self.bos_id]:
            document.insert(0, self.bos_id)
        if self.eos_id is not None and document[-1:] != [self.eos_id]:
            document.append(self.eos_id)
        return document


class WindowSampler:
    """Shuffled windows over a token stream; its whole state is (seed, num_windows_drawn), so resuming is exact.

    Every epoch starts at another offset, so window borders fall elsewhere each time. The whole stream lies on `device`,
    where a batch is one gather: a GPU would wait for windows cut on the host.
    """

    def __init__(self, stream: TokenIds, *, context_length: int, seed: int, device: torch.device | None = None) -> None:
        if len(stream) < 2 * context_length + 2:
            raise ValueError(f"the corpus has {len(stream)} tokens; at least {2 * context_length + 2} are needed")
        self._stream = torch.from_numpy(stream.astype(np.int64)).to(device)
        self._within = torch.arange(context_length + 1, device=device)
        self._context_length = context_length
        self._seed = seed
        self._windows_per_epoch = (len(stream) - 1) // context_length - 1
        self._shuffled: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, *, first_window: int, num_windows: int) -> torch.Tensor:
        """Windows `first_window ...` of the endless shuffled sequence, shape (num_windows, context_length + 1)."""
        starts = torch.tensor([self._start(first_window + i) for i in range(num_windows)], device=self._stream.device)
        return self._stream[starts.unsqueeze(1) + self._within]

    def _start(self, index: int) -> int:
        epoch, position = divmod(index, self._windows_per_epoch)
        return int(self._starts(epoch)[position])

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        """Where the windows of an epoch begin, in their order; the last one asked for is kept."""
        if self._shuffled[0] != epoch:
            generator = np.random.default_rng((self._seed, epoch))
            offset = int(generator.integers(self._context_length))
            self._shuffled = epoch, offset + generator.permutation(self._windows_per_epoch) * self._context_length
        return self._shuffled[1]


def evaluation_windows(
    stream: TokenIds, *, context_length: int, device: torch.device | None = None
) -> Iterator[torch.Tensor]:
    """Consecutive windows that cover the stream once, each of shape (1, at most context_length + 1)."""
    ids = torch.from_numpy(stream.astype(np.int64)).to(device)
    for start in range(0, len(ids) - 1, context_length):
        yield ids[start : start + context_length + 1].unsqueeze(0)
