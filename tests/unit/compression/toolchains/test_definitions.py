from __future__ import annotations

import re

import pytest

from lightship.compression.toolchains.definitions import TOOLCHAINS, Toolchain


@pytest.mark.parametrize("toolchain", TOOLCHAINS.values(), ids=TOOLCHAINS.keys())
def test_lock_every_requirement_is_pinned_exactly(toolchain: Toolchain) -> None:
    assert len(toolchain.requirements) > 20
    assert [r for r in toolchain.requirements if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", r)] == []


@pytest.mark.parametrize("toolchain", TOOLCHAINS.values(), ids=TOOLCHAINS.keys())
def test_lock_names_no_package_twice_and_leaves_torchvision_out(toolchain: Toolchain) -> None:
    names = [requirement.split("==")[0].lower() for requirement in toolchain.requirements]
    assert len(names) == len(set(names))
    assert "torchvision" not in names
    assert "torch" in names


def test_version_of_unknown_package_raises_key_error() -> None:
    with pytest.raises(KeyError):
        TOOLCHAINS["train"].version_of("left-pad")
