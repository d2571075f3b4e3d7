from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Large blocks between small ones that stay; the growth of resident memory, in MiB, when the large ones are gone.
SCRIPT = """
import os, sys
from lightship.serving.allocation import return_large_blocks
if sys.argv[1] == "yes":
    return_large_blocks()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

size = 5 * 2**20
first = bytearray(2 * size)  # the one that raises the bound when it is freed
del first
before = resident()
large, small = [], []
for _ in range(20):
    large.append(bytearray(size))
    small.extend(bytes(bytearray(2000)) for _ in range(10))
del large
print(resident() - before)
"""


def growth_mib(is_set: str) -> float:
    command = [sys.executable, "-c", SCRIPT, is_set]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_large_blocks_between_small_ones_that_stay_go_back_to_the_system() -> None:
    assert growth_mib("no") > 50
    assert growth_mib("yes") < 5
