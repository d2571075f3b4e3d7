"""The list of accelerators: what vendors state of memory, bandwidth and arithmetic, with where and when it was read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib import resources

import msgspec
import yaml

from lightship.errors import UsageError

_GB, _TERA = 10**9, 1e12
_LEAST_LIKENESS = 0.4
_MAKERS = re.compile(r"^(?:nvidia|amd|geforce|instinct|tesla)-")


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of accelerator, in its vendor's units.

    Args:
        memory_gb: Decimal gigabytes, all of the device's.
        bandwidth_gb_per_s: Decimal gigabytes per second between memory and chip.
        half_tflops: Dense bf16 (fp16 where the chip has no bf16), 10^12 operations per second.
        fp8_tflops: Dense fp8; None where the chip has none, or no figure was found.
        int8_tops: Dense int8; None likewise.
        compute_capability: NVIDIA's number, or AMD's name of the architecture.
        vendor: The vendor's page or data sheet.
        read_at: Where the figures were read; "" where that is the vendor's own page.
        as_of: When.
    """

    id: str
    name: str
    memory_gb: float
    bandwidth_gb_per_s: float
    half_tflops: float
    vendor: str
    as_of: date
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    compute_capability: str = ""
    aliases: tuple[str, ...] = ()
    notes: str = ""
    read_at: str = ""

    @property
    def memory_bytes(self) -> int:
        """Memory of one device, in bytes."""
        return round(self.memory_gb * _GB)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Peak rate of its memory."""
        return self.bandwidth_gb_per_s * _GB

    def flops_per_s(self, arithmetic: str = "half") -> float:
        """Peak operations per second in `half`, `fp8` or `int8`; that of `half` where the other is not stated."""
        stated = {"fp8": self.fp8_tflops, "int8": self.int8_tops}.get(arithmetic)
        return (self.half_tflops if stated is None else stated) * _TERA

    @property
    def origin(self) -> str:
        """Where its figures come from, for a reader."""
        via = f", read at {self.read_at}" if self.read_at else ""
        return f"{self.vendor}{via}, {self.as_of}"


@cache
def load_accelerators() -> tuple[Accelerator, ...]:
    """The list that ships in the package. Effects: reads it."""
    text = (resources.files(__package__) / "accelerators.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), tuple[Accelerator, ...])


def find_accelerator(name: str, accelerators: Sequence[Accelerator]) -> Accelerator:
    """The accelerator that is called so, by id, full name or alias; case, spaces and the maker play no part.

    Raises: UsageError: there is none; it names the nearest.
    """
    wanted = _key(name)
    known = {_key(key): one for one in accelerators for key in (one.id, one.name, *one.aliases)}
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=_LEAST_LIKENESS)
    names = list(dict.fromkeys(known[key].id for key in near))
    known_ids = ", ".join(one.id for one in accelerators)
    hint = f"Nearest: {', '.join(names)}. Known: {known_ids}." if names else f"Known: {known_ids}."
    raise UsageError(f"{name!r} is not in the list of accelerators", where="--gpu", hint=hint)


def _key(name: str) -> str:
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    while (shorter := _MAKERS.sub("", key)) != key:
        key = shorter
    return key
