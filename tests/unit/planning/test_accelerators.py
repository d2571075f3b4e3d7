"""The list of accelerators: what it holds, and how a name is found in it."""

from __future__ import annotations

import pytest

from lightship.errors import UsageError
from lightship.planning.accelerators import Accelerator, find_accelerator, load_accelerators


@pytest.mark.parametrize("accelerator", load_accelerators(), ids=lambda one: one.id)
def test_every_entry_names_its_source_and_is_plausible(accelerator: Accelerator) -> None:
    assert accelerator.vendor.startswith("https://")
    assert accelerator.as_of.year >= 2026
    assert 8 <= accelerator.memory_gb <= 1000
    # no chip reads its whole memory in less than 15 ms or more than a tenth of a second
    assert 0.015 < accelerator.memory_gb / accelerator.bandwidth_gb_per_s < 0.1
    # dense 8-bit arithmetic is twice (or, without fp32 accumulation, four times) as fast as 16-bit
    for eight_bit in (accelerator.fp8_tflops, accelerator.int8_tops):
        assert eight_bit is None or 1.9 < eight_bit / accelerator.half_tflops < 4.1


def test_ids_and_aliases_are_unique() -> None:
    names = [name for one in load_accelerators() for name in (one.id, *one.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100-sxm", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),  # what NVML calls it
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("MI300X", "mi300x"),
    ],
)
def test_find_accelerator_by_other_names_finds_it(name: str, found: str) -> None:
    assert find_accelerator(name, load_accelerators()).id == found


def test_find_accelerator_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        find_accelerator("H100-SMX", load_accelerators())
    assert error.value.hint is not None
    assert error.value.hint.startswith("Nearest: h100-sxm")


def test_arithmetic_that_is_not_stated_falls_back_to_half() -> None:
    a100 = find_accelerator("a100-80gb", load_accelerators())
    assert a100.flops_per_s("fp8") == 312e12
    assert a100.flops_per_s("int8") == 624e12
    assert a100.memory_bytes == 80 * 10**9
