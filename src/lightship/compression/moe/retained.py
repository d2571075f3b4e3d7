"""A mixture's tensors with only some of the experts: renumbered, and the router without the rows of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_LAYER = re.compile(r"\blayers\.(\d+)\b")
_EXPERT = re.compile(r"(.*\blayers\.(\d+)\..*\bexperts\.)(\d+)(\..+)")
_ROUTER = re.compile(r".*\blayers\.(\d+)\.(?:mlp|block_sparse_moe)\.gate\.weight")


def layer_of(name: str) -> int:
    """Number of the layer that a module or tensor belongs to. Raises: ValueError: it names none."""
    if (found := _LAYER.search(name)) is None:
        raise ValueError(f"{name!r} names no layer")
    return int(found[1])


def keep_experts(
    names: Iterable[str], read: Callable[[str], Any], retained: Mapping[int, Sequence[int]]
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of what stays.

    Args:
        names: All tensors of the checkpoint.
        read: A tensor by its name; those of experts that go are never read.
        retained: Experts that stay, by layer, in their new order.

    Raises: ValueError: a layer's experts or its router are not stored under names known here, or an expert that should
        stay is missing.
    """
    pending = {(layer, expert) for layer, experts in retained.items() for expert in experts}
    routers = set(retained)
    for name in names:
        if (found := _EXPERT.fullmatch(name)) is not None and int(found[2]) in retained:
            layer, expert = int(found[2]), int(found[3])
            if expert in retained[layer]:
                pending.discard((layer, expert))
                yield f"{found[1]}{retained[layer].index(expert)}{found[4]}", read(name)
        elif (found := _ROUTER.fullmatch(name)) is not None and int(found[1]) in retained:
            routers.discard(int(found[1]))
            yield name, read(name)[list(retained[int(found[1])])]
        else:
            yield name, read(name)
    if pending or routers:
        layer = min(routers | {layer for layer, _ in pending})
        raise ValueError(f"layer {layer} does not store its experts one by one beside a router `gate.weight`")


def with_num_experts(config: Mapping[str, Any], num_experts: int) -> dict[str, Any]:
    """The config for so many experts, under the name that it has for them."""
    keys = [key for key in ("num_local_experts", "num_experts") if key in config]
    return {**config, **dict.fromkeys(keys, num_experts)}
