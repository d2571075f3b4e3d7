"""Which FFN channels and KV groups to leave out of every block, and which rows and columns that means. Pure; no torch.

All blocks keep equally many, so the result is an ordinary checkpoint of its family. A KV group is one key-value head
with the query heads that share it.
Source: arXiv:2407.14679 (activation importance of channels and heads).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Groups of 32 to 128 weights share a scale in 4-bit formats, and kernels for int8 and bf16 work in blocks of 32 or 64.
CHANNEL_MULTIPLE = 64

_TENSOR = re.compile(
    r"^(?:.*\.)?layers\.(?P<block>\d+)\.(?P<part>mlp|self_attn)\.(?P<name>\w+)\.(?P<kind>weight|bias)$"
)
_ALONG_ROWS, _ALONG_COLUMNS = 0, 1


def channels_to_keep(num_channels: int, fraction: float, *, multiple: int = CHANNEL_MULTIPLE) -> int:
    """How many channels a share of them is: a multiple of `multiple`, at least one of it, never more than the share.

    Raises: ValueError: there are fewer channels than `multiple`.
    """
    if num_channels < multiple:
        raise ValueError(f"{num_channels} channels are fewer than the {multiple} that kernels take at a time")
    return max(multiple, int(num_channels * fraction) // multiple * multiple)


def most_important(scores: Sequence[float] | NDArray[np.float64], num_kept: int) -> tuple[int, ...]:
    """Indices of the `num_kept` highest scores, ascending; of equal ones the first.

    Raises: ValueError: a score is not a number, or so many are not there.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some importance scores are not finite: the checkpoint holds NaN or infinite weights")
    if not 1 <= num_kept <= len(values):
        raise ValueError(f"{num_kept} of {len(values)} cannot be kept")
    return tuple(int(index) for index in np.sort(np.argsort(-values, kind="stable")[:num_kept]))


@dataclass(frozen=True)
class WidthChoice:
    """What stays in each block: ascending indices, equally many in every one; None where a kind is left alone.

    Args:
        channels: FFN channels by block.
        kv_groups: KV groups by block.
        queries_per_group: Query heads that share one key-value head.
    """

    channels: tuple[tuple[int, ...], ...] | None
    kv_groups: tuple[tuple[int, ...], ...] | None
    queries_per_group: int
    head_dim: int

    def kept_of(self, name: str) -> tuple[int, NDArray[np.int64]] | None:
        """Dimension and indices that stay of the tensor of this name; None when all of it stays."""
        if (found := _TENSOR.match(name)) is None:
            return None
        block, projection, is_bias = int(found["block"]), found["name"], found["kind"] == "bias"
        if found["part"] == "mlp" and self.channels is not None:
            return _kept(self.channels[block], projection, is_bias, rows=("gate_proj", "up_proj"), columns="down_proj")
        if found["part"] == "self_attn" and self.kv_groups is not None:
            per_group = self.head_dim * (self.queries_per_group if projection in {"q_proj", "o_proj"} else 1)
            wide = [np.arange(group * per_group, (group + 1) * per_group) for group in self.kv_groups[block]]
            return _kept(
                np.concatenate(wide), projection, is_bias, rows=("q_proj", "k_proj", "v_proj"), columns="o_proj"
            )
        return None

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The `config.json` of the narrower model."""
        changed = dict(config)
        if self.channels is not None:
            changed["intermediate_size"] = len(self.channels[0])
        if self.kv_groups is not None:
            num_groups = len(self.kv_groups[0])
            changed["num_key_value_heads"] = num_groups
            changed["num_attention_heads"] = num_groups * self.queries_per_group
            changed["head_dim"] = self.head_dim  # no longer hidden size / heads, so it must be said
        return changed


def _kept(
    indices: Sequence[int] | NDArray[np.int64], projection: str, is_bias: bool, *, rows: tuple[str, ...], columns: str
) -> tuple[int, NDArray[np.int64]] | None:
    chosen = np.asarray(indices, dtype=np.int64)
    if projection in rows:
        return _ALONG_ROWS, chosen
    # A bias of the projection back to the residual stream is as wide as the stream, which is not pruned.
    return (_ALONG_COLUMNS, chosen) if projection == columns and not is_bias else None
