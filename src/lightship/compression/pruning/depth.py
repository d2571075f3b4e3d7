"""Which blocks of a decoder to leave out, and what a checkpoint without them looks like. Pure; no torch.

A block's influence is 1 - cos(x_in, x_out), the mean over the positions of calibration text: a block that hardly turns
the residual stream is hardly missed.
Source: arXiv:2403.03853 (block influence), arXiv:2403.17887 (one run of neighbouring blocks).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_BLOCK = re.compile(r"^(?P<stem>(?:.*\.)?layers\.)(?P<index>\d+)(?P<rest>\..+)$")


@dataclass(frozen=True)
class BlockChoice:
    """The blocks that stay and go (0-based, ascending), and why in one sentence for each that goes."""

    kept: tuple[int, ...]
    removed: tuple[int, ...]
    reasons: tuple[str, ...]


def choose_contiguous(distances: Sequence[Sequence[float]], *, num_removed: int) -> BlockChoice:
    """The run of neighbouring blocks across which the residual stream turns least; the first of equal ones.

    Args:
        distances: `distances[i][j]` is 1 - cos between what enters block i and what enters block j; the last row and
            column stand for what leaves the last block.

    Raises: ValueError: no run of that length leaves a block over.
    """
    num_layers = len(distances) - 1
    _check_count(num_layers, num_removed)
    starts = range(num_layers - num_removed + 1)
    best = min(starts, key=lambda start: distances[start][start + num_removed])
    removed = tuple(range(best, best + num_removed))
    reason = (
        f"one of the {num_removed} neighbouring blocks with the least influence together, "
        f"{distances[best][best + num_removed]:.4f}"
    )
    return _choice(num_layers, removed, (reason,) * num_removed)


def choose_greedy(
    influence_of: Callable[[tuple[int, ...]], Sequence[float]], *, num_layers: int, num_removed: int
) -> BlockChoice:
    """Removes the block with the least influence, measures the rest again, and so on; the first of equal ones.

    Args:
        influence_of: Influence of each of the given blocks in a model of these blocks alone.

    Raises: ValueError: nothing would be left.
    """
    _check_count(num_layers, num_removed)
    kept = tuple(range(num_layers))
    reasons: dict[int, str] = {}
    for round_number in range(1, num_removed + 1):
        scores = influence_of(kept)
        position = min(range(len(kept)), key=lambda index: scores[index])
        reasons[kept[position]] = f"least influence in round {round_number}, {scores[position]:.4f}"
        kept = kept[:position] + kept[position + 1 :]
    removed = tuple(sorted(reasons))
    return _choice(num_layers, removed, tuple(reasons[block] for block in removed))


def choose_explicit(blocks: Sequence[int], *, num_layers: int) -> BlockChoice:
    """The blocks that the recipe names.

    Raises: ValueError: one is named twice or is not there, or nothing would be left.
    """
    removed = tuple(sorted(blocks))
    for block in removed:
        if not 0 <= block < num_layers:
            raise ValueError(f"there is no block {block}; the model has blocks 0 to {num_layers - 1}")
        if removed.count(block) > 1:
            raise ValueError(f"block {block} is named twice")
    _check_count(num_layers, len(removed))
    return _choice(num_layers, removed, ("named in the recipe",) * len(removed))


def parse_blocks(text: str) -> tuple[int, ...]:
    """Numbers of a list such as `3,4,5`.

    Raises: ValueError: it is not such a list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not a list of block numbers such as '3,4,5'")
    return tuple(int(part) for part in parts)


def blocks_to_keep(num_layers: int, fraction: float) -> int:
    """How many blocks a share of them is, rounded, at least one."""
    return max(1, round(num_layers * fraction))


def renamed_tensor(name: str, kept: Sequence[int]) -> str | None:
    """Name of a tensor when only the kept blocks are there, numbered anew; None for a tensor of a removed block."""
    if (found := _BLOCK.match(name)) is None:
        return name
    old = int(found["index"])
    return f"{found['stem']}{list(kept).index(old)}{found['rest']}" if old in kept else None


def shallower_config(config: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The `config.json` of a model of the kept blocks.

    Each value that lists something per block loses the entries of removed blocks. Families that say only from which
    block on attention slides (`max_window_layers`) get the number of kept blocks before it.
    """
    num_layers = int(config["num_hidden_layers"])
    changed = dict(config)
    for name, value in config.items():
        if isinstance(value, list) and name.startswith("layer") and len(value) == num_layers:
            changed[name] = [value[block] for block in kept]
    if isinstance(config.get("max_window_layers"), int):
        changed["max_window_layers"] = sum(block < config["max_window_layers"] for block in kept)
    changed["num_hidden_layers"] = len(kept)
    return changed


def _check_count(num_layers: int, num_removed: int) -> None:
    if not 1 <= num_removed < num_layers:
        raise ValueError(f"{num_removed} of {num_layers} blocks cannot be removed; at least one goes and one stays")


def _choice(num_layers: int, removed: tuple[int, ...], reasons: tuple[str, ...]) -> BlockChoice:
    kept = tuple(block for block in range(num_layers) if block not in removed)
    return BlockChoice(kept, removed, reasons)
