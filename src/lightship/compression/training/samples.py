"""Text that a teacher writes by itself, to distil from where there is none: sampled in batches, kept batch by batch.

Each row is a window of the teacher's own stream: begin mark, document, end mark, begin mark, ... at temperature 1 with
nothing cut off, so that a student meets contexts as often as its teacher would write them. Half of the rows begin with
a few words of given texts, because a model that starts from nothing but the begin mark tends to the same few openings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from lightship.compression.training.corpus import DocumentMarks, TokenIds, token_ids

# Rows that are written at the same time. More are faster for each token, until their keys and values leave the cache.
BATCH_ROWS = 64
_PREFIX_TOKENS = 16


def teacher_samples(
    teacher: Any,
    *,
    num_tokens: int,
    row_tokens: int,
    vocab_size: int,
    marks: DocumentMarks,
    prefixes: Sequence[Sequence[int]],
    seed: int,
    folder: Path,
    report: Callable[[int], None] = lambda _: None,
) -> TokenIds:
    """At least `num_tokens` ids as one stream of rows.

    Args:
        vocab_size: Ids below it may be written; those beyond are padding of the vocabulary.
        prefixes: Ids of texts, whose first ones begin half of the rows.
        folder: Keeps each batch, so that a run that was stopped goes on.
        report: Told how many tokens there are.

    Effects: writes `samples-NNNNN.npy` in the folder.
    """
    pieces: list[TokenIds] = []
    for number in range(-(-num_tokens // (BATCH_ROWS * row_tokens))):
        path = folder / f"samples-{number:05d}.npy"
        if not path.exists():
            generator = torch.Generator(device=teacher.device).manual_seed(seed * 100_003 + number)
            starts = _starts(BATCH_ROWS, marks, prefixes, np.random.default_rng((seed, number)))
            rows = _write_rows(
                teacher, starts, row_tokens=row_tokens, vocab_size=vocab_size, marks=marks, generator=generator
            )
            partial = path.with_suffix(".partial.npy")
            np.save(partial, token_ids(rows, vocab_size=vocab_size))
            partial.replace(path)
        pieces.append(np.load(path, allow_pickle=False))
        report(sum(map(len, pieces)))
    joined: TokenIds = np.concatenate(pieces)
    return joined


def _starts(
    num_rows: int, marks: DocumentMarks, prefixes: Sequence[Sequence[int]], choose: np.random.Generator
) -> list[list[int]]:
    mark = marks.bos_id if marks.bos_id is not None else marks.eos_id
    start = [mark] if mark is not None else []
    rows = []
    for row in range(num_rows):
        taken: Sequence[int] = ()
        if prefixes and (row % 2 or not start):
            text = prefixes[int(choose.integers(len(prefixes)))]
            taken = text[: int(choose.integers(1, _PREFIX_TOKENS + 1))]
        rows.append([*start, *(token for token in taken if token != mark)] or [0])
    return rows


@torch.inference_mode()
def _write_rows(
    teacher: Any,
    starts: Sequence[Sequence[int]],
    *,
    row_tokens: int,
    vocab_size: int,
    marks: DocumentMarks,
    generator: torch.Generator,
) -> list[int]:
    """All rows one after the other. Shorter starts begin to be sampled while longer ones are still being read."""
    device = teacher.device
    given = torch.full((len(starts), max(map(len, starts))), -1, dtype=torch.long)
    for row, start in enumerate(starts):
        given[row, : len(start)] = torch.tensor(list(start))
    given = given.to(device)
    cache = DynamicCache(config=teacher.config)
    columns = [given[:, 0]]
    for position in range(1, row_tokens):
        output = teacher(columns[-1][:, None], past_key_values=cache, use_cache=True)
        probabilities = output.logits[:, -1, :vocab_size].float().softmax(dim=-1)
        chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        if marks.bos_id is not None and marks.eos_id is not None:
            chosen = torch.where(columns[-1] == marks.eos_id, torch.full_like(chosen, marks.bos_id), chosen)
        if position < given.shape[1]:
            chosen = torch.where(given[:, position] >= 0, given[:, position], chosen)
        columns.append(chosen)
    written: list[int] = torch.stack(columns, dim=1).flatten().tolist()
    return written
