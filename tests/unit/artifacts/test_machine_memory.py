"""Memory that processes may take: the machine's, or a control group's where that is less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightship.artifacts.machine_memory import usable_memory_bytes

TOTAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, TOTAL),
        ({"memory.max": "max\n"}, TOTAL),
        ({"memory.max": "1048576\n"}, 2**20),
        ({"memory/memory.limit_in_bytes": "2097152"}, 2**21),
        # version 1 says "no limit" by a number no machine has
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, TOTAL),
    ],
)
def test_usable_memory_limit_of_the_control_group_counts_where_it_is_less(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_memory_bytes(tmp_path) == expected
